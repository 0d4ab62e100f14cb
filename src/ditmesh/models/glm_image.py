"""GLM-Image: text and image share all weights of a block but the modulation."""

from dataclasses import replace

from ditmesh.models.cogview3plus import SPEC as COGVIEW3PLUS
from ditmesh.spec import Attention, Split

SPEC = replace(
    COGVIEW3PLUS,
    transformer="GlmImageTransformer2DModel",
    title="GLM-Image",
    cp_plan={
        **COGVIEW3PLUS.cp_plan,
        "transformer_blocks.*": {"image_rotary_emb": Split(0), "attention_mask": Split(1, stream="text", mask=True)},
    },
    attention={"transformer_blocks.*.attn1": Attention("GlmImageAttnProcessor", ("text", "image"))},
    memories={"kv_caches": lambda caches: caches[0].mode == "write"},  # once, with the pictures to edit
)
