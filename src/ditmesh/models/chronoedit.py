"""ChronoEdit: the blocks of Wan, with the positions of a video that holds a picture and its edit."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="ChronoEditTransformer3DModel",
    title="ChronoEdit",
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
        # Only image-to-video models attend to image embeddings.
        "blocks.*.attn2.add_k_proj?": "colwise",
        "blocks.*.attn2.add_v_proj?": "colwise",
        "blocks.*.attn2.norm_added_k?": "norm_across_heads",
        "blocks.*.ffn.net.0.proj": "colwise",
        "blocks.*.ffn.net.2": "rowwise",
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
