"""What the cache did in the last request, as numbers, a table and a tag."""

from dataclasses import dataclass

from ditmesh.cache.chain import Chain
from ditmesh.cache.dbcache import DBCache
from ditmesh.cache.decision import Record
from ditmesh.config import AXES, CalibratorConfig, DBCacheConfig, ParallelismConfig

QUANTILES = (("P00", 0.0), ("P25", 0.25), ("P50", 0.5), ("P75", 0.75), ("P95", 0.95))


@dataclass(frozen=True)
class CacheStats:
    """What one chain of blocks did for one branch in the last request.

    Attributes:
        blocks: the chain, and ``branch``: the name its pipeline gave, or the number of the forward in a step.
        cached_steps: the steps that were cached, from 0, of ``steps``.
        residual_diffs: step -> the difference found where one was tested.
        blocks_run, blocks_total: how many calls of blocks were made, and would have been without a cache.
    """

    cache_options: DBCacheConfig
    calibrator: CalibratorConfig | None
    blocks: str
    branch: str
    steps: int
    cached_steps: tuple[int, ...]
    residual_diffs: dict[int, float]
    blocks_run: int
    blocks_total: int
    parallelism_config: ParallelismConfig

    def quantile(self, share: float) -> float:
        """The difference that this share of the tested steps stays below, between neighbours."""
        ordered = sorted(self.residual_diffs.values())
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def collect(cache: DBCache) -> list[CacheStats]:
    """The last request of one transformer, by chain and branch."""
    return [
        _stats(chain, name or str(number), state.record, cache.parallelism)
        for chain in cache.chains
        for (name, number), state in chain.states.items()
    ]


def _stats(chain: Chain, branch: str, record: Record, parallelism: ParallelismConfig) -> CacheStats:
    steps, cached, count = record.steps, len(record.cached), len(chain.links)
    return CacheStats(
        cache_options=chain.config,
        calibrator=chain.calibrator,
        blocks=chain.name,
        branch=branch,
        steps=steps,
        cached_steps=tuple(record.cached),
        residual_diffs=dict(record.differences),
        blocks_run=steps * count - cached * (chain.last - chain.first),
        blocks_total=steps * count,
        parallelism_config=parallelism,
    )


def table(stats: list[CacheStats], details: bool) -> str:
    """The request as a Markdown table, a row for each chain and branch."""
    names = ["Blocks", "Branch", "Cache Steps", "Blocks run", *(f"Diffs {name}" for name, _ in QUANTILES)]
    rows = [[*names, "Diffs Min", "Diffs Max"]]
    rows.append(["---"] * len(rows[0]))
    for one in stats:
        tested = bool(one.residual_diffs)
        cells = [f"{one.quantile(share):.3f}" if tested else "-" for share in (*(q for _, q in QUANTILES), 0.0, 1.0)]
        run = f"{one.blocks_run} of {one.blocks_total}"
        rows.append([one.blocks, one.branch, f"{len(one.cached_steps)} of {one.steps}", run, *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if details:
        lines += [f"{one.blocks} {one.branch}: cached {list(one.cached_steps)}" for one in stats]
        lines += [
            f"{one.blocks} {one.branch}: differences { {k: round(v, 4) for k, v in one.residual_diffs.items()} }"
            for one in stats
        ]
    return "\n".join(lines)


def tag(cache: DBCacheConfig | None, calibrator: CalibratorConfig | None, parallelism: ParallelismConfig | None) -> str:
    """A name for files and logs, such as ``DBCache_F1B0_W8I1M0MC3_R0.24_CFG0_T0O0_Ulysses4``."""
    parts = []
    if cache is not None:
        parts.append(f"{cache.cache_type.name}_F{cache.Fn_compute_blocks}B{cache.Bn_compute_blocks}")
        limits = f"M{max(0, cache.max_cached_steps)}MC{max(0, cache.max_continuous_cached_steps)}"
        parts.append(f"W{cache.max_warmup_steps}I{cache.warmup_interval}{limits}")
        parts.append(f"R{cache.residual_diff_threshold:g}_CFG{int(bool(cache.enable_separate_cfg))}")
        if cache.num_inference_steps is not None:
            parts.append(f"N{cache.num_inference_steps}")
        if cache.steps_computation_mask is not None:
            parts.append(f"SCM{''.join(map(str, cache.steps_computation_mask))}_{cache.steps_computation_policy}")
        parts.append(calibrator.own.tag if calibrator is not None and calibrator.enable_calibrator else "T0O0")
    if parallelism is not None:
        parts += [f"{AXES[axis].title}{size}" for axis, size in parallelism.sizes.items() if size > 1]
        parts += ["SW"] if parallelism.shard_weights else []
    return "_".join(parts) or "NONE"
