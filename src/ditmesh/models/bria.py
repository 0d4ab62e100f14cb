"""Bria 3.2: double- and single-stream blocks like FLUX.1, without pooled text."""

from ditmesh.models.plans import OF_THE_FIRST_SAMPLE, double_then_single, joint_in_both, tokens_and_positions
from ditmesh.spec import Blocks, ModelSpec, Split

_RETURNS = ("encoder_hidden_states", "hidden_states")

SPEC = ModelSpec(
    transformer="BriaTransformer2DModel",
    title="Bria",
    blocks=(
        Blocks("transformer_blocks", returns=_RETURNS, between="ControlNet residuals"),
        Blocks("single_transformer_blocks", returns=_RETURNS),
    ),
    tp_plan=double_then_single(),
    cp_plan=tokens_and_positions(controlnet_block_samples=Split(1)),
    attention=joint_in_both("BriaAttnProcessor", ("text", "image")),
    tokenwise="hidden_states",
    batch_dims=OF_THE_FIRST_SAMPLE,
)
