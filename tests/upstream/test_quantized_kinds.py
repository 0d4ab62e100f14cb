"""Quantized weights taken apart, cut and widened stand for what the cut and widened weight is."""

from typing import Any

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Params4bit
from torch import Tensor, nn
from torchao.quantization.quantize_.workflows import Int4Tensor

from ditmesh.runtime.shards import Shard, fits
from ditmesh.upstream.quantized import grain_of, narrowed, shape_of, take_apart, widened
from tests.quantized_kinds import KINDS, quantize


class OneOf:
    """A mesh that asks for nothing but its size."""

    def __init__(self, rank: int, degree: int = 2):
        self.size, self.get_local_rank = lambda: degree, lambda: rank


def shard(dim: int, parts: tuple[int, ...], rank: int) -> Shard:
    mesh: Any = OneOf(rank)
    return Shard.even(dim, parts, mesh)


def equal(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and torch.equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_stands_for_the_shard(kind: str) -> None:
    torch.manual_seed(0)
    weight: Any = quantize(nn.Sequential(nn.Linear(512, 96).requires_grad_(False)), kind)[0].weight
    of, apart = KINDS[kind].dequantize, take_apart(weight)
    assert apart is not None
    assert shape_of(weight) == (96, 512)
    again = apart.weight()
    assert type(again) is type(weight) or type(again) is type(weight.data)
    assert equal(of(again), of(weight))
    for dim, parts in ((0, (96,)), (0, (48, 48)), (1, (512,)), (1, (256, 256))):
        for rank in (0, 1):
            mine = shard(dim, parts, rank)
            if not fits(mine.kept, grain_of(weight, dim)):
                assert KINDS[kind].block > 1
                continue
            share = mine.cut(weight)
            assert equal(of(share), mine.cut(of(weight)))
            if dim == 1 and KINDS[kind].rounds:
                wide = widened(share, 64)
                assert equal(of(wide), torch.cat([of(share), torch.zeros(96, 64)], 1))
                assert equal(of(narrowed(wide, 256)), of(share))


def test_blocks_that_go_on_in_the_next_row_are_cut_between_rows() -> None:
    weight: Any = Params4bit(torch.randn(64, 96), False, compress_statistics=True, quant_type="nf4").to("cpu")
    assert [grain_of(weight, dim) for dim in (0, 1)] == [2, 96]

    def flat(weight: Any) -> Tensor:  # the kernel of CPUs knows no such blocks
        state = weight.quant_state
        absmax = state.absmax
        if state.nested:
            absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
        entries = torch.stack([weight.data.flatten() >> 4, weight.data.flatten() & 15], -1).flatten()
        return (state.code[entries.int()].view(-1, 64) * absmax[:, None]).view(state.shape)

    for rank in (0, 1):
        mine = shard(0, (64,), rank)
        assert equal(flat(mine.cut(weight)), mine.cut(flat(weight)))


def test_weights_that_bitsandbytes_has_arranged_for_a_cpu_are_read_back() -> None:
    weight: Any = Params4bit(torch.randn(64, 128), False, compress_statistics=False, quant_type="nf4").to("cpu")
    before, absmax = weight.data.clone(), weight.quant_state.absmax.clone()
    weight.data, _ = functional._convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    apart = take_apart(weight)
    assert apart is not None
    again: Any = apart.weight()
    assert equal(again.data, before)
    assert equal(again.quant_state.absmax, absmax.bfloat16().float())


def test_packed_int4_of_torchao_has_its_scales_turned() -> None:
    data = torch.randint(-128, 127, (32, 128), dtype=torch.int8)
    scale, zero = torch.randn(8, 32), torch.randn(8, 32)
    weight: Any = Int4Tensor(data, scale, zero, [1, 32], torch.Size((32, 256)))
    assert [grain_of(weight, dim) for dim in (0, 1)] == [1, 32]
    rows, columns = shard(0, (32,), 1).cut(weight), shard(1, (256,), 1).cut(weight)
    assert rows.shape == (16, 256)
    assert columns.shape == (32, 128)
    assert equal(vars(rows)["scale"], scale[:, 16:])
    assert equal(vars(columns)["scale"], scale[4:])
    assert equal(vars(columns)["qdata"], data[:, 64:])


def test_int4_of_quanto_in_the_form_of_its_kernel_is_cut_without_loss() -> None:
    import optimum.quanto as quanto

    linear: Any = quanto.QLinear.from_module(nn.Linear(256, 64, dtype=torch.bfloat16), weights=quanto.qint4)
    linear.freeze()
    weight = linear.weight.requires_grad_(False)
    assert type(weight).__name__ == "TinyGemmWeightQBitsTensor"
    x = torch.randn(3, 256, dtype=torch.bfloat16)
    want = nn.functional.linear(x, weight)
    halves = [shard(0, (64,), rank).cut(weight) for rank in (0, 1)]
    assert equal(torch.cat([nn.functional.linear(x, half) for half in halves], -1), want)
    assert grain_of(weight, 1) == 128
