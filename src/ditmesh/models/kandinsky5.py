"""Kandinsky 5: text blocks that every rank runs whole, then video blocks with cross-attention to the text."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split, Style, linears


def _attention(path: str) -> dict[str, Style]:
    return {path: Heads(("num_heads",)), **linears(path, "to_query to_key to_value", "out_layer")}


SPEC = ModelSpec(
    transformer="Kandinsky5Transformer3DModel",
    title="Kandinsky 5",
    blocks=(
        Blocks("text_transformer_blocks", returns=("x",), apart="it refines the text that all other blocks read"),
        Blocks("visual_transformer_blocks", returns=("visual_embed",)),
    ),
    tp_plan={
        **_attention("text_transformer_blocks.*.self_attention"),
        **_attention("visual_transformer_blocks.*.self_attention"),
        **_attention("visual_transformer_blocks.*.cross_attention"),
        "text_transformer_blocks.*.text_modulation.out_layer": "colwise_gather_output",
        **linears("text_transformer_blocks.*.feed_forward", "in_layer", "out_layer"),
        "visual_transformer_blocks.*.visual_modulation.out_layer": "colwise_gather_output",
        **linears("visual_transformer_blocks.*.feed_forward", "in_layer", "out_layer"),
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
