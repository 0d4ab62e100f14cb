"""Stable Diffusion 3 and 3.5: double-stream blocks, the last without text output; some attend to the image twice."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward, linears

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
        **attention("transformer_blocks.*.attn"),
        **linears("transformer_blocks.*.attn", "add_q_proj add_k_proj add_v_proj", "to_add_out?"),
        # 3.5 medium attends to the image alone a second time.
        **attention("transformer_blocks.*.attn2", "?"),
        **feed_forward("transformer_blocks.*.ff"),
        **feed_forward("transformer_blocks.*.ff_context", "?"),
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
    batch_dims={"skip_layers": None},
)
