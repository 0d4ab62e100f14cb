"""ControlNets of Z-Image: blocks that pile up residuals beside embedders and refiners of the transformer's own."""

from ditmesh.models.z_image import SPEC as Z_IMAGE
from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split


def _blocks(path: str, optional: str = "") -> dict[str, str]:
    layers = {name: style for name, style in Z_IMAGE.tp_plan.items() if name.startswith("layers.*")}
    return {f"{name.replace('layers', path, 1)}{optional}": str(style) for name, style in layers.items()} | {
        f"{path}.*.before_proj?": "colwise_gather_output",
        f"{path}.*.after_proj{optional}": "colwise_gather_output",
    }


SPEC = ModelSpec(
    transformer="ZImageControlNetModel",
    title="the ControlNet of Z-Image",
    blocks=(Blocks("control_layers"),),
    tp_plan={**_blocks("control_layers"), **_blocks("control_noise_refiner", "?")},
    cp_plan={
        # What the first blocks give is added whole between these.
        "noise_refiner.*?": {"x": Split(1), "freqs_cis": Split(1), 0: Gather(1)},
        # 1.0 refines the condition by itself, here 2.0 beside the image; 2.1 has the other blocks do that as well.
        "control_noise_refiner.0?": {"c?": Split(1), "x": Split(1)},
        "control_noise_refiner.*?": {"freqs_cis": Split(1)},
        "control_noise_refiner.-1?": Gather(-2),
        "control_layers.0": {"c": Split(1, stream="control", new=True), "x": Split(1, stream="control")},
        "control_layers.*": {"freqs_cis": Split(1, stream="control")},
        "control_layers.-1": Gather(-2, stream="control"),
    },
    attention={
        "noise_refiner.*.attention?": Attention("ZSingleStreamAttnProcessor", ("image",)),
        "context_refiner.*.attention?": Attention("ZSingleStreamAttnProcessor"),
        "control_noise_refiner.*.attention?": Attention("ZSingleStreamAttnProcessor", ("image",)),
        "control_layers.*.attention": Attention("ZSingleStreamAttnProcessor", ("control",)),
    },
    heads=Z_IMAGE.heads,
    width=Z_IMAGE.width,
    controls=Z_IMAGE.transformer,
)
