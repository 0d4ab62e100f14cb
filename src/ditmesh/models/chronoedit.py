"""ChronoEdit: the blocks of Wan, with the positions of a video that holds a picture and its edit."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="ChronoEditTransformer3DModel",
    title="ChronoEdit",
    blocks=(Blocks("blocks"),),
    tp_plan={
        **attention("blocks.*.attn1", norms="norm_across_heads"),
        **attention("blocks.*.attn2", norms="norm_across_heads"),
        # Only image-to-video models attend to image embeddings.
        "blocks.*.attn2.add_k_proj?": "colwise",
        "blocks.*.attn2.add_v_proj?": "colwise",
        "blocks.*.attn2.norm_added_k?": "norm_across_heads",
        **feed_forward("blocks.*.ffn"),
    },
    cp_plan={
        "": {"timestep": Split(1, ndim=2)},
        "rope": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "proj_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("WanAttnProcessor", ("image",)),
        "blocks.*.attn2": Attention("WanAttnProcessor"),
    },
)
