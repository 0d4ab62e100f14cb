"""Halves of a batch that holds both branches of guidance: what each of two ranks gets of every argument.

Halving is exact as long as no sample knows of another. What a model does read for all samples at once, its sheet says.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ditmesh.spec import ModelSpec, Refuse, Same, Split
from ditmesh.upstream.dispatcher import keeps_samples_apart, processors
from ditmesh.upstream.trees import tensors, tree_leaves

OTHERWISE = "use these ranks otherwise: tp_size=2, or dp_size=2 for two pictures at once."


def count_repeats(latents: object) -> int:
    """How many times a batch holds the same samples: 2 if its halves are equal, else 3 if its thirds are, else 1."""
    if not isinstance(latents, Tensor | list) or (isinstance(latents, Tensor) and not latents.ndim):
        return 1
    return next((count for count in (2, 3) if _repeats(latents, count)), 1)


def _repeats(latents: Any, count: int) -> bool:
    part, rest = divmod(len(latents), count)
    if rest or not part:
        return False
    first, *others = (tree_leaves(latents[start : start + part]) for start in range(0, len(latents), part))
    return all(len(x) == len(first) and all(map(torch.equal, first, x)) for x in others)


class Halves:
    """Halves the batches of a transformer, by the facts of its sheet."""

    def __init__(self, model: nn.Module, spec: ModelSpec):
        self.model, self.title, self.batch_dims = model, spec.title, spec.batch_dims
        self.processors = {name for fact in spec.attention.values() for name in fact.processors}
        root = spec.cp_plan.get("", {})
        assert not isinstance(root, Split)
        self.cuts = root if isinstance(root, dict) else {}

    def check_attention(self) -> None:
        """Refuse to halve a batch whose samples an attention processor may mix.

        Raises:
            ValueError: on every rank, since all hold the same processors.
        """
        for name, processor in processors(self.model):
            found = type(processor).__name__
            if found not in self.processors and not keeps_samples_apart(processor):
                raise ValueError(
                    f"cfg_size=2 cannot halve a batch of {self.title}: {name} holds a {found}, which may mix the "
                    f"samples of a batch, as perturbed-attention guidance (PAG) mixes the branches of a step. Leave "
                    f"that out, or {OTHERWISE}"
                )

    def of(self, name: str, value: Any, latents: Any) -> tuple[Any, Any]:
        """An argument for each of the two ranks; what has no batch is for both.

        Raises:
            ValueError: on every rank, if it cannot be halved, or its halves have to be equal and are not.
        """
        batch, dim = len(latents), self.batch_dims.get(name, 0)
        if isinstance(dim, Refuse) and value:
            self._refuse(f"with {name}: {dim.why} Leave it out, or")
        if isinstance(dim, Refuse | None):
            return value, value
        if isinstance(value, Tensor):
            first, second = self._halve(name, value, batch, dim if isinstance(dim, int) else 0)
            if isinstance(dim, Same) and dim.of(first) != dim.of(second):
                self._refuse(f"whose branches differ in {name}: {dim.why} Let them have the same, or")
            return first, second
        listed = isinstance(latents, list)
        if isinstance(value, list) and len(value) == batch and (listed or not tensors(value)):
            return value[: batch // 2], value[batch // 2 :]
        if isinstance(value, list | tuple):
            halves = [self.of(name, x, latents) for x in value]
            return type(value)(a for a, _ in halves), type(value)(b for _, b in halves)
        if isinstance(value, dict):
            pairs = {key: self.of(name, x, latents) for key, x in value.items()}
            return {key: a for key, (a, _) in pairs.items()}, {key: b for key, (_, b) in pairs.items()}
        return value, value

    def _halve(self, name: str, x: Tensor, batch: int, dim: int) -> tuple[Tensor, Tensor]:
        cut = self.cuts.get(name)
        runs_along = isinstance(cut, Split) and cut.ndim in (None, x.ndim) and cut.dim in (dim, dim - x.ndim)
        if x.ndim <= dim or runs_along:
            return x, x
        rows = x.shape[dim]
        if rows == batch:
            first, second = x.chunk(2, dim)
            return first, second
        if x.ndim > max(dim, 2) and rows > 1 and not (rows % batch and batch % rows) and name not in self.cuts:
            self._refuse(f"with {name}: it has {rows} rows for {batch} samples, and which are whose is not known;")
        return x, x

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"cfg_size=2 cannot halve a batch of {self.title} {why} {OTHERWISE}")
