"""Stable Audio: self- and cross-attention blocks over one stream of a global token and audio."""

from ditmesh.models.plans import self_and_cross
from ditmesh.spec import Blocks, Gather, ModelSpec, Refuse, Split, attention, packed_feed_forward

SPEC = ModelSpec(
    transformer="StableAudioDiTModel",
    title="Stable Audio",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        **attention("transformer_blocks.*.attn1"),
        **attention("transformer_blocks.*.attn2"),
        **packed_feed_forward("transformer_blocks.*.ff"),
    },
    cp_plan={
        "": {
            "rotary_embedding": Split(0, stream="joint"),
            "attention_mask": Refuse("its processor pads the mask to a rank's own tokens. The pipelines pass none."),
        },
        "transformer_blocks.0": {"hidden_states": Split(1, stream="joint")},
        "proj_out": Gather(1, stream="joint"),
    },
    attention=self_and_cross("transformer_blocks.*", "StableAudioAttnProcessor2_0", ("joint",)),
    kv_heads="num_key_value_attention_heads",
)
