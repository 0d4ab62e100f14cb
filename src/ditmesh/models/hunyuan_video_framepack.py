"""FramePack: HunyuanVideo with the frames made so far before the new ones in one sequence."""

from dataclasses import replace

from ditmesh.models.hunyuan_video import SPEC as HUNYUAN_VIDEO
from ditmesh.models.plans import IMAGE_AND_TEXT
from ditmesh.spec import Gather, Split

_FRAMES = ("latents", "latents_clean", "latents_history_2x", "latents_history_4x")

SPEC = replace(
    HUNYUAN_VIDEO,
    transformer="HunyuanVideoFramepackTransformer3DModel",
    title="FramePack",
    cp_plan={
        "transformer_blocks.0": IMAGE_AND_TEXT,
        "transformer_blocks.*": {"freqs_cis": Split(0)},
        "single_transformer_blocks.*": {"image_rotary_emb": Split(0)},
        # The new frames are the end of the whole sequence, which is taken after the last block.
        "single_transformer_blocks.-1": {0: Gather(1)},
    },
    batch_dims=dict.fromkeys(f"indices_{frames}" for frames in _FRAMES),
)
