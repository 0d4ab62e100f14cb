"""FLUX.3: each of text, image and reference images has blocks of its own, then all share joint blocks."""

from ditmesh.models.plans import tokens_and_positions
from ditmesh.spec import Attention, Blocks, ModelSpec, Split, attention, packed_feed_forward

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
        **packed_feed_forward("txt_mode_blocks.*.ff", "linear_in", "linear_out"),
        **attention("mode_blocks.*.*.attn"),
        **packed_feed_forward("mode_blocks.*.*.ff", "linear_in", "linear_out"),
        **attention("single_transformer_blocks.*.attn"),
        **packed_feed_forward("single_transformer_blocks.*.ff", "linear_in", "linear_out"),
    },
    cp_plan=tokens_and_positions(
        image_cond_hidden_states=Split(1, stream="reference"), image_cond_ids=Split(-2, stream="reference")
    ),
    attention={
        "txt_mode_blocks.*.attn": Attention("Flux3AttnProcessor", ("text",)),
        "mode_blocks.image.*.attn": Attention("Flux3AttnProcessor", ("image",)),
        "mode_blocks.image_cond.*.attn": Attention("Flux3AttnProcessor", ("reference",)),
        "single_transformer_blocks.*.attn": Attention("Flux3AttnProcessor", ("text", "image", "reference?")),
    },
    # tokenwise it is not: the image's own blocks run before the chain begins, and mix its tokens.
)
