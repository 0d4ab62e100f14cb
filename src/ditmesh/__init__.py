"""Run one diffusion transformer on many devices: exactly, and without rewriting its pipeline."""

from typing import TYPE_CHECKING, Any

from ditmesh.cache.calibrators.dmd import DMDCalibratorConfig
from ditmesh.cache.calibrators.foca import FoCaCalibratorConfig
from ditmesh.cache.calibrators.taylorseer import TaylorSeerCalibratorConfig
from ditmesh.config import (
    CacheType,
    CalibratorConfig,
    DBCacheConfig,
    ParallelismConfig,
    ParamsModifier,
    load_configs,
    steps_mask,
)

if TYPE_CHECKING:
    from ditmesh.api import (
        BlockAdapter,
        ForwardPattern,
        disable_cache,
        enable_cache,
        from_pretrained,
        refresh_context,
        register,
        strify,
        summary,
    )

__version__ = "0.1.0"
__all__ = [
    "BlockAdapter",
    "CacheType",
    "CalibratorConfig",
    "DBCacheConfig",
    "DMDCalibratorConfig",
    "FoCaCalibratorConfig",
    "ForwardPattern",
    "ParallelismConfig",
    "ParamsModifier",
    "TaylorSeerCalibratorConfig",
    "__version__",
    "disable_cache",
    "enable_cache",
    "from_pretrained",
    "load_configs",
    "refresh_context",
    "register",
    "steps_mask",
    "strify",
    "summary",
]


def __getattr__(name: str) -> Any:
    # Torch is imported when a pipeline is touched, not when `ditmesh --help` is asked for.
    if name in __all__:
        from ditmesh import api

        return vars(api)[name]
    raise AttributeError(f"module 'ditmesh' has no attribute {name!r}")
