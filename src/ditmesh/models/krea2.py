"""Krea 2: one stream of text and image with gated attention; the text fused from many layers of its encoder."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split, linears, projections

SPEC = ModelSpec(
    transformer="Krea2Transformer2DModel",
    title="Krea 2",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "time_mod_proj": "colwise_gather_output",
        "transformer_blocks.*.attn": Heads(("num_heads", "num_kv_heads")),
        **projections("transformer_blocks.*.attn"),
        "transformer_blocks.*.attn.to_gate": "colwise",
        **linears("transformer_blocks.*.ff", "gate up", "down"),
    },
    cp_plan={
        "rotary_emb": {0: Split(0, stream="joint"), 1: Split(0, stream="joint")},
        "transformer_blocks.0": {"hidden_states": Split(1, stream="joint")},
        # The transformer takes the image out of the stream before its last layer.
        "transformer_blocks.-1": Gather(1, stream="joint"),
    },
    attention={
        "text_fusion.layerwise_blocks.*.attn?": Attention("Krea2AttnProcessor"),
        "text_fusion.refiner_blocks.*.attn?": Attention("Krea2AttnProcessor"),
        "transformer_blocks.*.attn": Attention("Krea2AttnProcessor", ("joint",)),
    },
    kv_heads="num_key_value_heads",
    # tokenwise it is not: text and image are one stream, so that a patch of it is no patch of the latents.
)
