"""Allegro: self-attention with positions that index RoPE tables, and cross-attention to text with a padding mask."""

from ditmesh.models.plans import self_and_cross
from ditmesh.spec import Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="AllegroTransformer3DModel",
    title="Allegro",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        **attention("transformer_blocks.*.attn1"),
        **attention("transformer_blocks.*.attn2"),
        **feed_forward("transformer_blocks.*.ff"),
    },
    cp_plan={
        "": {"image_rotary_emb.1": Split(1)},  # (tables, positions)
        "transformer_blocks.0": {"hidden_states": Split(1, least=2)},  # a block squeezes one token away
        "proj_out": Gather(1),
    },
    attention=self_and_cross("transformer_blocks.*", "AllegroAttnProcessor2_0"),
    batch_dims={"image_rotary_emb": None},
)
