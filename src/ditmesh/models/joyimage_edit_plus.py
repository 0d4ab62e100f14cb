"""JoyImage-Edit-Plus: JoyImage-Edit for images of any size, padded to one sequence length."""

from dataclasses import replace

from ditmesh.models.joyimage import SPEC as JOYIMAGE
from ditmesh.spec import Attention, Split

SPEC = replace(
    JOYIMAGE,
    transformer="JoyImageEditPlusTransformer3DModel",
    title="JoyImage-Edit-Plus",
    cp_plan={**JOYIMAGE.cp_plan, "double_blocks.*": {"image_rotary_emb": Split(1)}},
    attention={"double_blocks.*.attn": Attention("JoyImageEditPlusAttnProcessor", ("image", "text"))},
)
