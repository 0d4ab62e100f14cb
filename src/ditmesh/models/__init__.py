"""The fact sheets, by the exact class name of the model they describe: every file of this folder with a SPEC is one.

Text encoders and autoencoders need none, since most of what to do is read off their modules: ``text_encoders`` and
``autoencoders`` have the classes that tests hold to one process, and what cannot be read off.
"""

import importlib
import pkgutil

from ditmesh.models.autoencoders import AUTOENCODERS
from ditmesh.models.text_encoders import TEXT_ENCODERS
from ditmesh.spec import ModelSpec

__all__ = ["AUTOENCODERS", "CONTROLNETS", "SPECS", "TEXT_ENCODERS", "TOKENWISE_SCHEDULERS"]

_FILES = [vars(importlib.import_module(f"{__name__}.{file.name}")) for file in pkgutil.iter_modules(__path__)]
_SHEETS: list[ModelSpec] = [file["SPEC"] for file in _FILES if "SPEC" in file]
SPECS: dict[str, ModelSpec] = {spec.transformer: spec for spec in _SHEETS if not spec.controls}
CONTROLNETS: dict[str, ModelSpec] = {spec.transformer: spec for spec in _SHEETS if spec.controls}

# Scheduler class -> its options under which a step makes token i of token i of output and latents alone, without noise
# or a memory of earlier steps, and returns nothing but the latents. No other scheduler is known to.
TOKENWISE_SCHEDULERS: dict[str, dict[str, object]] = {
    "FlowMatchEulerDiscreteScheduler": {"stochastic_sampling": False},
    "FlowMapEulerDiscreteScheduler": {},
    "LTXEulerAncestralRFScheduler": {"eta": 0.0},
    "MiniMaxH3Scheduler": {},
}
