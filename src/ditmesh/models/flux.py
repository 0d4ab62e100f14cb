"""FLUX.1: double-stream blocks, then single-stream blocks that fuse attention and MLP."""

from ditmesh.models.plans import OF_THE_FIRST_SAMPLE, double_then_single, joint_in_both, tokens_and_positions
from ditmesh.spec import Blocks, ModelSpec, Split

_RETURNS, _BETWEEN = ("encoder_hidden_states", "hidden_states"), "ControlNet residuals"

SPEC = ModelSpec(
    transformer="FluxTransformer2DModel",
    title="FLUX.1",
    blocks=(
        Blocks("transformer_blocks", returns=_RETURNS, between=_BETWEEN),
        Blocks("single_transformer_blocks", returns=_RETURNS, between=_BETWEEN),
    ),
    # Its attention works its number of heads out of the projections.
    tp_plan={name: style for name, style in double_then_single().items() if style != "heads"},
    cp_plan=tokens_and_positions(controlnet_block_samples=Split(1), controlnet_single_block_samples=Split(1)),
    attention=joint_in_both("FluxAttnProcessor", ("text", "image")),
    tokenwise="hidden_states",
    batch_dims=OF_THE_FIRST_SAMPLE,
)
