"""Cosmos Predict: self- and cross-attention blocks, each part modulated by a low-rank projection of the timestep."""

from ditmesh.spec import (
    Attention,
    Blocks,
    Gather,
    Heads,
    ModelSpec,
    Split,
    attention,
    feed_forward,
    linears,
    projections,
)

SPEC = ModelSpec(
    transformer="CosmosTransformer3DModel",
    title="Cosmos",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        **linears("transformer_blocks.*", "norm1.linear_1 norm2.linear_1 norm3.linear_1"),
        **linears("transformer_blocks.*", "", "norm1.linear_2 norm2.linear_2 norm3.linear_2"),
        **attention("transformer_blocks.*.attn1"),
        "transformer_blocks.*.attn2": Heads(("heads", "out_dim")),
        **projections("transformer_blocks.*.attn2"),
        # Only 2.5 attends to pictures.
        **linears("transformer_blocks.*.attn2", "q_img? k_img? v_img?"),
        **feed_forward("transformer_blocks.*.ff"),
    },
    cp_plan={
        "rope": {0: Split(0), 1: Split(0)},
        "transformer_blocks.0": {"hidden_states": Split(1)},
        "transformer_blocks.*": {
            # Video-to-world has a timestep a frame, spread over its tokens.
            "embedded_timestep": Split(1, ndim=3),
            "temb": Split(1, ndim=3),
            "extra_pos_emb": Split(1),
            "controlnet_residual": Split(1),
        },
        "norm_out": {"embedded_timestep": Split(1, ndim=3), "temb": Split(1, ndim=3)},
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn1": Attention("CosmosAttnProcessor2_0", ("image",)),
        "transformer_blocks.*.attn2": Attention(("CosmosAttnProcessor2_0", "CosmosAttnProcessor2_5")),
    },
)
