"""Wan Animate: the blocks of Wan, with face adapters between them in which a frame attends to its own face."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="WanAnimateTransformer3DModel",
    title="Wan Animate",
    blocks=(Blocks("blocks", between="attention to the face is added"),),
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
        "face_adapter.*": "heads",
        "face_adapter.*.to_q": "colwise",
        "face_adapter.*.to_k": "colwise",
        "face_adapter.*.to_v": "colwise",
        "face_adapter.*.to_out": "rowwise",
    },
    cp_plan={
        "rope": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        # A face adapter attends frame by frame, and the shards do not end where frames do.
        "face_adapter.*": {"hidden_states": Gather(1), 0: Split(1)},
        "proj_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("WanAttnProcessor", ("image",)),
        "blocks.*.attn2": Attention("WanAttnProcessor"),
        "face_adapter.*": Attention("WanAnimateFaceBlockAttnProcessor"),
    },
)
