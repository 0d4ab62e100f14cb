"""LTX-Video: self-attention whose RoPE tables run over all heads, and cross-attention to text with a padding mask."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, PerHead, Split

SPEC = ModelSpec(
    transformer="LTXVideoTransformer3DModel",
    title="LTX-Video",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "rope": PerHead({3: -1}),
        "transformer_blocks.*.attn1": "heads",
        "transformer_blocks.*.attn1.to_q": "colwise",
        "transformer_blocks.*.attn1.to_k": "colwise",
        "transformer_blocks.*.attn1.to_v": "colwise",
        "transformer_blocks.*.attn1.norm_q": "norm_across_heads",
        "transformer_blocks.*.attn1.norm_k": "norm_across_heads",
        "transformer_blocks.*.attn1.to_out.0": "rowwise",
        "transformer_blocks.*.attn2": "heads",
        "transformer_blocks.*.attn2.to_q": "colwise",
        "transformer_blocks.*.attn2.to_k": "colwise",
        "transformer_blocks.*.attn2.to_v": "colwise",
        "transformer_blocks.*.attn2.norm_q": "norm_across_heads",
        "transformer_blocks.*.attn2.norm_k": "norm_across_heads",
        "transformer_blocks.*.attn2.to_out.0": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
    },
    cp_plan={
        # Image-to-video has a timestep a token; the text stays whole, every token attends to all of it.
        "": {"hidden_states": Split(1), "timestep": Split(1, ndim=2)},
        "rope": {0: Split(1), 1: Split(1)},
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn1": Attention("LTXVideoAttnProcessor", ("image",)),
        "transformer_blocks.*.attn2": Attention("LTXVideoAttnProcessor"),
    },
)
