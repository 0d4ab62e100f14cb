"""FLUX.3: each of text, image and reference images has blocks of its own, then all share joint blocks."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split, attention

SPEC = ModelSpec(
    transformer="Flux3Transformer2DModel",
    title="FLUX.3",
    blocks=(
        Blocks("txt_mode_blocks", apart="it sees the text alone"),
        Blocks("mode_blocks.image", apart="it sees the image alone"),
        Blocks("mode_blocks.image_cond", apart="it sees the reference images alone"),
        Blocks("single_transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
    ),
    tp_plan={
        **attention("txt_mode_blocks.*.attn"),
        "txt_mode_blocks.*.ff.linear_in": Fused("colwise", ("rest", "rest")),  # [gate | value]
        "txt_mode_blocks.*.ff.linear_out": "rowwise",
        **attention("mode_blocks.*.*.attn"),
        "mode_blocks.*.*.ff.linear_in": Fused("colwise", ("rest", "rest")),
        "mode_blocks.*.*.ff.linear_out": "rowwise",
        **attention("single_transformer_blocks.*.attn"),
        "single_transformer_blocks.*.ff.linear_in": Fused("colwise", ("rest", "rest")),
        "single_transformer_blocks.*.ff.linear_out": "rowwise",
    },
    cp_plan={
        "": {
            "hidden_states": Split(1),
            "encoder_hidden_states": Split(1, stream="text"),
            "image_cond_hidden_states": Split(1, stream="reference"),
            "img_ids": Split(-2),
            "txt_ids": Split(-2, stream="text"),
            "image_cond_ids": Split(-2, stream="reference"),
        },
        "proj_out": Gather(1),
    },
    attention={
        "txt_mode_blocks.*.attn": Attention("Flux3AttnProcessor", ("text",)),
        "mode_blocks.image.*.attn": Attention("Flux3AttnProcessor", ("image",)),
        "mode_blocks.image_cond.*.attn": Attention("Flux3AttnProcessor", ("reference",)),
        "single_transformer_blocks.*.attn": Attention("Flux3AttnProcessor", ("text", "image", "reference?")),
    },
    # tokenwise it is not: the image's own blocks run before the chain begins, and mix its tokens.
)
