"""FLUX.1: double-stream blocks, then single-stream blocks that fuse attention and MLP."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="FluxTransformer2DModel",
    title="FLUX.1",
    blocks=(
        Blocks(
            "transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between="ControlNet residuals"
        ),
        Blocks(
            "single_transformer_blocks",
            returns=("encoder_hidden_states", "hidden_states"),
            between="ControlNet residuals",
        ),
    ),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear": "colwise_gather_output",
        "transformer_blocks.*.attn.to_q": "colwise",
        "transformer_blocks.*.attn.to_k": "colwise",
        "transformer_blocks.*.attn.to_v": "colwise",
        "transformer_blocks.*.attn.to_out.0": "rowwise",
        "transformer_blocks.*.attn.add_q_proj": "colwise",
        "transformer_blocks.*.attn.add_k_proj": "colwise",
        "transformer_blocks.*.attn.add_v_proj": "colwise",
        "transformer_blocks.*.attn.to_add_out": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
        "transformer_blocks.*.ff_context.net.0.proj": "colwise",
        "transformer_blocks.*.ff_context.net.2": "rowwise",
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn.to_q": "colwise",
        "single_transformer_blocks.*.attn.to_k": "colwise",
        "single_transformer_blocks.*.attn.to_v": "colwise",
        "single_transformer_blocks.*.proj_mlp": "colwise",
        "single_transformer_blocks.*.proj_out": Fused("rowwise", ("heads", "rest")),  # [attention | MLP]
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {
            "hidden_states": Split(1),
            "encoder_hidden_states": Split(1, stream="text"),
            "img_ids": Split(-2),
            "txt_ids": Split(-2, stream="text"),
            "controlnet_block_samples": Split(1),
            "controlnet_single_block_samples": Split(1),
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("FluxAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("FluxAttnProcessor", ("text", "image")),
    },
)
