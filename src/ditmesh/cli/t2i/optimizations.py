"""What `--optimize` and its kin switch on, by the names users know; the others are refused by name, with why."""

from dataclasses import asdict, fields

from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.config import suggest
from ditmesh.job.description import Tuning

SYNONYMS = {"torch_compile": "compile", "flash_attention": "flash", "sage_attention": "sage", "pab": "pab_cache"}
KERNELS = ("flash", "sage", "xformers")
OFFLOADS = {"cpu_offload": "model", "sequential_cpu_offload": "sequential", "group_offload": "block_level"}
KNOWN = ("compile", "vae_slicing", "vae_tiling", *OFFLOADS, *KERNELS, "cache_dit", "tf32")
OTHER_CACHE = "ditmesh has one cache, DBCache, which knows every model; use cache_dit"
ABSENT = {
    "layerwise_cast": "it casts weights that the ranks share; shard them instead: --tensor_parallel_degree",
    "fuse_qkv": "it fuses the projections that tensor parallelism shards, and gains little beside compile",
    "deep_cache": "it is for U-Nets; use cache_dit",
    "first_block_cache": OTHER_CACHE,
    "pab_cache": OTHER_CACHE,
    "faster_cache": OTHER_CACHE,
}


def choose_optimizations(options: BatchOptions) -> tuple[Tuning, str | None, bool]:
    """All that the flags ask for, the attention kernel, and whether steps are cached.

    Raises:
        ValueError: one does not exist, or two contradict each other.
    """
    asked = [name.strip() for name in (options.optimize or "").split(",") if name.strip()]
    names = {_known(SYNONYMS.get(name, name), "--optimize") for name in asked}
    if options.cache_type is not None:
        cache = SYNONYMS.get(options.cache_type, options.cache_type)
        if cache not in ("cache_dit", *ABSENT):
            raise ValueError(f"--cache_type {options.cache_type}: there is no such cache; use cache_dit.")
        names.add(_known(cache, "--cache_type"))
    names |= {name.removeprefix("enable_") for name, on in asdict(options).items() if name.startswith("enable_") and on}
    kernels = {*names} & {*KERNELS} | ({options.attention_backend} if options.attention_backend else set())
    if len(kernels) > 1:
        raise ValueError(f"{' and '.join(sorted(kernels))} are both attention kernels; name one of them.")
    offloads = {*names} & {*OFFLOADS}
    if len(offloads) > 1:
        raise ValueError(f"{' and '.join(sorted(offloads))} offload the same weights; name one of them.")
    switches = {f.name: f.name in names for f in fields(Tuning) if f.name != "offload"}
    tuning = Tuning(offload=next((OFFLOADS[name] for name in offloads), None), **switches)
    return tuning, next(iter(kernels), None), "cache_dit" in names


def _known(name: str, flag: str) -> str:
    if name in ABSENT:
        raise ValueError(f"{flag} {name}: {ABSENT[name]}; leave it out.")
    if name not in KNOWN:
        raise ValueError(f"{flag}: there is no optimization {name!r}; {suggest(name, KNOWN)}")
    return name
