"""Run one diffusion transformer on many devices: exactly, and without rewriting its pipeline."""

from typing import TYPE_CHECKING, Any

from ditmesh.config import ParallelismConfig

if TYPE_CHECKING:
    from ditmesh.api import disable_cache, enable_cache

__version__ = "0.1.0"
__all__ = ["ParallelismConfig", "__version__", "disable_cache", "enable_cache"]


def __getattr__(name: str) -> Any:
    # Torch is imported when a pipeline is touched, not when `ditmesh --help` is asked for.
    if name in ("enable_cache", "disable_cache"):
        from ditmesh import api

        return vars(api)[name]
    raise AttributeError(f"module 'ditmesh' has no attribute {name!r}")
