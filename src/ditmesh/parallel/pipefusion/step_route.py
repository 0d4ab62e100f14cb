"""How a step goes from the transformer to the scheduler and back, and what a scheduler makes of one patch of it."""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ditmesh.models import TOKENWISE_SCHEDULERS
from ditmesh.parallel.pipefusion.patches import patch_of
from ditmesh.upstream.trees import tensors, tree_map


@dataclass(frozen=True)
class StepRoute:
    """The route of a request's steps, as the last step of its warm-up showed it.

    Attributes:
        flags: the arguments of the transformer that are true or false. They decide what form the output has.
        output: an output, for its form.
        patches: how many a step has.
    """

    flags: dict[str, bool]
    output: Any
    patches: int

    def cut(self, x: Tensor, patch: int) -> Tensor:
        """A patch of the latents [B, S, C], or of the output, as a view."""
        tokens = patch_of(x.shape[1], self.patches, patch)
        return x.narrow(1, tokens.start, len(tokens))


def is_tokenwise(scheduler: Any, given: dict[str, Any]) -> bool:
    """Whether a scheduler's step with these arguments steps each token by itself, and all of them to one time."""
    options = TOKENWISE_SCHEDULERS.get(type(scheduler).__name__)
    if options is None or any(scheduler.config[name] != value for name, value in options.items()):
        return False
    time, beside = given.get("timestep"), given.keys() - {"model_output", "timestep", "sample"}
    return not (isinstance(time, Tensor) and time.numel() != 1) and not tensors([given[name] for name in beside])


def step_patch(scheduler: Any, given: dict[str, Any], model_output: Tensor, sample: Tensor) -> Tensor:
    """What a scheduler makes of one patch. A copy takes the step, so that the scheduler stays where it is."""
    parts = {"model_output": model_output, "sample": sample}
    return tensors(type(scheduler).step(copy.copy(scheduler), **given | parts))[0]


def flags(given: dict[str, Any]) -> dict[str, bool]:
    """The arguments of a call that are true or false."""
    return {name: x for name, x in given.items() if isinstance(x, bool)}


def instead(token: Tensor, x: Tensor, tree: object) -> Any:
    """What a call returns, with another tensor."""
    return tree_map(lambda leaf: x if leaf is token else leaf, tree)
