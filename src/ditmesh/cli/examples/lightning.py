"""How models that are distilled to a few steps are cached."""

from ditmesh.job.example import CacheSettings

# A model distilled to so few steps is cached with half of its blocks, once or twice.
_BOTH_ENDS = {"Fn_compute_blocks": 16, "Bn_compute_blocks": 16, "max_continuous_cached_steps": 1}
LIGHTNING = CacheSettings(
    {
        8: _BOTH_ENDS | {"max_warmup_steps": 4, "max_cached_steps": 2, "residual_diff_threshold": 0.5},
        4: _BOTH_ENDS | {"max_warmup_steps": 2, "max_cached_steps": 1, "residual_diff_threshold": 0.8},
    }
)
