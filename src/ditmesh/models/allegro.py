"""Allegro: self-attention with positions that index RoPE tables, and cross-attention to text with a padding mask."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="AllegroTransformer3DModel",
    title="Allegro",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "transformer_blocks.*.attn1": "heads",
        "transformer_blocks.*.attn1.to_q": "colwise",
        "transformer_blocks.*.attn1.to_k": "colwise",
        "transformer_blocks.*.attn1.to_v": "colwise",
        "transformer_blocks.*.attn1.to_out.0": "rowwise",
        "transformer_blocks.*.attn2": "heads",
        "transformer_blocks.*.attn2.to_q": "colwise",
        "transformer_blocks.*.attn2.to_k": "colwise",
        "transformer_blocks.*.attn2.to_v": "colwise",
        "transformer_blocks.*.attn2.to_out.0": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
    },
    cp_plan={
        "": {"image_rotary_emb.1": Split(1)},  # (tables, positions)
        "transformer_blocks.0": {"hidden_states": Split(1)},
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn1": Attention("AllegroAttnProcessor2_0", ("image",)),
        "transformer_blocks.*.attn2": Attention("AllegroAttnProcessor2_0"),
    },
)
