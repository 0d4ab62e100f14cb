"""LongCat-Image: double- and single-stream blocks like FLUX.1."""

from ditmesh.models.plans import double_then_single, joint_in_both, tokens_and_positions
from ditmesh.spec import Blocks, ModelSpec

SPEC = ModelSpec(
    transformer="LongCatImageTransformer2DModel",
    title="LongCat-Image",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
        Blocks("single_transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
    ),
    tp_plan=double_then_single(),
    cp_plan=tokens_and_positions(),
    attention=joint_in_both("LongCatImageAttnProcessor", ("text", "image")),
    tokenwise="hidden_states",
)
