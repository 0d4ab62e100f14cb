"""What is done to weights that nobody has read gives, when they are read, what it gives at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ditmesh.upstream.checkpoints import UnreadFile, unread_files
from ditmesh.upstream.unread import Unread, drop, fill, is_unread, read

CPU = torch.device("cpu")
X = torch.arange(48.0).reshape(6, 8)
# As conversions of checkpoints, quantizers, adapters and parallelism do them.
STEPS: dict[str, Callable[[Tensor], Any]] = {
    "narrow": lambda x: x.narrow(1, 2, x.shape[1] - 2),
    "index": lambda x: x[1:, ::2],
    "half": lambda x: x.to(torch.float16),
    "copy": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "transpose": lambda x: x.t(),
    "contiguous": lambda x: x.contiguous(),
    "chunk": lambda x: x.chunk(2, 0)[-1],
    "packed": lambda x: torch.cat([x, x.narrow(0, 0, 1)], 0),
    "with numbers": lambda x: torch.cat([x, torch.ones(1, x.shape[1], dtype=x.dtype)], 0),
    "reshape": lambda x: x.reshape(x.shape[1], x.shape[0]),
    "zeros": lambda x: torch.zeros_like(x),
    "scale": lambda x: x / x.abs().amax(1, keepdim=True).clamp(min=1),
    "split": lambda x: x.split([1, x.shape[0] - 1], 0)[1] if x.shape[0] > 1 else x,
    "parameter": lambda x: nn.Parameter(x),
    "depends on numbers": lambda x: x * float(x.max()),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file({"x": X}, path)
    return path


def unread(file: Path) -> Tensor:
    return UnreadFile(file).get_tensor("x")


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=5))
def test_steps_are_done_when_read(file: Path, names: list[str]) -> None:
    got, want = unread(file), X.clone()
    with torch.no_grad():
        for name in names:
            if min(want.shape) > 2:
                got, want = STEPS[name](got), STEPS[name](want)
            assert (got.shape, got.dtype, got.device) == (want.shape, want.dtype, want.device)
        torch.testing.assert_close(read(got.detach()), want.detach(), rtol=0, atol=0, equal_nan=True)


def test_a_change_in_place_is_seen_by_whoever_shares_the_memory(file: Path) -> None:
    x = unread(file)
    same = x.detach()
    same += 1
    same.mul_(torch.full((8,), 2.0))
    assert isinstance(same, Unread)
    assert torch.equal(read(x), (X + 1) * 2)
    assert torch.equal(read(unread(file)), X)  # the file is as it was


def test_a_change_of_a_part_is_refused(file: Path) -> None:
    with pytest.raises(TypeError, match="cannot change a part"):
        unread(file)[:2].zero_()


def test_a_read_tensor_takes_the_numbers_of_an_unread_one(file: Path) -> None:
    assert torch.equal(torch.empty(6, 8).copy_(unread(file)), X)


def test_filling_keeps_the_object_and_what_is_shared(file: Path) -> None:
    first, second = nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False)
    first.weight = second.weight = weight = nn.Parameter(unread(file), requires_grad=False)
    assert is_unread(weight)
    fill(weight, CPU)
    assert not is_unread(weight)
    assert first.weight is second.weight is weight
    assert type(weight) is nn.Parameter
    assert not weight.requires_grad
    assert torch.equal(weight, X)


def test_a_dropped_weight_is_never_read(file: Path) -> None:
    weight = nn.Parameter(unread(file))
    file_is_gone = Unread.of("/gone", "x", X.to("meta"))
    for x in (weight, file_is_gone):
        drop(x)
        assert not is_unread(x)
        assert x.numel() == 0


class Copied(TorchDispatchMode):
    """Counts the numbers that operations write, but for views."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.clone, torch.ops.aten.cat):
            self.numbers += made.numel()
        return made


def test_a_part_of_a_converted_weight_is_the_only_one_converted(file: Path) -> None:
    x = nn.Parameter(unread(file).to(torch.bfloat16).contiguous().narrow(1, 4, 2).detach())
    with torch.no_grad(), Copied() as copied:
        fill(x, CPU)
    assert copied.numbers == x.numel() == 12
    assert torch.equal(x.float(), X[:, 4:6])


def test_random_numbers_are_drawn_when_they_are_asked_for(file: Path) -> None:
    torch.manual_seed(0)
    first, second = torch.rand_like(unread(file)), torch.rand(6, 8)
    torch.manual_seed(0)
    assert torch.equal(read(first), torch.rand(6, 8))
    assert torch.equal(second, torch.rand(6, 8))


def test_other_threads_read_as_ever(file: Path) -> None:
    def load() -> Tensor:
        return safetensors.torch.load_file(file)["x"]

    stock = safetensors.torch.load_file
    with unread_files(), unread_files(), ThreadPoolExecutor(1) as elsewhere:
        assert is_unread(load())
        assert not is_unread(elsewhere.submit(load).result())
    assert safetensors.torch.load_file is stock
