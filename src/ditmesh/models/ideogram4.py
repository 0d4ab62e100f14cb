"""Ideogram 4: one packed stream of text and image, whose samples a segment mask keeps apart."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split

SPEC = ModelSpec(
    transformer="Ideogram4Transformer2DModel",
    title="Ideogram 4",
    blocks=(Blocks("layers"),),
    tp_plan={
        "layers.*.adaln_modulation": "colwise_gather_output",
        "layers.*.attention": Heads(("num_heads",)),
        "layers.*.attention.to_q": "colwise",
        "layers.*.attention.to_k": "colwise",
        "layers.*.attention.to_v": "colwise",
        "layers.*.attention.to_out.0": "rowwise",
        "layers.*.feed_forward.w1": "colwise",
        "layers.*.feed_forward.w3": "colwise",
        "layers.*.feed_forward.w2": "rowwise",
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
)
