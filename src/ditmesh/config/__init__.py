"""What the user asks for: frozen, checked, and free of torch."""

from ditmesh.config.axes import AXES, WORDS, Axis, Degrees, holding, sharing
from ditmesh.config.cache import CacheType, CalibratorConfig, DBCacheConfig, ParamsModifier, calibrators
from ditmesh.config.files import load_configs
from ditmesh.config.groups import describe_groups, rank_groups, replicas
from ditmesh.config.parallelism import SINGLE, ParallelismConfig
from ditmesh.config.steps import POLICIES, steps_mask
from ditmesh.config.words import refuse_unknown, suggest

__all__ = [
    "AXES",
    "POLICIES",
    "SINGLE",
    "WORDS",
    "Axis",
    "CacheType",
    "CalibratorConfig",
    "DBCacheConfig",
    "Degrees",
    "ParallelismConfig",
    "ParamsModifier",
    "calibrators",
    "describe_groups",
    "holding",
    "load_configs",
    "rank_groups",
    "refuse_unknown",
    "replicas",
    "sharing",
    "steps_mask",
    "suggest",
]
