"""What DBCache is asked to do: frozen and checked, under the names its users know."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Self

from ditmesh.config.words import field_of, refuse_unknown, suggest


class CacheType(Enum):
    """Whether blocks are cached at all."""

    NONE = "NONE"
    DBCache = "DBCache"


@dataclass(frozen=True)
class _Given:
    """Remembers which fields were given, so that a config can change another in those alone."""

    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __new__(cls, *args: Any, **given: Any) -> Self:
        refuse_unknown(cls, given)
        config = super().__new__(cls)
        names = [f.name for f in fields(cls) if f.init][: len(args)]
        object.__setattr__(config, "given", frozenset({*names, *given}))
        return config

    def as_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return {f.name: field_of(self, f.name) for f in fields(self) if f.init}

    def update(self, **changes: Any) -> Self:
        """The config with other values in the named fields; this one stays as it is."""
        return type(self)(**{name: field_of(self, name) for name in self.given} | changes)

    def reset(self, **given: Any) -> Self:
        """A config in which these fields are given and no others."""
        return type(self)(**given)


@dataclass(frozen=True)
class DBCacheConfig(_Given):
    """When DBCache may leave out the middle blocks of a step; the fields' names are those of cache-dit.

    The first ``Fn_compute_blocks`` always run. If their residual differs from that of the last computed step by less
    than ``residual_diff_threshold`` (mean absolute difference over mean absolute value), the blocks after them are
    replaced by what they added then, and the last ``Bn_compute_blocks`` run on the result.

    Attributes:
        cache_type: ``CacheType.DBCache``, or ``CacheType.NONE`` for no cache.
        Fn_compute_blocks, Bn_compute_blocks: blocks of each list that run in every step, first and last ones.
        residual_diff_threshold: 0 caches no step, 1 or more every step that has something to take.
        max_accumulated_residual_diff_threshold: no step of a request is cached once its differences add up to it.
        max_warmup_steps, warmup_interval: of the first ``max_warmup_steps`` every ``warmup_interval``-th is computed.
        max_cached_steps, max_continuous_cached_steps: how many steps of a request, or in a row, may be cached; below 0
            there is no limit.
        enable_separate_cfg: whether the two guidance branches are forwards of their own. None finds out: a pipeline
            says so, or calls the transformer more than once a step. Without a pipeline True means they take turns.
        cfg_compute_first: with ``enable_separate_cfg=True`` and no pipeline, the unconditional branch comes first.
        cfg_diff_compute_separate: each branch tests its own difference; else the second takes that of the first.
        num_inference_steps: without a pipeline, how many steps a request has; the next one begins anew.
        steps_computation_mask: 1 for each step that is computed, 0 for one that may be cached (see ``steps_mask``).
        steps_computation_policy: ``"dynamic"`` tests the steps of mask 0, ``"static"`` caches them untested.
        force_refresh_step_hint: forget everything after so many steps, for pipelines that make a video in chunks.
        force_refresh_step_policy: do that ``"once"`` in a request, or ``"repeat"`` it.

    Raises:
        ValueError: a field that does not exist, or a value that makes no sense.
    """

    cache_type: CacheType = CacheType.DBCache
    Fn_compute_blocks: int = 8
    Bn_compute_blocks: int = 0
    residual_diff_threshold: float = 0.08
    max_accumulated_residual_diff_threshold: float | None = None
    max_warmup_steps: int = 8
    warmup_interval: int = 1
    max_cached_steps: int = -1
    max_continuous_cached_steps: int = -1
    enable_separate_cfg: bool | None = None
    cfg_compute_first: bool = False
    cfg_diff_compute_separate: bool = True
    num_inference_steps: int | None = None
    steps_computation_mask: tuple[int, ...] | None = None
    steps_computation_policy: str = "dynamic"
    force_refresh_step_hint: int | None = None
    force_refresh_step_policy: str = "once"

    def __post_init__(self) -> None:
        if isinstance(self.cache_type, str):
            object.__setattr__(self, "cache_type", _cache_type(self.cache_type))
        if self.steps_computation_mask is not None:
            object.__setattr__(self, "steps_computation_mask", _mask(self.steps_computation_mask))
        for name, least in (("Fn_compute_blocks", 1), ("Bn_compute_blocks", 0), ("max_warmup_steps", 0)):
            check_count(name, field_of(self, name), least)
        check_count("warmup_interval", self.warmup_interval, 1)
        for name in ("residual_diff_threshold", "max_accumulated_residual_diff_threshold"):
            check_threshold(name, field_of(self, name))
        for name in ("num_inference_steps", "force_refresh_step_hint"):
            if field_of(self, name) is not None:
                check_count(name, field_of(self, name), 1)
        check_choice("steps_computation_policy", self.steps_computation_policy, ("dynamic", "static"))
        check_choice("force_refresh_step_policy", self.force_refresh_step_policy, ("once", "repeat"))
        if self.cfg_compute_first and self.cfg_diff_compute_separate:
            raise ValueError(
                "cfg_compute_first=True needs cfg_diff_compute_separate=False: "
                "branches that test their own differences do not depend on their order."
            )


def _cache_type(name: str) -> CacheType:
    if name not in CacheType.__members__:
        raise ValueError(f"there is no cache_type {name!r}; {suggest(name, CacheType.__members__)}")
    return CacheType[name]


def _mask(mask: Any) -> tuple[int, ...]:
    if isinstance(mask, str) or not all(step in (0, 1) for step in mask):
        raise ValueError(
            f"steps_computation_mask={mask!r} is no list of 0 and 1; "
            f"make one by ditmesh.steps_mask(total_steps=28, mask_policy='fast')."
        )
    return tuple(int(step) for step in mask)


def check_count(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value!r} is no whole number of {least} or more.")


def check_threshold(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r} is no number of 0 or more; 0 caches no step, and 1 nearly every one.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; {suggest(str(value), choices)}")


@dataclass(frozen=True)
class CalibratorConfig(_Given):
    """How a cached step guesses what the blocks it leaves out would have added; off, it repeats the last time.

    Attributes:
        enable_calibrator: forecast the main stream.
        enable_encoder_calibrator: forecast the others (text) too.
        calibrator_type: ``"taylorseer"``, ``"foca"`` or ``"dmd"``.
        calibrator_cache_type: forecast what the blocks add (``"residual"``), or what comes out of them
            (``"hidden_states"``).
        calibrator_kwargs: fields of the calibrator's own class, as a dict.
    """

    title: ClassVar[str] = ""
    flag: ClassVar[tuple[str, str]]  # its help and its spelling, as in a setting's metadata

    enable_calibrator: bool = False
    enable_encoder_calibrator: bool = False
    calibrator_type: str = "taylorseer"
    calibrator_cache_type: str = "residual"
    calibrator_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        known = calibrators()
        check_choice("calibrator_type", self.calibrator_type, tuple(known))
        check_choice("calibrator_cache_type", self.calibrator_cache_type, ("residual", "hidden_states"))
        for name, value in self.calibrator_kwargs.items():
            refuse_unknown(known[self.calibrator_type], [name])
            object.__setattr__(self, name, value)

    @property
    def own(self) -> "CalibratorConfig":
        """The same as its calibrator's own class."""
        kind = calibrators()[self.calibrator_type]
        if isinstance(self, kind):
            return self
        shared = {f.name: field_of(self, f.name) for f in fields(CalibratorConfig) if f.init}
        return kind(**shared | dict(shared.pop("calibrator_kwargs")))

    @property
    def tag(self) -> str:
        """It in names of files."""
        return self.calibrator_type.upper()

    def forecast(self, total: Callable[[Any], Any]) -> Any:
        """What guesses one stream; ``total`` sums a tensor over the ranks that share the sequence."""
        raise NotImplementedError(f"{type(self).__name__} has no forecast")


def calibrators() -> dict[str, type[CalibratorConfig]]:
    """The calibrators there are, by ``calibrator_type``: every class that extends ``CalibratorConfig``."""
    return {kind.calibrator_type: kind for kind in CalibratorConfig.__subclasses__()}


def setting(default: object, help: str, shown: str, low: int | None = None) -> Any:
    """A field of a calibrator that has a flag: what the help says of it, and how it is spelled."""
    return field(default=default, metadata={"flag": (help, shown), "low": low})


@dataclass(frozen=True)
class ParamsModifier:
    """What one list of blocks, or one transformer, does differently: only the fields that were given change.

    ``ParamsModifier(DBCacheConfig(residual_diff_threshold=0.2))`` keeps all else as the call's own config has it.
    """

    cache_config: DBCacheConfig | None = None
    calibrator_config: CalibratorConfig | None = None

    def __new__(cls, *_: Any, **given: Any) -> Self:
        refuse_unknown(cls, given)
        return super().__new__(cls)

    def of(
        self, cache: DBCacheConfig, calibrator: CalibratorConfig | None
    ) -> tuple[DBCacheConfig, CalibratorConfig | None]:
        """The two configs with what was given here in place of their own."""
        if self.cache_config is not None:
            cache = cache.update(**{name: field_of(self.cache_config, name) for name in self.cache_config.given})
        return cache, calibrator if self.calibrator_config is None else self.calibrator_config
