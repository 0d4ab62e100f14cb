"""HunyuanImage-2.1: double- then single-stream blocks; the valid text of two encoders comes first."""

from dataclasses import replace

from ditmesh.models.hunyuan_video import SPEC as HUNYUAN_VIDEO
from ditmesh.models.plans import IMAGE_AND_TEXT, joint_in_both
from ditmesh.spec import Attention, Gather, Split

SPEC = replace(
    HUNYUAN_VIDEO,
    transformer="HunyuanImageTransformer2DModel",
    title="HunyuanImage",
    cp_plan={
        # The transformer works out masks from whole lengths, so the streams are cut where the blocks begin.
        "transformer_blocks.0": IMAGE_AND_TEXT,
        "rope": {0: Split(0), 1: Split(0)},
        "proj_out": Gather(1),
    },
    attention={
        "context_embedder.token_refiner.refiner_blocks.*.attn": Attention("AttnProcessor2_0"),
        **joint_in_both("HunyuanImageAttnProcessor", ("image", "text")),
    },
)
