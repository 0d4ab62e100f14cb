"""What a pipeline is made of: transformers with their sheets, ControlNets, and what else ranks can share.

A transformer without a sheet may be cached if a ``BlockAdapter`` says which of its modules are blocks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ditmesh.config import ParallelismConfig, ParamsModifier, suggest
from ditmesh.models import CONTROLNETS, SPECS
from ditmesh.sheets import find_sheet
from ditmesh.spec import Blocks, ModelSpec
from ditmesh.upstream.modules import unwrapped

Models = list[tuple[Any, ModelSpec]]


def unpack(pipe_or_adapter: object) -> tuple[Any, Models]:
    """The pipeline, or the transformer that is called by itself; and the transformers, in a fixed order.

    Raises:
        ValueError: none of its transformers has a fact sheet.
    """
    if isinstance(pipe_or_adapter, BlockAdapter):
        model, pipe = unwrapped(pipe_or_adapter.transformer), pipe_or_adapter.pipe
        return model if pipe is None else pipe, [(model, pipe_or_adapter.spec(_sheet(model)))]
    pipe_or_adapter = unwrapped(pipe_or_adapter)
    modules = [pipe_or_adapter] if isinstance(pipe_or_adapter, nn.Module) else components(pipe_or_adapter).values()
    found = [(part, spec) for part in modules if (spec := _sheet(part)) is not None and not spec.controls]
    if not found:
        raise ValueError(
            f"{type(pipe_or_adapter).__name__} has no transformer that ditmesh knows; it knows "
            f"{', '.join(sorted(SPECS))}. To cache another, say what its blocks are with a BlockAdapter."
        )
    return pipe_or_adapter, distinct(found)


def components(pipe: Any) -> dict[str, nn.Module]:
    """The modules of a pipeline by name, compiled or not; a transformer alone has none."""
    parts = {} if isinstance(pipe, nn.Module) else pipe.components
    return {name: unwrapped(part) for name, part in parts.items() if isinstance(part, nn.Module)}


def distinct(models: Iterable[tuple[Any, ModelSpec]]) -> Models:
    """Each model once."""
    return list({id(model): (model, spec) for model, spec in models}.values())


def extra_modules(pipe: object, parallelism: ParallelismConfig, transformers: Models) -> list[nn.Module]:
    """The modules to share beside the transformers, each once.

    Raises:
        ValueError: a name the pipeline does not have, or a module that cannot be shared.
    """
    given = {id(module): module for module in (_component(pipe, x) for x in parallelism.extra_parallel_modules)}
    extras = [module for module in given.values() if not any(module is model for model, _ in transformers)]
    for module in extras:
        if not (controlnets(module) or isinstance(module, PreTrainedModel) or _is_autoencoder(module)):
            raise ValueError(
                f"extra_parallel_modules: {_title(module)} is no text encoder, autoencoder or ControlNet that can be "
                f"shared; leave it out and every rank runs the whole of it, which every layout of the transformer "
                f"allows. The ControlNets that can be: {', '.join(sorted(CONTROLNETS))}."
            )
    return extras


def controlnets(module: nn.Module) -> Models:
    """The ControlNets of a module that is one, or sums up several; none if it is anything else."""
    nets = nets_of(module)
    found = [(net, spec) for net in nets if (spec := _sheet(net)) is not None and spec.controls]
    return found if len(found) == len(nets) else []


def _sheet(module: object) -> ModelSpec | None:
    return find_sheet(type(module).__name__)


def _title(module: nn.Module) -> str:
    """A module's class, with those of the ControlNets in it if it holds several."""
    return " of ".join(dict.fromkeys(type(part).__name__ for part in [module, *nets_of(module)]))


def _is_autoencoder(module: nn.Module) -> bool:
    return bool({"encoder", "decoder"} & set(dict(module.named_children())))


def _component(pipe: object, module: object) -> nn.Module:
    """A module of the pipeline given by itself or by its name."""
    named = components(pipe)
    found = named.get(module) if isinstance(module, str) else unwrapped(module)
    if not isinstance(found, nn.Module):
        raise ValueError(f"extra_parallel_modules: there is no module {module!r}; {suggest(str(module), named)}")
    return found


def nets_of(module: nn.Module) -> list[nn.Module]:
    """The ControlNets a module holds: those of one that only sums several up, or itself."""
    children = dict(module.named_children())
    return list(children["nets"].children()) if list(children) == ["nets"] else [module]


@dataclass(frozen=True)
class Plan:
    """What is to be changed, and how."""

    pipe: Any
    transformers: Models
    controlnets: Models
    extras: list[nn.Module]
    parallelism: ParallelismConfig
    kernel: str | None

    @property
    def models(self) -> Models:
        """What has a fact sheet."""
        return self.transformers + self.controlnets

    @property
    def modules(self) -> list[nn.Module]:
        """Everything, each once."""
        return list({id(x): x for x in [*self.extras, *(model for model, _ in self.models)]}.values())

    def columns(self, module: nn.Module, cached: bool) -> list[str]:
        """What is done to a module, by the columns of the table of deeds."""
        axes = [axis for axis, size in self.parallelism.sizes.items() if size > 1 and axis != "dp"]
        if self.parallelism.shard_weights:
            axes.append("shard_weights")
        if any(module is model for model, _ in self.transformers):
            return axes + ["cache"] * cached
        if any(module is model for model, _ in self.controlnets):
            return [axis for axis in axes if axis not in ("pp", "cfg")]
        return ["text encoder" if isinstance(module, PreTrainedModel) else "vae"] if axes else []


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
        model = unwrapped(self.transformer)
        names = {id(module): name for name, module in model.named_modules()}
        title = type(model).__name__
        for blocks in lists:
            if id(blocks) not in names:
                known = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
                raise ValueError(f"{title} does not hold one of the lists of blocks; {suggest('blocks', known)}")
        sheet = sheet or ModelSpec(title, title, blocks=(), tp_plan={}, cp_plan={}, attention={})
        return replace(
            sheet, blocks=tuple(Blocks(names[id(x)], p.returns) for x, p in zip(lists, patterns, strict=True))
        )
