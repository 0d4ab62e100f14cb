"""Helios: the blocks of Wan over one sequence of history and video, of which only the video attends to the text."""

from ditmesh.spec import Attention, Blocks, Count, Gather, ModelSpec, Split, attention, feed_forward

_STREAMS = ("history", "image")

SPEC = ModelSpec(
    transformer="HeliosTransformer3DModel",
    title="Helios",
    blocks=(Blocks("blocks"),),
    tp_plan={
        **attention("blocks.*.attn1", norms="norm_across_heads"),
        **attention("blocks.*.attn2", norms="norm_across_heads"),
        # Never called, but there if configured.
        "blocks.*.attn2.add_k_proj?": "colwise",
        "blocks.*.attn2.add_v_proj?": "colwise",
        "blocks.*.attn2.norm_added_k?": "norm_across_heads",
        **feed_forward("blocks.*.ffn"),
    },
    cp_plan={
        "blocks.*": {
            "original_context_length": Count(),
            "temb": Split(1, stream=_STREAMS, ndim=4),  # a timestep a token, [B, S, 6, C]
            "rotary_emb": Split(1, stream=_STREAMS),
        },
        "blocks.0": {"hidden_states": Split(1, stream=_STREAMS)},
        "norm_out": {"original_context_length": Count(), "temb": Split(1, stream=_STREAMS)},
        "proj_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("HeliosAttnProcessor", _STREAMS),
        "blocks.*.attn2": Attention("HeliosAttnProcessor"),
    },
)
