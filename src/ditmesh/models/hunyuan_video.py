"""HunyuanVideo: double- then single-stream blocks; image-to-video may hold the first frame at timestep zero."""

from ditmesh.models.plans import IMAGE_AND_TEXT, double_then_single, joint_in_both
from ditmesh.spec import Attention, Blocks, Count, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="HunyuanVideoTransformer3DModel",
    title="HunyuanVideo",
    blocks=(
        Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
        Blocks("single_transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
    ),
    tp_plan=double_then_single(),
    cp_plan={
        # The transformer works out masks from whole lengths, so the streams are cut where the blocks begin.
        "transformer_blocks.0": IMAGE_AND_TEXT,
        # The first tokens, those of the first frame, are modulated otherwise.
        "transformer_blocks.*": {"num_tokens?": Count()},
        "single_transformer_blocks.*": {"num_tokens?": Count()},
        "rope": {0: Split(0), 1: Split(0)},
        "proj_out": Gather(1),
    },
    attention={
        "context_embedder.token_refiner.refiner_blocks.*.attn": Attention("AttnProcessor2_0"),
        **joint_in_both("HunyuanVideoAttnProcessor2_0", ("image", "text")),
    },
)
