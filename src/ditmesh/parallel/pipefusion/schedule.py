"""Which stage runs which blocks: numbers only."""

from collections.abc import Sequence


def split_blocks(costs: Sequence[int], stages: int) -> list[range]:
    """The blocks of each stage: one at least, all next to each other. The costliest stage is as cheap as can be.

    costs 3 3 1 1 1 1 on 3 stages:

        stage 0: 3          blocks 0
        stage 1:   3        blocks 1
        stage 2:     1 1 1 1       2 .. 5

    Of equally good splits it is the one with the lightest first stages, which have the embedders' work to do.
    """
    count = len(costs)
    assert 1 <= stages <= count, "check_layout compares them before"
    worst = _least_worst(costs, stages)
    ends = [count]
    for stage in range(stages - 1, 0, -1):  # from the last block on, every stage takes as many as it may
        start = ends[0] - 1
        while start > stage and sum(costs[start - 1 : ends[0]]) <= worst:
            start -= 1
        ends.insert(0, start)
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _least_worst(costs: Sequence[int], stages: int) -> int:
    """The least that the costliest of so many stages can cost."""
    # best[i]: of the first i blocks, on the stages so far.
    best = [0, *(sum(costs[:end]) for end in range(1, len(costs) + 1))]
    for stage in range(2, stages + 1):
        best = [0] * stage + [
            min(max(best[start], sum(costs[start:end])) for start in range(stage - 1, end))
            for end in range(stage, len(costs) + 1)
        ]
    return best[-1]
