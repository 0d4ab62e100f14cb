"""PipeFusion: each rank runs one stage of the blocks. Stock pipelines know nothing of it.

Every rank runs the transformer's own forward. A block of another stage hands its streams through, and the last block
before this stage returns what the stage before has sent. A skip, which a block takes from an earlier one, is sent past
the stages in between. The last stage's output goes to all ranks, so that all pipelines go on alike.

The first steps of a request run the sequence whole, and are exact. From then on it runs in patches, one after the
other, through all stages (arXiv 2405.14430):

    stage 0: 0 1 2 3
    stage 1:   0 1 2 3      patch m on stage s at tick m + s

A patch attends to keys and values of all patches: those of this step up to itself, and those of the last step after it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from ditmesh.parallel.pipefusion.patches import Memory, Patches
from ditmesh.parallel.pipefusion.schedule import split_blocks
from ditmesh.parallel.pipefusion.stage_links import Forms, StageLinks
from ditmesh.parallel.pipefusion.weights import drop_weights
from ditmesh.runtime.collectives import all_reduce, broadcast, never_compiled
from ditmesh.runtime.mesh import Mesh
from ditmesh.spec import ModelSpec
from ditmesh.upstream.modules import Link, chain, check_present, expand, intercept_call, override
from ditmesh.upstream.quantized import check_quantized
from ditmesh.upstream.request import Requests
from ditmesh.upstream.session import Branch, Session
from ditmesh.upstream.trees import tree_flatten, tree_leaves, tree_unflatten


class Stage:
    """The blocks of one rank.

    Attributes:
        stages: the blocks of every stage.
        own: the blocks of this one.
        stage_links: what connects it to the others.
        at_end: called when the last block has run.
    """

    def __init__(self, title: str, links: list[Link], stages: list[range], mesh: Mesh):
        self.title, self.links, self.stages = title, links, stages
        self.own = stages[mesh["pp"].get_local_rank()]
        at = {id(link): position for position, link in enumerate(links)}
        back = [(at[id(link.back)], position) for position, link in enumerate(links) if link.back is not None]
        self.stage_links = StageLinks(mesh, stages, back)
        self.edges = {blocks.stop - 1 for blocks in stages}
        self.passed: set[int] = set()
        self.at_end: Callable[[], None] = lambda: None

    def runs(self, position: int) -> bool:
        """A block is called. Does it run here?"""
        self.passed.add(position)
        return position in self.own

    def has_run(self, position: int, output: object) -> None:
        """A block of this stage has returned."""
        if position in self.stage_links.outlets:
            self.stage_links.send(position, self.links[position].unpack(output))
        if position == len(self.links) - 1:
            self.at_end()

    def hand_through(self, position: int, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
        """What a block of another stage returns: the streams it was given, or what its stage has sent."""
        link = self.links[position]
        streams = link.streams(args, kwargs)
        if position in self.stage_links.inlets:
            streams = self.stage_links.receive(position, streams)
        if position == len(self.links) - 1:
            self.at_end()
        return link.pack(streams)

    def check(self) -> None:
        """Check that the call ran the last block of every stage. All ranks see the same.

        Raises:
            ValueError: it left one out.
        """
        missing = self.edges - self.passed
        self.passed = set()
        if missing:
            raise ValueError(
                f"this call of {self.title} leaves out block {min(missing)}, the last of a stage of "
                f"pp_size={len(self.stages)}; let the call run all blocks, or use ulysses_size or tp_size instead."
            )


class PipeFusion:
    """Runs a transformer's forward, ``run``, on all stages: whole, or patch by patch."""

    run: Callable[..., Any]

    def __init__(
        self, model: nn.Module, stage: Stage, mesh: Mesh, session: Session, patches: Patches | None, warmup: int
    ):
        self.model, self.stage, self.mesh, self.session = model, stage, mesh["pp"], session
        self.patches, self.warmup = patches, warmup
        self.memories: dict[Branch, Memory] = {}
        session.forgetters.append(self.memories.clear)
        if patches is not None:
            stage.at_end = patches.end

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.begin(args, kwargs).now()

    def begin(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> "Step":
        """A call begins a step of its branch. The branch warms up again if the shapes are not those of before."""
        self.session.begin_forward(self.model, args, kwargs)
        if self.patches is None:
            return Step(self, None, args, kwargs)
        branch, shapes = self.session.branch, self.session.shapes
        memory = self.memories.get(branch)
        if memory is None or memory.shapes != shapes:
            memory = self.memories[branch] = Memory(shapes)
        memory.steps += 1
        return Step(self, memory, args, kwargs)

    def _of_last_stage(self, output: object, given: list[Any]) -> Any:
        """The last stage's output on all ranks. What the forward was given stays each rank's own."""
        last, known = self.mesh.size() - 1, {id(x) for x in given}
        is_last = self.mesh.get_local_rank() == last
        leaves, form = tree_flatten(output)
        for i, x in enumerate(leaves):
            if isinstance(x, Tensor) and id(x) not in known:
                made = x.detach().contiguous()
                leaves[i] = broadcast(made if is_last else torch.empty_like(made), last, self.mesh)
        return tree_unflatten(leaves, form)


class Step:
    """A call of the transformer, which runs when it is told to: as one forward, or one for each patch.

    Attributes:
        memory: what its branch remembers; None if no step is cut.
        number: which step of its branch it is, from 1.
        patched: whether it is cut.
    """

    def __init__(self, fusion: PipeFusion, memory: Memory | None, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.fusion, self.memory, self.args, self.kwargs = fusion, memory, args, kwargs
        self.number = 0 if memory is None else memory.steps
        self.patched = self.number > fusion.warmup

    def forwards(self) -> Iterator[int]:
        """The patches by number. Call ``forward`` after each."""
        patches, forms = self._patches()
        for patch in patches:
            self.fusion.stage.stage_links.begin(patch, forms)
            yield patch

    def forward(self) -> Any:
        """Run one patch on this stage."""
        output = self.fusion.run(*self.args, **self.kwargs)
        self.fusion.stage.check()
        return output

    def now(self) -> Any:
        """Run all patches. Every rank returns the last stage's output."""
        output = None
        for _ in self.forwards():
            output = self.forward()
        self.fusion.stage.stage_links.finish()
        return self.fusion._of_last_stage(output, tree_leaves((self.args, self.kwargs)))

    def _patches(self) -> tuple[Iterable[int], Forms]:
        patches, memory = self.fusion.patches, self.memory
        if patches is None or memory is None:
            return range(1), {}
        if self.patched:
            return patches.run_patches(memory), memory.forms
        patches.run_whole(memory, remembers=self.number == self.fusion.warmup)
        return range(1), {}


def apply_pipefusion(
    model: nn.Module,
    spec: ModelSpec,
    mesh: Mesh,
    patches: Patches | None,
    warmup: int,
    requests: Requests | None,
    undo: ExitStack,
) -> PipeFusion:
    """Leave each rank along the axis ``pp`` of a mesh one stage of a model's blocks, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet.
        mesh: the mesh of the whole layout.
        patches: what the model's sequences are cut by; None runs every step whole.
        warmup: how many steps of a request run whole first.
        requests: those of its pipeline, if it has one.
        undo: takes what takes each change back, for which all ranks are needed.

    Returns:
        What runs the transformer from now on.
    """
    check_present(model)
    links = chain(model, spec)
    for link in links:
        check_quantized(
            f"{spec.title}: {type(link.block).__name__}", link.block, "pp_size", "use ulysses_size or ring_size."
        )
    stages = split_blocks(_costs(links, mesh), mesh["pp"].size())
    stage, session = Stage(spec.title, links, stages, mesh), Session(requests)
    if isinstance(model, CacheMixin):
        override(model, "cache_context", session.watch(model.cache_context), undo)
    for position, link in enumerate(links):
        override(link.block, "forward", _caller(stage, position), undo)
    fusion = PipeFusion(model, stage, mesh, session, patches, warmup)
    if requests is not None:
        requests.at_failure.append(stage.stage_links.drop)
    fusion.run = intercept_call(model, fusion, undo)
    lent = [module for one in spec.blocks for name in one.lends for _, module in expand(model, f"{one.path}.{name}")]
    drop_weights(links, stages, lent, mesh["pp"], undo)
    return fusion


def _caller(stage: Stage, position: int) -> Callable[..., Any]:
    run = stage.links[position].run
    # A compiled block sends and receives in Python, and compiles what it runs.
    runs, has_run = never_compiled(stage.runs), never_compiled(stage.has_run)
    hand_through = never_compiled(stage.hand_through)

    @torch.compiler.disable(recursive=False)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if runs(position):
            output = run(*args, **kwargs)
            has_run(position, output)
            return output
        return hand_through(position, args, kwargs)

    return forward


def _costs(links: list[Link], mesh: Mesh) -> list[int]:
    """The number of parameters of each block, over all its shards, so that ranks that share a block agree."""
    own = [sum(weight.numel() for weight in link.block.parameters()) for link in links]
    costs = torch.tensor(own, device=mesh.device_type)
    return (costs if mesh["tp"].size() == 1 else all_reduce(costs, mesh["tp"])).tolist()
