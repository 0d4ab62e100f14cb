"""Qwen-Image 2.1: text and images given before the image in one causal sequence, whose part before every rank holds."""

import math

from ditmesh.spec import Attention, Blocks, Gather, Length, ModelSpec, Split, linears, projections

_STREAMS = ("", "image")  # the text and images given attend to what is before them only, and are cached after a step

SPEC = ModelSpec(
    transformer="QwenImage21Transformer2DModel",
    title="Qwen-Image 2.1",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "modulation.1": "colwise_gather_output",
        **projections("transformer_blocks.*.attn"),
        **linears("transformer_blocks.*.img_mlp", "proj gate_layer", "out"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {"img_shapes": Length("image", lambda shapes: math.prod(shapes[0][-1]))},
        "transformer_blocks.0": {"hidden_states": Split(1, stream=_STREAMS)},
        "transformer_blocks.*": {
            "rotary_emb": Split(0, stream=_STREAMS),
            "target_token_mask": Split(0, stream=_STREAMS),
        },
        "norm_out": {"target_token_mask": Split(0, stream=_STREAMS)},
        "proj_out": Gather(1, stream=_STREAMS),
    },
    attention={
        "transformer_blocks.*.attn": Attention(
            "QwenImage21AttnProcessor", ("image",), keys=_STREAMS, names_backend=True
        ),
    },
    batch_dims=dict.fromkeys(("img_mask", "img_shapes")),  # those of the first sample hold for all
)
