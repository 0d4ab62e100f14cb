"""A deferred tensor answers what its form says, and has its numbers when they are asked for."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

from ditmesh.upstream.deferred import Deferred, Later, plain

NUMBERS = torch.arange(6.0).view(2, 3)


def later() -> Later:
    return Later(torch.full((2, 3), torch.nan), lambda later: later.memory.copy_(NUMBERS))


# The same numbers in another way: as methods, as functions of torch, as attributes, as copies.
RESTATED = {
    "method": lambda x: [x.view(6), x.reshape(3, 2), x.flatten(), x.narrow(0, 1, 1), x.unsqueeze(0), x.transpose(0, 1)],
    "method of several": lambda x: [
        *x.chunk(2),
        *x.split(1),
        *x.unbind(1),
        x.permute(1, 0),
        x.movedim(0, 1),
        x.detach(),
    ],
    "function": lambda x: [torch.reshape(x, (6,)), torch.flatten(x), torch.unsqueeze(x, 1), torch.permute(x, (1, 0))],
    "function of several": lambda x: [*torch.chunk(x, 2), *torch.split(x, 1), *torch.unbind(x), torch.clone(x)],
    "copy": lambda x: [
        x.clone(),
        x.to(torch.float64),
        x.half(),
        x.T.contiguous(),
        x.to(torch.float64).double()[None, 1],
    ],
    "attribute": lambda x: [x.T, x.mT, x.data, x[:, 1:], x[..., 0], x[None], x.float()],
}


@pytest.mark.parametrize("way", RESTATED)
def test_the_same_numbers_in_another_way_are_deferred_too(way: str) -> None:
    source = later()
    made = RESTATED[way](source.deferred())
    assert all(isinstance(x, Deferred) for x in made)
    assert not source.settled
    assert made[0].sum() == RESTATED[way](NUMBERS)[0].sum()
    assert source.settled
    assert all(torch.equal(plain(x), want) for x, want in zip(made, RESTATED[way](NUMBERS), strict=True))


def test_the_form_is_known_and_reading_is_noticed() -> None:
    source = later()
    x = source.deferred()
    same = x[:, : x.shape[1]].to(x.dtype).contiguous()
    assert (x.shape, x.size(), x.dtype, x.device.type, x.ndim, x.dim()) == ((2, 3), (2, 3), torch.float32, "cpu", 2, 2)
    assert (len(x), x.numel(), torch.numel(x), x.stride(), x.is_contiguous()) == (2, 6, 6, (3, 1), True)
    assert x.is_floating_point()
    assert torch.is_floating_point(x)
    assert not torch.is_complex(x)
    assert source.is_unread(x)
    assert source.is_unread(same)
    assert not source.is_unread(x[:, :2])
    assert not source.is_unread(x.clone())
    assert not source.settled
    whole = copy.deepcopy(x)
    assert source.settled
    assert type(whole) is type(pickle.loads(pickle.dumps(x))) is Tensor
    assert whole.sum() == same.sum() == 15
    assert not source.is_unread(x)


def test_who_writes_reads_first() -> None:
    source = later()
    x = source.deferred()
    kept = x.clone()
    x.mul_(2)
    assert torch.equal(plain(kept), NUMBERS)
    assert torch.equal(plain(x), 2 * NUMBERS)


def test_a_tree_is_plain_when_all_in_it_is_there() -> None:
    first, second, other = later(), later(), {"a": [1]}
    tree = plain({"x": first.deferred(), "more": [second.deferred()[0], None]})
    assert first.settled
    assert second.settled
    assert [type(x) for x in (tree["x"], *tree["more"])] == [Tensor, Tensor, type(None)]
    assert plain(other) is other
