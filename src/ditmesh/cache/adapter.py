"""A user's own transformer, said in the words of the cache: which of its modules are blocks, and what they return."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from torch import nn

from ditmesh.config import ParamsModifier, suggest
from ditmesh.spec import Blocks, ModelSpec

HIDDEN, ENCODER = "hidden_states", "encoder_hidden_states"


class ForwardPattern(Enum):
    """What a block takes, and what it returns in which order."""

    Pattern_0 = ((HIDDEN, ENCODER), (HIDDEN, ENCODER))
    Pattern_1 = ((HIDDEN, ENCODER), (ENCODER, HIDDEN))
    Pattern_2 = ((HIDDEN, ENCODER), (HIDDEN,))
    Pattern_3 = ((HIDDEN,), (HIDDEN,))
    Pattern_4 = ((HIDDEN,), (HIDDEN, ENCODER))
    Pattern_5 = ((HIDDEN,), (ENCODER, HIDDEN))

    @property
    def returns(self) -> tuple[str, ...]:
        """The streams a block hands on: those it returns, if the next one takes them."""
        return self.value[1]


@dataclass
class BlockAdapter:
    """The blocks of a transformer that has no fact sheet.

    Attributes:
        pipe: its pipeline, whose calls are the requests; None if the transformer is called by itself.
        transformer: the module; by default the pipeline's.
        blocks: its list of blocks, or several in the order they run.
        forward_pattern: what the blocks return, or one for each list.
        params_modifiers: what a list does differently, one for each.
        has_separate_cfg: the branches of guidance are forwards of their own, which take turns where no pipeline tells.

    Raises:
        ValueError: a list that is not in the transformer, or patterns for another number of lists.
    """

    pipe: Any = None
    transformer: nn.Module | None = None
    blocks: nn.ModuleList | Sequence[nn.ModuleList] | None = None
    forward_pattern: ForwardPattern | Sequence[ForwardPattern] | None = None
    params_modifiers: ParamsModifier | Sequence[ParamsModifier] | None = None
    has_separate_cfg: bool = False

    def __post_init__(self) -> None:
        if self.transformer is None:
            if self.pipe is None:
                raise ValueError("BlockAdapter needs a transformer, or a pipe that has one.")
            self.transformer = self.pipe.components["transformer"]
        if self.blocks is None or self.forward_pattern is None:
            raise ValueError("BlockAdapter needs blocks and their forward_pattern, as in ForwardPattern.Pattern_0.")
        self.spec(None)

    def spec(self, sheet: ModelSpec | None) -> ModelSpec:
        """What the cache has to know of the transformer, as its fact sheet has it; ``sheet``: the one there is."""
        assert self.transformer is not None
        lists = [self.blocks] if isinstance(self.blocks, nn.ModuleList) else list(self.blocks or ())
        pattern = self.forward_pattern
        patterns = [pattern] * len(lists) if isinstance(pattern, ForwardPattern) else list(pattern or ())
        if len(patterns) != len(lists):
            raise ValueError(f"there are {len(patterns)} forward patterns for {len(lists)} lists of blocks.")
        names = {id(module): name for name, module in self.transformer.named_modules()}
        title = type(self.transformer).__name__
        for blocks in lists:
            if id(blocks) not in names:
                known = [name for name, module in self.transformer.named_modules() if isinstance(module, nn.ModuleList)]
                raise ValueError(f"{title} does not hold one of the lists of blocks; {suggest('blocks', known)}")
        sheet = sheet or ModelSpec(title, title, blocks=(), tp_plan={}, cp_plan={}, attention={})
        return replace(
            sheet, blocks=tuple(Blocks(names[id(x)], p.returns) for x, p in zip(lists, patterns, strict=True))
        )
