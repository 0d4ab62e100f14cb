"""How many ranks each strategy gets: frozen, checked, with one spelling everywhere ("ulysses4.tp2")."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ditmesh.config.axes import AXES, WORDS, Axis, Degrees, holding
from ditmesh.config.words import field_of, refuse_unknown, suggest

SINGLE = "single"


@dataclass(frozen=True)
class ParallelismConfig(Degrees):
    """How many ranks each strategy gets; their product is the number of ranks.

    Attributes:
        dp_size, cfg_size, pp_size: data, guidance (CFG) and pipeline parallelism.
        ring_size, ulysses_size: context parallelism: ranks that pass keys and values around, ranks that exchange heads.
        tp_size: tensor parallelism.
        num_pipeline_patch: into how many patches the stages of ``pp_size`` cut the sequence; None for one a stage.
        warmup_steps: how many steps of a request the stages run on the whole sequence, exactly, before that.
        shard_weights: weights of blocks that ranks of one picture would each hold whole are shared out to them, and
            gathered block by block. Not a bit of the picture changes.
        attention_backend: the kernel of one rank's attention, named as diffusers names it (``"native"``, ...).
        extra_parallel_modules: further modules of the pipeline (text encoders, VAE, ControlNet), or their names.
        parallel_kwargs: the same fields in the older spelling ``parallel_kwargs={"extra_parallel_modules": [...]}``.

    Every size is 1 when its strategy is off; ``None`` is read as 1.

    Raises:
        ValueError: a field that does not exist, or a size that is not a positive int.
    """

    num_pipeline_patch: int | None = None
    warmup_steps: int = 1
    shard_weights: bool = False
    attention_backend: str | None = None
    extra_parallel_modules: tuple[Any, ...] = ()
    parallel_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __new__(cls, *_: Any, **given: Any) -> "ParallelismConfig":
        refuse_unknown(cls, given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        refuse_unknown(type(self), self.parallel_kwargs)
        for name, value in self.parallel_kwargs.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "parallel_kwargs", {})
        object.__setattr__(self, "extra_parallel_modules", tuple(self.extra_parallel_modules))
        for name, axis in AXES.items():
            self._check_size(f"{name}_size", axis)
        self._check_patches()
        self._check_sharing()

    def _check_patches(self) -> None:
        for name in ("num_pipeline_patch", "warmup_steps"):
            value = field_of(self, name)
            if value is None and name == "num_pipeline_patch":
                continue
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an int of 1 or more, not {value!r}.")
            if self.pp_size == 1 and value != field_of(type(self), name):
                raise ValueError(f"{name}={value} is for the stages of a pipeline, and pp_size is 1; set pp_size=2.")

    def _check_sharing(self) -> None:
        if type(self.shard_weights) is not bool:
            raise ValueError(f"shard_weights is {self.shard_weights!r}, and it is True or False.")
        if self.shard_weights and all(self.sizes[axis] == 1 for axis in holding("whole", "shards")):
            raise ValueError(
                f"shard_weights=True shares out weights that ranks of one picture would each hold whole, and in layout "
                f"{self} there are none; add an axis that has them, such as ulysses_size=2, or leave shard_weights out."
            )

    @property
    def patches(self) -> int:
        """Into how many patches the sequence is cut after the warm-up."""
        return self.num_pipeline_patch or self.pp_size

    @property
    def is_lossy(self) -> bool:
        """Whether results differ from those of one process by more than rounding: patches see some of the last step."""
        return self.patches > 1

    def _check_size(self, name: str, axis: Axis) -> None:
        size = field_of(self, name)
        if size is None:
            object.__setattr__(self, name, 1)
        elif type(size) is not int:
            advice = f"{name}={size}" if isinstance(size, str) and size.isdigit() else f"{name}=2"
            raise ValueError(f"{name} must be an int, not {size!r} of type {type(size).__name__}; write {advice}.")
        elif size < 1:
            raise ValueError(f"{name}={size} is no number of ranks; 1 is off, 2 or more is on.")
        elif axis.most is not None and size > axis.most:
            choices = " or ".join(map(str, range(1, axis.most + 1)))
            raise ValueError(f"{name}={size}: {axis.why}, so {name} is {choices}.")

    @property
    def sizes(self) -> dict[str, int]:
        """Degree by axis, outer to inner."""
        return {axis: field_of(self, f"{axis}_size") for axis in AXES}

    @property
    def world_size(self) -> int:
        """The number of ranks this layout runs on."""
        return prod(self.sizes.values())

    def __str__(self) -> str:
        return ".".join(f"{axis}{size}" for axis, size in self.sizes.items() if size > 1) or SINGLE

    @classmethod
    def parse(cls, text: str, world_size: int | None = None) -> "ParallelismConfig":
        """Read a layout: explicit ("ulysses4.tp2", "single"), or a word ("usp_tp") whose sizes come from the world.

        Raises:
            ValueError: an unknown axis or word, a word without a world size, or one the world size cannot fill.
        """
        if text in WORDS:
            if world_size is None:
                raise ValueError(
                    f"{text!r} needs a number of ranks to share out; name the sizes, as in 'ulysses2.tp2'."
                )
            return cls._from_word(text, world_size)
        if text == SINGLE:
            return cls()
        sizes: dict[str, Any] = {}
        for part in text.split("."):
            axis, size = re.findall(r"(?s)^(.*?)([0-9]*)$", part)[0]
            if axis not in AXES or not size:
                raise ValueError(f"layout {text!r}: {_explain(part, axis, size)}")
            if f"{axis}_size" in sizes:
                raise ValueError(f"layout {text!r} names {axis} twice; name each axis once.")
            sizes[f"{axis}_size"] = int(size)
        return cls(**sizes)

    @classmethod
    def auto(cls, model: str, hardware: str, **call: Any) -> "ParallelismConfig":
        """The layout that is predicted to draw one picture soonest on a machine, exactly.

        Args:
            model: a folder or hub id; no weights are read.
            hardware: how many of what, as in "8xL20"; "2xthis" is what `ditmesh selftest` measured.
            call: arguments of the pipeline's call, such as ``height`` and ``num_inference_steps``.

        Raises:
            ValueError: the machine or the model is unknown, or no layout fits.
        """
        from ditmesh.planner.auto import layout_for

        return layout_for(model, hardware, call)

    @classmethod
    def _from_word(cls, word: str, world: int) -> "ParallelismConfig":
        axes = list(WORDS[word])
        if len(axes) == 1:
            return cls.parse(f"{word}{world}")
        if len(axes) > 2:
            layout = ".".join(f"{axis}2" for axis in axes)
            if world != 2 ** len(axes):
                raise ValueError(
                    f"{word!r} is {layout} on {2 ** len(axes)} ranks, not {world}; name the sizes yourself."
                )
            return cls.parse(layout)
        first, second = axes
        half = max(world // 2, 1)
        if half * (world // half) != world:
            raise ValueError(
                f"{word!r} gives {first} half of the ranks, and {world} is odd; "
                f"use an even number of ranks or name the sizes, as in '{first}{world}'."
            )
        return cls.parse(f"{first}{half}.{second}{world // half}")


def _explain(part: str, axis: str, size: str) -> str:
    if axis in AXES:
        return f"{axis!r} lacks its number of ranks; write {axis}2, or {axis}1 to leave it off."
    if not size:
        return f"{part!r} is no layout; {suggest(part, WORDS)} Or name axes and sizes, as in 'ulysses2.tp2'."
    return f"there is no axis {axis!r}; {suggest(axis, AXES)} Axes are joined by dots, as in 'ulysses2.tp2'."
