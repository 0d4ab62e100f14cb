"""Helios: the blocks of Wan over one sequence of history and video, of which only the video attends to the text."""

from dataclasses import replace

from ditmesh.models.plans import self_and_cross
from ditmesh.models.wan import SPEC as WAN
from ditmesh.spec import Count, Gather, Split

_STREAMS = ("history", "image")

SPEC = replace(
    WAN,  # the linears for image embeddings are never called, but there if configured
    transformer="HeliosTransformer3DModel",
    title="Helios",
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
    attention=self_and_cross("blocks.*", "HeliosAttnProcessor", _STREAMS),
)
