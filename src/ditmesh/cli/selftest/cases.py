"""What a self-test of so many ranks shows: every axis on every pipeline, every hybrid on one of them in turn."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from math import prod
from pathlib import Path
from typing import Any

import yaml

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.config import AXES
from ditmesh.config.parallelism import SINGLE

DEMO, FOLDER = "demo", Path(ditmesh.__file__).parent / "demo_model"
PIPELINES: dict[str, Any] = {  # tiny ones, which admit every layout of their ranks
    name: facts
    for name, facts in yaml.safe_load(Path(__file__).with_name("pipelines.yaml").read_text()).items()
    if not name.startswith(".")
}


@dataclass(frozen=True)
class Case:
    """One pipeline in one layout, to be compared to one process.

    Attributes:
        shared: the text encoders and the VAE are shared out too.
        cached: a cache is enabled, at the threshold that caches no step.
        patched: stages run patches after a first step, which is not exact: drawn twice, the pictures have to be equal.
    """

    pipeline: str
    layout: str = SINGLE
    dtype: str = "float32"
    kernel: str | None = None
    shared: bool = False
    shard_weights: bool = False
    cached: bool = False
    patched: bool = False

    @property
    def title(self) -> str:
        told = {"text encoders, VAE": self.shared, "shard_weights": self.shard_weights, "exact cache": self.cached}
        told["patches, twice"] = self.patched
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
    fitting = (dict(zip(AXES, sizes, strict=True)) for sizes in product(*degrees) if prod(sizes) == ranks)
    found = [".".join(f"{axis}{size}" for axis, size in x.items() if size > 1) for x in fitting]
    return sorted(found, key=lambda layout: layout.count("."))


def cases(ranks: int, device_type: str) -> list[Case]:
    """All cases of so many ranks, what tells most first."""
    from ditmesh.upstream.kernels import kernels_of

    tiny = list(PIPELINES)
    kernels = [Case(tiny[0], kernel=name, dtype=dtype) for name, dtype in kernels_of(device_type).items()]
    found = [*kernels, *(Case(name, cached=True) for name in (DEMO, *tiny))]
    if ranks > 1:
        found += list(_spread(ranks, tiny))
        found += [replace(case, layout=f"ring{ranks}") for case in kernels]
        if device_type == "cuda":
            found += [Case(tiny[1], layout, "bfloat16") for layout in layouts(ranks) if "." not in layout]
    return found


def _spread(ranks: int, tiny: list[str]) -> Iterator[Case]:
    along = [layout for layout in layouts(ranks) if "." not in layout]
    yield from (Case(name, layout) for name in tiny for layout in along)
    yield from (Case(DEMO, layout) for layout in along if _suits_demo(layout))
    sequences = [f"ulysses{ranks}", f"ring{ranks}"]
    yield from (Case(name, f"tp{ranks}", shared=True) for name in tiny)
    turn = cycle(tiny)
    for layout in sequences:
        yield Case(next(turn), layout, shard_weights=True)
        yield Case(next(turn), layout, cached=True)
    yield Case(next(turn), f"tp{ranks}", cached=True)
    yield Case(DEMO if _suits_demo(f"pp{ranks}") else next(turn), f"pp{ranks}", patched=True)
    yield from (Case(next(turn), layout, shared="dp" not in layout) for layout in layouts(ranks) if "." in layout)


def _suits_demo(name: str) -> bool:
    config, layout = json.loads((FOLDER / "transformer" / "config.json").read_text()), ParallelismConfig.parse(name)
    try:
        check_layout(layout, config["_class_name"], config)
    except ValueError:
        return False
    return layout.pp_size <= config["num_layers"] + config["num_single_layers"]
