"""Cosmos Predict: self- and cross-attention blocks, each part modulated by a low-rank projection of the timestep."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split, attention, feed_forward, projections

_NORMS = ("norm1", "norm2", "norm3")

SPEC = ModelSpec(
    transformer="CosmosTransformer3DModel",
    title="Cosmos",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        **{f"transformer_blocks.*.{norm}.linear_1": "colwise" for norm in _NORMS},
        **{f"transformer_blocks.*.{norm}.linear_2": "rowwise" for norm in _NORMS},
        **attention("transformer_blocks.*.attn1"),
        "transformer_blocks.*.attn2": Heads(("heads", "out_dim")),
        **projections("transformer_blocks.*.attn2"),
        # Only 2.5 attends to pictures.
        "transformer_blocks.*.attn2.q_img?": "colwise",
        "transformer_blocks.*.attn2.k_img?": "colwise",
        "transformer_blocks.*.attn2.v_img?": "colwise",
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
