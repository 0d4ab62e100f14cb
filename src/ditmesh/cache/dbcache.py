"""DBCache: the blocks of a transformer as chains that know which of their steps may be left out."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from diffusers.models.cache_utils import CacheMixin
from torch import nn

from ditmesh.cache.chain import Chain, Configs
from ditmesh.config import ParallelismConfig, ParamsModifier
from ditmesh.runtime.collectives import never_compiled
from ditmesh.runtime.mesh import Axis
from ditmesh.spec import Blocks, ModelSpec
from ditmesh.upstream.modules import SKIPS, links, override
from ditmesh.upstream.request import Requests
from ditmesh.upstream.session import Session


class DBCache:
    """The cache of one transformer.

    Attributes:
        options: the configs of the call, before any modifier.
        parallelism: the layout it runs in, for those who ask.
    """

    options: Configs

    def __init__(self, session: Session, chains: list[Chain], parallelism: ParallelismConfig):
        self.session, self.chains, self.parallelism = session, chains, parallelism
        session.forgetters += [chain.forget for chain in chains]

    def configure(self, options: Configs) -> None:
        """Begin a request with these settings, and what the modifiers make of them."""
        of_chains = [chain.modifier.of(*options) for chain in self.chains]
        for config, _ in of_chains if self.parallelism.cfg_size > 1 else []:
            if not config.cfg_diff_compute_separate:
                raise ValueError(
                    "cfg_diff_compute_separate=False takes the difference of the first branch for the second, and with "
                    "cfg_size=2 another rank runs the first; use cfg_diff_compute_separate=True."
                )
        for chain, configs in zip(self.chains, of_chains, strict=True):
            chain.configure(configs)
        self.options = options
        # Where ranks share the branches out, those that run here are all of one branch.
        takes_turns = options[0].enable_separate_cfg if self.parallelism.cfg_size == 1 else None
        self.session.configure(takes_turns, options[0].num_inference_steps)


def apply_dbcache(
    model: nn.Module,
    spec: ModelSpec,
    options: Configs,
    modifiers: Sequence[ParamsModifier],
    parallelism: ParallelismConfig,
    mesh: Axis | None,
    requests: Requests | None,
    undo: ExitStack,
) -> DBCache:
    """Cache the steps of a transformer, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet, or what a ``BlockAdapter`` says of it.
        options: the config and the calibrator of every chain of blocks.
        modifiers: what each list of blocks does differently; one is for all of them.
        parallelism: the layout it runs in.
        mesh: the ranks that share a forward, as one axis; None for one process.
        requests: those of its pipeline, if it has one.
        undo: takes what takes each change back.

    Raises:
        ValueError: no blocks that may be left out, more to compute than there are, or modifiers for
            another number of lists.
    """
    session = Session(requests)
    chains = [
        Chain(
            "+".join(blocks.path for blocks in lists),
            [link for blocks in lists for link in links(model, blocks)],
            modifier,
            any(blocks.reaches_back is not None for blocks in lists),
            session,
            mesh,
        )
        for lists, modifier in _chains(spec, modifiers)
    ]
    cache = DBCache(session, chains, parallelism)
    cache.configure(options)
    begin = model.register_forward_pre_hook(never_compiled(session.begin_forward), with_kwargs=True, prepend=True)
    undo.callback(begin.remove)
    if isinstance(model, CacheMixin):
        override(model, "cache_context", session.watch(model.cache_context), undo)
    for chain in chains:
        for position, link in enumerate(chain.links):
            override(link.block, "forward", chain.caller(position), undo)
            override(link.block, SKIPS, partial(chain.skips, position), undo)
    return cache


def _chains(spec: ModelSpec, modifiers: Sequence[ParamsModifier]) -> list[tuple[list[Blocks], ParamsModifier]]:
    """The lists of each chain, and its modifier: lists that follow each other with the same streams and settings."""
    lists = [blocks for blocks in spec.blocks if not (blocks.apart or blocks.uncached)]
    if not lists:
        reasons = ", ".join(dict.fromkeys(blocks.apart or blocks.uncached for blocks in spec.blocks))
        raise ValueError(f"{spec.title} cannot be cached, since none of its blocks may be left out: {reasons}.")
    if len(modifiers) not in (0, 1, len(lists)):
        raise ValueError(
            f"params_modifiers has {len(modifiers)} entries, and {spec.title} has {len(lists)} lists of blocks: "
            f"{', '.join(blocks.path for blocks in lists)}; give one for each, or one for all."
        )
    each = list(modifiers) if len(modifiers) == len(lists) else [*modifiers, ParamsModifier()][:1] * len(lists)
    found: list[tuple[list[Blocks], ParamsModifier]] = []
    for blocks, modifier in zip(lists, each, strict=True):
        if found and found[-1][0][-1].returns == blocks.returns and found[-1][1] == modifier:
            found[-1][0].append(blocks)
        else:
            found.append(([blocks], modifier))
    return found
