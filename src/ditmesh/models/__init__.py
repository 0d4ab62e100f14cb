"""The fact sheets, by the exact class name of the transformer they describe."""

from ditmesh.models import flux, flux2, qwen_image, wan
from ditmesh.spec import ModelSpec

SPECS: dict[str, ModelSpec] = {sheet.SPEC.transformer: sheet.SPEC for sheet in (flux, flux2, qwen_image, wan)}


def spec_of(transformer: str) -> ModelSpec:
    """The fact sheet of a transformer class, or a ValueError that names those there are."""
    if transformer not in SPECS:
        raise ValueError(f"ditmesh has no fact sheet for {transformer}; it knows {', '.join(sorted(SPECS))}.")
    return SPECS[transformer]
