"""Ideogram 4: one packed stream of text and image, whose samples a segment mask keeps apart."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split, gated_feed_forward, projections

SPEC = ModelSpec(
    transformer="Ideogram4Transformer2DModel",
    title="Ideogram 4",
    blocks=(Blocks("layers"),),
    tp_plan={
        "layers.*.adaln_modulation": "colwise_gather_output",
        "layers.*.attention": Heads(("num_heads",)),
        **projections("layers.*.attention"),
        **gated_feed_forward("layers.*.feed_forward"),
    },
    cp_plan={
        # segment_ids stay whole: the transformer makes its mask of them.
        "": {
            "hidden_states": Split(1, stream="joint"),
            "timestep": Split(1, stream="joint", ndim=2),  # one a sample, or one a token
            "encoder_hidden_states": Split(1, stream="joint"),
            "position_ids": Split(1, stream="joint"),
            "indicator": Split(1, stream="joint"),
        },
        "final_layer": Gather(1, stream="joint"),
    },
    attention={"layers.*.attention": Attention("Ideogram4AttnProcessor", ("joint",))},
    tokenwise="hidden_states",
)
