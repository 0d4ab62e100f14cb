"""AnyFlow: the blocks of Wan, with a timestep a frame that the model spreads over its tokens."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="AnyFlowTransformer3DModel",
    title="AnyFlow",
    blocks=(Blocks("blocks"),),
    tp_plan={
        **attention("blocks.*.attn1", norms="norm_across_heads"),
        **attention("blocks.*.attn2", norms="norm_across_heads"),
        **feed_forward("blocks.*.ffn"),
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
