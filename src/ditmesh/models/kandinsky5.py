"""Kandinsky 5: text blocks that every rank runs whole, then video blocks with cross-attention to the text."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split

_ATTENTIONS = (
    "text_transformer_blocks.*.self_attention",
    "visual_transformer_blocks.*.self_attention",
    "visual_transformer_blocks.*.cross_attention",
)
_STYLES = {
    "": Heads(("num_heads",)),
    ".to_query": "colwise",
    ".to_key": "colwise",
    ".to_value": "colwise",
    ".out_layer": "rowwise",
}

SPEC = ModelSpec(
    transformer="Kandinsky5Transformer3DModel",
    title="Kandinsky 5",
    blocks=(
        Blocks("text_transformer_blocks", returns=("x",), apart="it refines the text that all other blocks read"),
        Blocks("visual_transformer_blocks", returns=("visual_embed",)),
    ),
    tp_plan={
        **{f"{name}{part}": style for name in _ATTENTIONS for part, style in _STYLES.items()},
        "text_transformer_blocks.*.text_modulation.out_layer": "colwise_gather_output",
        "text_transformer_blocks.*.feed_forward.in_layer": "colwise",
        "text_transformer_blocks.*.feed_forward.out_layer": "rowwise",
        "visual_transformer_blocks.*.visual_modulation.out_layer": "colwise_gather_output",
        "visual_transformer_blocks.*.feed_forward.in_layer": "colwise",
        "visual_transformer_blocks.*.feed_forward.out_layer": "rowwise",
    },
    cp_plan={
        # The transformer folds the video to frames, rows and columns again right after its last block.
        "visual_transformer_blocks.0": {"visual_embed": Split(1)},
        "visual_transformer_blocks.*": {"rope": Split(1)},
        "visual_transformer_blocks.-1": Gather(1),
    },
    attention={
        "text_transformer_blocks.*.self_attention": Attention("Kandinsky5AttnProcessor"),
        "visual_transformer_blocks.*.self_attention": Attention("Kandinsky5AttnProcessor", ("image",)),
        "visual_transformer_blocks.*.cross_attention": Attention("Kandinsky5AttnProcessor"),
    },
    heads=lambda config: config["model_dim"] // sum(config["axes_dims"]),
    head_dim=lambda config: sum(config["axes_dims"]),
)
