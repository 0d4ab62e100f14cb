"""The blocks of every sheet are the chain the model runs: in its order, handing on the streams the sheet names."""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ditmesh.models import SPECS
from ditmesh.spec import Blocks, ModelSpec
from ditmesh.upstream.modules import argument_names, bind, chain, expand
from tests.cases import CASES, variants
from tests.transformers import SHAPES, build, forward

NAMES = [variant for name in CASES for variant in (name, *(f"{name}:{variant}" for variant in variants(name)))]


@dataclass(frozen=True)
class Call:
    """One call of a block: what it took and returned, and what that was before anything changed it in place."""

    block: str
    blocks: Blocks
    taken: dict[str, Any]
    outputs: tuple[Any, ...]
    copies: tuple[Any, ...]

    @property
    def streams(self) -> list[tuple[str, Any, Any]]:
        """(argument, output, copy of the output) of every output that the next block takes."""
        named = zip(self.blocks.returns, self.outputs, self.copies, strict=True)
        return [stream for stream in named if stream[0]]


@cache
def calls(name: str) -> tuple[ModelSpec, list[str], dict[str, str], list[Call]]:
    """A model's sheet, the blocks of its chain in order, those that reach back, and every call of one in a forward."""
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    spec = SPECS[type(model).__name__]
    found: list[Call] = []

    def record(name: str, blocks: Blocks) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            copies = tuple(x.clone() if isinstance(x, Tensor) else x for x in outputs)
            found.append(Call(name, blocks, bind(argument_names(block), args, kwargs), outputs, copies))

        return hook

    names: dict[int, str] = {}
    for blocks in spec.blocks:
        for block_name, block in expand(model, f"{blocks.path}.*"):
            assert not set(blocks.returns) - {"", *argument_names(block)}, f"{block_name} has no such arguments"
            block.register_forward_hook(record(block_name, blocks), with_kwargs=True)
            names[id(block)] = block_name
    in_order = chain(model, spec)
    back = {names[id(link.block)]: names[id(link.back.block)] for link in in_order if link.back is not None}
    model.register_forward_pre_hook(lambda *_: found.clear())  # calls that come before fill caches
    with torch.no_grad():
        forward(model, inputs)
    return spec, [names[id(link.block)] for link in in_order], back, found


@pytest.mark.parametrize("name", NAMES)
def test_blocks_run_once_in_the_order_of_the_sheet(name: str) -> None:
    _, in_order, _, found = calls(name)
    called = {call.blocks.path for call in found}  # a call may leave out blocks itself
    want = [block for block in in_order if block.rpartition(".")[0] in called]
    assert [call.block for call in found if not call.blocks.apart] == want
    assert want == in_order or name == "latte:still"


@pytest.mark.parametrize("name", NAMES)
def test_streams_keep_their_shape_within_a_list(name: str) -> None:
    for call in calls(name)[3]:
        for stream, output, _ in call.streams:
            taken = call.taken.get(stream)
            # The last block of some models drops a stream that nothing reads any more.
            assert output is None or (output.shape, output.dtype) == (taken.shape, taken.dtype), f"{stream} of {call}"


@pytest.mark.parametrize("name", NAMES)
def test_a_block_takes_what_the_one_before_returned(name: str) -> None:
    assert not changed(name) - {blocks.path for blocks in calls(name)[0].blocks if blocks.between}


@pytest.mark.parametrize("name", CASES)
def test_what_happens_between_blocks_is_seen_to_happen(name: str) -> None:
    seen = set().union(*(changed(variant) for variant in NAMES if variant.partition(":")[0] == name))
    assert {blocks.path for blocks in calls(name)[0].blocks if blocks.between} <= seen


@pytest.mark.parametrize("name", NAMES)
def test_only_blocks_that_say_so_reach_back(name: str) -> None:
    """And to the ones that they say; a ControlNet's residuals make other tensors of what those returned."""
    _, _, back, found = calls(name)
    earlier: dict[int, Call] = {}
    reaching = {}
    for call in found:
        streams = {stream for stream, *_ in call.streams}
        others = [id(x) for argument, x in call.taken.items() if argument not in streams and isinstance(x, Tensor)]
        for x in others:
            if x in earlier and earlier[x].blocks == call.blocks:
                reaching[call.block] = earlier[x].block
        earlier |= {id(x): call for x in call.outputs}
    assert reaching == ({} if name.endswith("controlnet") else back)


def changed(name: str) -> set[str]:
    """The lists of a model of which some block took another tensor than the block before returned."""
    paths = set()
    for before, after in itertools.pairwise(calls(name)[3]):
        if before.blocks != after.blocks:
            continue
        for stream, output, copy in before.streams:
            taken = after.taken.get(stream)
            if taken is not output or not (taken is None or torch.equal(taken, copy)):
                paths.add(after.blocks.path)
    return paths
