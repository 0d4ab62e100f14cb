"""Whether a step is cached, against the rules as the documentation has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditmesh import DBCacheConfig
from ditmesh.cache.decision import Record, settle

COUNT = st.integers(-1, 4)


@given(
    mask=st.none() | st.lists(st.sampled_from([0, 1]), min_size=12, max_size=12),
    policy=st.sampled_from(["dynamic", "static"]),
    warmup=st.integers(0, 6),
    interval=st.integers(1, 3),
    most=COUNT,
    in_a_row=COUNT,
    threshold=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    accumulated=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    differences=st.lists(st.sampled_from([0.1, 0.2, 0.4]), min_size=12, max_size=12),
)
def test_a_request_goes_by_the_rules(
    mask: list[int] | None, policy: str, warmup: int, interval: int, most: int, in_a_row: int, threshold: float,
    accumulated: float | None, differences: list[float],
) -> None:  # fmt: skip
    config = DBCacheConfig(
        steps_computation_mask=mask, steps_computation_policy=policy, max_warmup_steps=warmup, warmup_interval=interval,
        max_cached_steps=most, max_continuous_cached_steps=in_a_row, residual_diff_threshold=threshold,
        max_accumulated_residual_diff_threshold=accumulated,
    )  # fmt: skip
    record = Record()
    cached: list[bool] = []
    tested = 0.0
    for step, difference in enumerate(differences):
        record.begin(step)
        found = settle(config, record)
        if found is None:
            record.differences[step] = difference
            found = difference < threshold
        record.count(found)
        want, difference_counts = rule(config, step, cached, tested, difference)
        assert found == want
        tested += difference if difference_counts else 0.0
        cached.append(want)
    assert record.cached == [step for step, hit in enumerate(cached) if hit]
    assert record.steps == len(differences)


def rule(config: DBCacheConfig, step: int, cached: list[bool], tested: float, difference: float) -> tuple[bool, bool]:
    """Whether the step is cached, and whether it took a test to tell."""
    mask = config.steps_computation_mask
    warm = config.max_warmup_steps
    if mask:
        ones = 0
        while ones < len(mask) and mask[ones]:
            ones += 1
        warm = min(warm, ones)
    if step < warm and step % config.warmup_interval == 0:
        return False, False
    if mask and mask[step] == 1:
        return False, False
    if mask and config.steps_computation_policy == "static":
        return True, False
    last = 0
    while last < len(cached) and cached[-1 - last]:
        last += 1
    spent = (
        (config.max_cached_steps >= 0 and sum(cached) >= config.max_cached_steps)
        or (config.max_continuous_cached_steps >= 0 and last >= config.max_continuous_cached_steps)
        or (config.max_accumulated_residual_diff_threshold or float("inf")) <= tested
    )
    if spent or config.residual_diff_threshold <= 0:
        return False, False
    if config.residual_diff_threshold >= 1:
        return True, False
    return difference < config.residual_diff_threshold, True


def test_a_request_longer_than_its_mask_is_refused() -> None:
    record = Record()
    record.begin(3)
    with pytest.raises(ValueError, match="for 3 steps"):
        settle(DBCacheConfig(steps_computation_mask=[1, 0, 1]), record)
