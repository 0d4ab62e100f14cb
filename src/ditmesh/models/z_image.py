"""Z-Image, Turbo and Omni: image and text refined apart, then one stream of both; lists of pictures of any sizes."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split


def _block(path: str, optional: str = "") -> dict[str, str]:
    return {
        f"{path}.attention{optional}": "heads",
        f"{path}.attention.to_q{optional}": "colwise",
        f"{path}.attention.to_k{optional}": "colwise",
        f"{path}.attention.to_v{optional}": "colwise",
        f"{path}.attention.to_out.0{optional}": "rowwise",
        f"{path}.feed_forward.w1{optional}": "colwise",
        f"{path}.feed_forward.w3{optional}": "colwise",
        f"{path}.feed_forward.w2{optional}": "rowwise",
    }


SPEC = ModelSpec(
    transformer="ZImageTransformer2DModel",
    title="Z-Image",
    blocks=(Blocks("layers", returns=("x",), between="ControlNet residuals"),),
    tp_plan={
        **_block("layers.*"),
        **_block("noise_refiner.*", "?"),
        **_block("context_refiner.*", "?"),
        **_block("siglip_refiner.*", "?"),
        "layers.*.adaLN_modulation.0": "colwise_gather_output",
        "noise_refiner.*.adaLN_modulation.0?": "colwise_gather_output",
    },
    cp_plan={
        # The transformer reads whole lengths before its blocks, and lays image and text of each sample end to end after
        # the refiners: the image is cut around its refiner, the text refined whole, their union cut at the blocks.
        "": {"controlnet_block_samples": Split(1, stream="joint")},
        "noise_refiner.0?": {"x": Split(1)},
        "noise_refiner.*?": {"freqs_cis": Split(1), "noise_mask": Split(1)},
        "noise_refiner.-1?": Gather(1),
        "layers.0": {"x": Split(1, stream="joint")},
        "layers.*": {"freqs_cis": Split(1, stream="joint"), "noise_mask": Split(1, stream="joint")},
        "all_final_layer.*": {"noise_mask": Split(1, stream="joint")},
        "all_final_layer.*.linear": Gather(1, stream="joint"),
    },
    attention={
        "noise_refiner.*.attention?": Attention("ZSingleStreamAttnProcessor", ("image",)),
        "context_refiner.*.attention?": Attention("ZSingleStreamAttnProcessor"),
        "siglip_refiner.*.attention?": Attention("ZSingleStreamAttnProcessor"),
        "layers.*.attention": Attention("ZSingleStreamAttnProcessor", ("joint",)),
    },
    heads="n_heads",
    width="dim",
)
