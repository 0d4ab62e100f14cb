"""LongCat-Image: double- and single-stream blocks like FLUX.1."""

from ditmesh.models.plans import double_then_single, tokens_and_positions
from ditmesh.spec import Attention, Blocks, ModelSpec

SPEC = ModelSpec(
    transformer="LongCatImageTransformer2DModel",
    title="LongCat-Image",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
        Blocks("single_transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
    ),
    tp_plan=double_then_single(),
    cp_plan=tokens_and_positions(),
    attention={
        "transformer_blocks.*.attn": Attention("LongCatImageAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("LongCatImageAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
)
