"""Bria FIBO: FLUX.1 blocks that take half of the text from another layer of the text encoder each."""

from ditmesh.models.plans import OF_THE_FIRST_SAMPLE, double_then_single, tokens_and_positions
from ditmesh.spec import Attention, Blocks, ModelSpec, Split

_TEXT = "half of the text's channels are replaced by those of the next layer of the text encoder"

SPEC = ModelSpec(
    transformer="BriaFiboTransformer2DModel",
    title="Bria FIBO",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between=_TEXT),
        Blocks("single_transformer_blocks", between=_TEXT),
    ),
    tp_plan=double_then_single(),
    cp_plan=tokens_and_positions(text_encoder_layers=Split(1, stream="text")),
    attention={
        "transformer_blocks.*.attn": Attention("BriaFiboAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("BriaAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
    batch_dims=OF_THE_FIRST_SAMPLE,
)
