"""Stable Diffusion 3 and 3.5: double-stream blocks, the last without text output; some attend to the image twice."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="SD3Transformer2DModel",
    title="Stable Diffusion 3",
    blocks=(
        Blocks(
            "transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between="ControlNet residuals"
        ),
    ),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear": "colwise_gather_output",
        "transformer_blocks.*.attn": "heads",
        "transformer_blocks.*.attn.to_q": "colwise",
        "transformer_blocks.*.attn.to_k": "colwise",
        "transformer_blocks.*.attn.to_v": "colwise",
        "transformer_blocks.*.attn.to_out.0": "rowwise",
        "transformer_blocks.*.attn.add_q_proj": "colwise",
        "transformer_blocks.*.attn.add_k_proj": "colwise",
        "transformer_blocks.*.attn.add_v_proj": "colwise",
        "transformer_blocks.*.attn.to_add_out?": "rowwise",
        # 3.5 medium attends to the image alone a second time.
        "transformer_blocks.*.attn2?": "heads",
        "transformer_blocks.*.attn2.to_q?": "colwise",
        "transformer_blocks.*.attn2.to_k?": "colwise",
        "transformer_blocks.*.attn2.to_v?": "colwise",
        "transformer_blocks.*.attn2.to_out.0?": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
        "transformer_blocks.*.ff_context.net.0.proj?": "colwise",
        "transformer_blocks.*.ff_context.net.2?": "rowwise",
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {"block_controlnet_hidden_states": Split(1)},
        "pos_embed": {0: Split(1)},
        "context_embedder": {0: Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("JointAttnProcessor2_0", ("image", "text")),
        "transformer_blocks.*.attn2?": Attention("JointAttnProcessor2_0", ("image",)),
    },
)
