"""Bria FIBO 2: image tokens are refined alone, then share one stream with gist tokens squeezed from the text."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="BriaFibo2Transformer2DModel",
    title="Bria FIBO 2",
    blocks=(
        Blocks("noise_refiner", returns=("x",), apart="it refines the image before gist tokens join it"),
        Blocks("layers", returns=("x",)),
    ),
    tp_plan={
        "noise_refiner.*.adaLN_modulation.0": "colwise_gather_output",
        "noise_refiner.*.attention": "heads",
        "noise_refiner.*.attention.to_q": "colwise",
        "noise_refiner.*.attention.to_k": "colwise",
        "noise_refiner.*.attention.to_v": "colwise",
        "noise_refiner.*.attention.to_out.0": "rowwise",
        "noise_refiner.*.feed_forward.w1": "colwise",
        "noise_refiner.*.feed_forward.w3": "colwise",
        "noise_refiner.*.feed_forward.w2": "rowwise",
        "layers.*.adaLN_modulation.0": "colwise_gather_output",
        "layers.*.attention": "heads",
        "layers.*.attention.to_q": "colwise",
        "layers.*.attention.to_k": "colwise",
        "layers.*.attention.to_v": "colwise",
        "layers.*.attention.to_out.0": "rowwise",
        "layers.*.feed_forward.w1": "colwise",
        "layers.*.feed_forward.w3": "colwise",
        "layers.*.feed_forward.w2": "rowwise",
        # Only some blocks read the text encoder.
        "layers.*.cross_attention?": "heads",
        "layers.*.cross_attention.to_q?": "colwise",
        "layers.*.cross_attention.to_k?": "colwise",
        "layers.*.cross_attention.to_v?": "colwise",
        "layers.*.cross_attention.to_out.0?": "rowwise",
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
