"""Which of a pipeline's weights are quantized, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from ditmesh.config import suggest

KINDS = {"int8": "torchao", "int8_dynamic": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}  # and who makes them
WHAT = "Quantize the transformer's weights: int8, int8_dynamic (its inputs too), fp8 or nf4. Needs ditmesh[quantize]."


@dataclass(frozen=True)
class Quantization:
    """How the weights of these components are quantized.

    Attributes:
        kind: a name of ``KINDS``.
        components: transformers, and text encoders if that was asked for.
    """

    kind: str
    components: tuple[str, ...]

    @property
    def tag(self) -> str:
        """How logs, pictures and folders call it."""
        return self.kind + "_text" * any(name.startswith("text_encoder") for name in self.components)

    @property
    def rounds_inputs(self) -> bool:
        """Whether a last bit can decide what an input of a linear is rounded to."""
        return self.kind == "int8_dynamic"


def find_quantization(kind: str | None, text: bool, components: Mapping[str, str], flag: str) -> Quantization | None:
    """The quantization asked for.

    Args:
        kind: its name; None for none.
        text: whether text encoders are quantized too.
        components: the classes of the pipeline's components.
        flag: what the user asks for it by; ``{flag}d-text`` asks for that of text encoders.

    Raises:
        ValueError: there is no such kind, what makes it is not installed, or the pipeline has no text encoder.
    """
    if kind is None:
        if text:
            raise ValueError(f"{flag}d-text says which weights are quantized, not how; add {flag} int8.")
        return None
    if kind not in KINDS:
        raise ValueError(f"{flag} {kind}: there is no such quantization; {suggest(kind, KINDS)}")
    if find_spec(KINDS[kind]) is None:
        raise ValueError(
            f"{flag} {kind} needs the package {KINDS[kind]}, which is not installed; run: "
            f"pip install 'ditmesh[quantize]'"
        )
    encoders = [name for name in components if name.startswith("text_encoder")]
    if text and not encoders:
        raise ValueError(f"{flag}d-text: this pipeline has no text encoder; leave it out.")
    transformers = [name for name in components if name.startswith("transformer")]
    return Quantization(kind, (*transformers, *(encoders if text else [])))
