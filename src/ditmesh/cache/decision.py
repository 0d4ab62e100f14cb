"""Which steps of a request are cached: the rules of DBCache, as pure code over counters and one number."""

from dataclasses import dataclass, field

from ditmesh.config import DBCacheConfig

UNTESTED = 1.0  # a threshold from here on takes every step


@dataclass
class Record:
    """What one branch of one chain of blocks has done so far in this request.

    Attributes:
        step: of the request, from 0; guidance may leave out a branch at some steps.
        steps: how many the branch had.
        cached: which were cached, and ``in_a_row`` how many of the last.
        differences: found where one was tested, by step.
    """

    step: int = -1
    steps: int = 0
    cached: list[int] = field(default_factory=list)
    differences: dict[int, float] = field(default_factory=dict)
    in_a_row: int = 0

    def begin(self, step: int) -> None:
        """Go on to a step."""
        self.step, self.steps = step, self.steps + 1

    def count(self, hit: bool) -> None:
        """Note how the step went."""
        self.in_a_row = self.in_a_row + 1 if hit else 0
        if hit:
            self.cached.append(self.step)


def settle(config: DBCacheConfig, record: Record) -> bool | None:
    """Whether this step is cached, if that is settled without looking at a tensor; None if a test has to tell.

    In this order: warm-up and mask compute, a static mask caches, the limits compute, and so does a threshold of 0.

    Raises:
        ValueError: the request has more steps than the mask.
    """
    step, mask = record.step, config.steps_computation_mask
    if mask is not None and step >= len(mask):
        raise ValueError(
            f"steps_computation_mask is for {len(mask)} steps, and this request has more; "
            f"make one for all of them by ditmesh.steps_mask(total_steps=...)."
        )
    if step in _warmup(config) or (mask is not None and mask[step]):
        return False
    if mask is not None and config.steps_computation_policy == "static":
        return True
    if _used_up(config, record) or config.residual_diff_threshold <= 0:
        return False
    return True if config.residual_diff_threshold >= UNTESTED else None


def _warmup(config: DBCacheConfig) -> range:
    mask = config.steps_computation_mask
    steps = config.max_warmup_steps
    if mask is not None:  # it says itself how to begin, so that the warm-up ends with its first run of ones
        steps = min(steps, mask.index(0) if 0 in mask else len(mask))
    return range(0, steps, config.warmup_interval)


def _used_up(config: DBCacheConfig, record: Record) -> bool:
    if 0 <= config.max_cached_steps <= len(record.cached):
        return True
    if 0 <= config.max_continuous_cached_steps <= record.in_a_row:
        return True
    limit = config.max_accumulated_residual_diff_threshold
    return bool(limit) and sum(record.differences.values()) >= limit
