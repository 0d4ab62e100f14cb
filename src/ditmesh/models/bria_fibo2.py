"""Bria FIBO 2: image tokens are refined alone, then share one stream with gist tokens squeezed from the text."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, gated_feed_forward

SPEC = ModelSpec(
    transformer="BriaFibo2Transformer2DModel",
    title="Bria FIBO 2",
    blocks=(
        Blocks("noise_refiner", returns=("x",), apart="it refines the image before gist tokens join it"),
        Blocks("layers", returns=("x",)),
    ),
    tp_plan={
        "noise_refiner.*.adaLN_modulation.0": "colwise_gather_output",
        **attention("noise_refiner.*.attention"),
        **gated_feed_forward("noise_refiner.*.feed_forward"),
        "layers.*.adaLN_modulation.0": "colwise_gather_output",
        **attention("layers.*.attention"),
        **gated_feed_forward("layers.*.feed_forward"),
        # Only some blocks read the text encoder.
        **attention("layers.*.cross_attention", "?"),
    },
    cp_plan={
        "noise_refiner.0": {"x": Split(1)},
        "noise_refiner.*": {"freqs_cis": Split(1), "noise_mask": Split(1)},
        "noise_refiner.-1": Gather(1),
        # Gist tokens come before or after the image's, so what is cut is the one stream of all.
        "layers.0": {"x": Split(1, stream="joint")},
        "layers.*": {"freqs_cis": Split(1, stream="joint"), "noise_mask": Split(1, stream="joint")},
        "layers.-1": Gather(1, stream="joint"),
    },
    attention={
        "noise_refiner.*.attention": Attention("BriaFibo2AttnProcessor", ("image",)),
        "perceiver.layers.*.cross_attention": Attention("BriaFibo2AttnProcessor"),
        "perceiver.layers.*.self_attention": Attention("BriaFibo2AttnProcessor"),
        "layers.*.attention": Attention("BriaFibo2AttnProcessor", ("joint",)),
        "layers.*.cross_attention?": Attention("BriaFibo2AttnProcessor"),
    },
    heads="n_heads",
    width="dim",
)
