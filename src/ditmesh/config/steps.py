"""Which steps of a request are computed whatever they hold, as a list of 0 and 1: the steps mask of DBCache."""

from collections.abc import Sequence
from itertools import zip_longest

Bins = tuple[tuple[int, ...], tuple[int, ...]]  # runs of computed steps, and the runs of cached steps between them

# For 28 steps; fewer are its beginning, more scale it.
BASE = 28
POLICIES: dict[str, Bins] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
SHORT: dict[str, Bins] = {  # 10 to 15 steps: the beginning of these
    "slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
    "medium": ((4, 1, 1, 1, 1), (1, 2, 2, 2)),
    "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
    "ultra": ((2, 1, 1, 1), (2, 3, 5)),
}
FEW: dict[int, dict[str, Bins]] = {
    9: {
        "slow": ((5, 2, 1), (1,)),
        "medium": ((5, 1, 1), (1, 1)),
        "fast": ((4, 1, 1), (1, 2)),
        "ultra": ((3, 1, 1), (2, 2)),
    },
    8: {
        "slow": ((5, 1, 1), (1,)),
        "medium": ((4, 1, 1), (1, 1)),
        "fast": ((3, 1, 1), (1, 2)),
        "ultra": ((2, 1, 1), (2, 2)),
    },
    6: dict.fromkeys(POLICIES, ((3, 1), (2,))),
    4: dict.fromkeys(POLICIES, ((2, 1), (1,))),
}


def steps_mask(
    compute_bins: Sequence[int] | None = None,
    cache_bins: Sequence[int] | None = None,
    total_steps: int | None = None,
    mask_policy: str = "medium",
) -> list[int]:
    """A steps mask, 1 where a step is computed: from runs of steps, or from a policy for a number of steps.

    Args:
        compute_bins, cache_bins: lengths of the computed and of the cached runs, which take turns.
        total_steps: the length of the mask; of bins it is the sum, and a smaller one cuts them.
        mask_policy: ``"slow"``, ``"medium"``, ``"fast"`` or ``"ultra"``, from careful to daring.

    Returns:
        ``total_steps`` numbers; the last step of a policy is always computed.

    Raises:
        ValueError: neither bins nor steps, a policy that does not exist, or steps no policy is made for.
    """
    if compute_bins is not None:
        mask = _turns(compute_bins, cache_bins or ())
        if total_steps is not None and len(mask) < total_steps:
            raise ValueError(f"the bins make {len(mask)} steps, and total_steps is {total_steps}; lengthen the bins.")
        return mask[:total_steps]
    if cache_bins is not None or total_steps is None:
        raise ValueError("steps_mask takes compute_bins with cache_bins, or total_steps with mask_policy.")
    if mask_policy not in POLICIES:
        raise ValueError(f"there is no mask_policy {mask_policy!r}; use one of {', '.join(POLICIES)}.")
    mask = _turns(*_policy(total_steps, mask_policy))[:total_steps]
    return [*mask[:-1], 1]


def _policy(steps: int, policy: str) -> Bins:
    if steps in FEW:
        return FEW[steps][policy]
    if steps < 10:
        raise ValueError(
            f"no mask_policy is made for {steps} steps, of which few could be cached; it takes 4, 6, 8 or more. "
            f"Or name the runs: steps_mask(compute_bins=[...], cache_bins=[...])."
        )
    if steps <= 15:
        return SHORT[policy]
    compute, cache = POLICIES[policy]
    if steps <= BASE:
        return compute, cache
    computed = round(sum(compute) * steps / BASE)
    # What rounding makes too many or too few is settled at the ends: by the last computed run, and the first cached.
    return _scale(compute, steps, computed), _scale(cache[::-1], steps, steps - computed)[::-1]


def _scale(bins: Sequence[int], steps: int, total: int) -> tuple[int, ...]:
    scaled = [(2 * run * steps + BASE) // (2 * BASE) for run in bins]
    scaled[-1] += total - sum(scaled)
    return tuple(scaled)


def _turns(compute: Sequence[int], cache: Sequence[int]) -> list[int]:
    runs = zip_longest(compute, cache, fillvalue=0)
    return [step for computed, cached in runs for step in [1] * computed + [0] * cached]
