"""AnyFlow: the blocks of Wan, with a timestep a frame that the model spreads over its tokens."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="AnyFlowTransformer3DModel",
    title="AnyFlow",
    blocks=(Blocks("blocks"),),
    tp_plan={
        "blocks.*.attn1": "heads",
        "blocks.*.attn1.to_q": "colwise",
        "blocks.*.attn1.to_k": "colwise",
        "blocks.*.attn1.to_v": "colwise",
        "blocks.*.attn1.norm_q": "norm_across_heads",
        "blocks.*.attn1.norm_k": "norm_across_heads",
        "blocks.*.attn1.to_out.0": "rowwise",
        "blocks.*.attn2": "heads",
        "blocks.*.attn2.to_q": "colwise",
        "blocks.*.attn2.to_k": "colwise",
        "blocks.*.attn2.to_v": "colwise",
        "blocks.*.attn2.norm_q": "norm_across_heads",
        "blocks.*.attn2.norm_k": "norm_across_heads",
        "blocks.*.attn2.to_out.0": "rowwise",
        "blocks.*.ffn.net.0.proj": "colwise",
        "blocks.*.ffn.net.2": "rowwise",
    },
    cp_plan={
        "condition_embedder": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "blocks.*": {"rotary_emb": Split(2)},
        "proj_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("AnyFlowAttnProcessor", ("image",)),
        "blocks.*.attn2": Attention("AnyFlowCrossAttnProcessor"),
    },
)
