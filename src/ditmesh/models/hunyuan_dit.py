"""HunyuanDiT: self- and cross-attention blocks, the second half of which takes a skip from the first."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="HunyuanDiT2DModel",
    title="HunyuanDiT",
    blocks=(Blocks("blocks", reaches_back=True),),
    tp_plan={
        "blocks.*.skip_linear?": "colwise_gather_output",
        "blocks.*.norm1.linear": "colwise_gather_output",
        "blocks.*.attn1": "heads",
        "blocks.*.attn1.to_q": "colwise",
        "blocks.*.attn1.to_k": "colwise",
        "blocks.*.attn1.to_v": "colwise",
        "blocks.*.attn1.to_out.0": "rowwise",
        "blocks.*.attn2": "heads",
        "blocks.*.attn2.to_q": "colwise",
        "blocks.*.attn2.to_k": "colwise",
        "blocks.*.attn2.to_v": "colwise",
        "blocks.*.attn2.to_out.0": "rowwise",
        "blocks.*.ff.net.0.proj": "colwise",
        "blocks.*.ff.net.2": "rowwise",
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {"image_rotary_emb": Split(0), "controlnet_block_samples": Split(1)},
        "pos_embed": {0: Split(1)},
        "proj_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("HunyuanAttnProcessor2_0", ("image",)),
        "blocks.*.attn2": Attention("HunyuanAttnProcessor2_0"),
    },
    covers={"activation_fn": ("gelu-approximate", "gelu")},  # gated ones pack two parts into one projection
)
