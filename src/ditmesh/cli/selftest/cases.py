"""What a self-test of so many ranks shows: every axis on every pipeline, every hybrid on one of them in turn."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from math import prod

from ditmesh import ParallelismConfig
from ditmesh.config import AXES
from ditmesh.config.parallelism import SINGLE

DEMO = "demo"
KERNELS = {  # of one rank, by device, with the dtype it takes
    "cpu": {"native": "float32", "_native_math": "float32"},
    "cuda": {
        "_native_math": "float32",
        "_native_efficient": "float32",
        "_native_flash": "bfloat16",
        "_native_cudnn": "bfloat16",
    },
}


@dataclass(frozen=True)
class Case:
    """One pipeline in one layout, to be compared to one process.

    Attributes:
        shared: the text encoders and the VAE are shared out too.
        cached: a cache is enabled, at the threshold that caches no step.
    """

    pipeline: str
    layout: str = SINGLE
    dtype: str = "float32"
    kernel: str | None = None
    shared: bool = False
    shard_weights: bool = False
    cached: bool = False

    @property
    def title(self) -> str:
        told = {"text encoders, VAE": self.shared, "shard_weights": self.shard_weights, "exact cache": self.cached}
        return " + ".join([self.layout, *([self.kernel] if self.kernel else []), *(x for x in told if told[x])])

    def __str__(self) -> str:
        return f"{self.pipeline} {self.title} {self.dtype}"


def layouts(ranks: int) -> list[str]:
    """Every way to share out all the ranks, those along one axis first: tp4, ulysses4, ..., cfg2.tp2, ...

    ``dp`` stands for the smaller ones: of dp2.tp2 both halves are compared.
    """
    degrees = [
        [size for size in range(1, ranks + 1) if ranks % size == 0 and size <= (axis.most or ranks)]
        for axis in AXES.values()
    ]
    fitting = (sizes for sizes in product(*degrees) if prod(sizes) == ranks)
    found = [ParallelismConfig(**{f"{axis}_size": size for axis, size in zip(AXES, x, strict=True)}) for x in fitting]
    return [str(layout) for layout in sorted(found, key=lambda x: sum(size > 1 for size in x.sizes.values()))]


def cases(ranks: int, device_type: str, tiny: tuple[str, ...]) -> list[Case]:
    """All cases of so many ranks, what tells most first.

    Args:
        tiny: the tiny pipelines; they admit every layout of these ranks.
    """
    found = [Case(tiny[0], kernel=name, dtype=dtype) for name, dtype in KERNELS[device_type].items()]
    found += [Case(name, cached=True) for name in (DEMO, *tiny)]
    return found + (list(_spread(ranks, device_type, tiny)) if ranks > 1 else [])


def _spread(ranks: int, device_type: str, tiny: tuple[str, ...]) -> Iterator[Case]:
    along = [layout for layout in layouts(ranks) if "." not in layout]
    yield from (Case(name, layout) for layout in along for name in tiny)
    yield from (Case(DEMO, layout) for layout in along)
    sequences = [f"ulysses{ranks}", f"ring{ranks}"]
    yield from (Case(name, f"tp{ranks}", shared=True) for name in tiny)
    turn = cycle(tiny)
    for layout in sequences:
        yield Case(next(turn), layout, shard_weights=True)
        yield Case(next(turn), layout, cached=True)
    yield Case(next(turn), f"tp{ranks}", cached=True)
    yield from (replace(Case(tiny[0], sequences[1]), kernel=k, dtype=d) for k, d in KERNELS[device_type].items())
    if device_type == "cuda":
        yield from (Case(next(turn), layout, "bfloat16") for layout in along)
    yield from (Case(next(turn), layout, shared="dp" not in layout) for layout in layouts(ranks) if "." in layout)
