"""Attention across ranks equals attention on one, for any lengths, heads and masks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.parallel.context.attention import attention
from ditmesh.parallel.context.ring import merge
from ditmesh.parallel.context.sequence import LayerContext, ShardedSequence
from ditmesh.parallel.context.ulysses import gather_heads, scatter_heads
from ditmesh.runtime.collectives import shard, shard_sizes
from ditmesh.runtime.mesh import build_mesh
from ditmesh.upstream.kernels import KERNELS, flash, math
from tests.ranks import Ranks
from tests.transformers import relative_error

STREAMS = ("text", "image")
RANKS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def attend(
    layout: str, text: int, image: int, heads: int, real: list[int] | None, dtype: torch.dtype, kernel: str = "native"
) -> float:
    """The error of this rank's share of a joint attention over text and image, with ``real[i]`` real text tokens."""
    sequence = ShardedSequence(build_mesh(ParallelismConfig.parse(layout), "cpu"))
    batch = len(real or [0])
    whole = [(torch.randn(batch, text, heads, 8, dtype=dtype), torch.randn(batch, image, heads, 8, dtype=dtype))
             for _ in range(3)]  # fmt: skip
    keep = torch.arange(text)[None] < torch.tensor(real or [text])[:, None]
    mask = torch.cat([keep, torch.ones(batch, image, dtype=torch.bool)], dim=1)[:, None, None]
    joint = [torch.cat(pair, dim=1).transpose(1, 2) for pair in whole]
    want = F.scaled_dot_product_attention(*joint, attn_mask=mask).transpose(1, 2).split([text, image], dim=1)

    q, k, v = (
        torch.cat([sequence.cut(x, 1, name) for name, x in zip(STREAMS, pair, strict=True)], 1) for pair in whole
    )
    local_mask = None
    if real:
        sequence.masks["text"] = keep
        image_share = torch.ones(batch, sequence.held(("image",))[0][0], dtype=torch.bool)
        local_mask = torch.cat([sequence.cut(keep, 1, "text"), image_share], dim=1)[:, None, None]
    out = attention(kernel, q, k, v, local_mask, _parallel_config=LayerContext("attn", sequence, STREAMS, STREAMS))
    shares = out.split([tokens for tokens, _ in sequence.held(STREAMS)], dim=1)
    return max(
        relative_error(sequence.gather(share, 1, name), expected)
        for name, share, expected in zip(STREAMS, shares, want, strict=True)
    )


def round_trip(lengths: list[int], heads: int) -> bool:
    """Scattering heads gives this rank its heads of all tokens, and gathering gives its tokens back."""
    mesh = build_mesh(ParallelismConfig(ulysses_size=len(lengths)), "cpu")["ulysses"]
    rank = mesh.get_local_rank()
    q, k = torch.randn(2, sum(lengths), 2, heads, 3).unbind(2)
    mine = [x.split(lengths, dim=1)[rank] for x in (q, k)]
    scattered = scatter_heads(mine, lengths, mesh)
    expected = torch.stack([shard(x, 2, mesh).transpose(0, 1) for x in (q, k)], dim=2)
    return torch.equal(scattered, expected) and torch.equal(
        gather_heads(scattered[:, :, 1], lengths, heads, mesh), mine[1]
    )


@RANKS
@given(lengths=st.lists(st.integers(0, 5), min_size=3, max_size=3), heads=st.integers(3, 7))
def test_scattering_heads_and_gathering_them_is_the_identity(ranks: Ranks, lengths: list[int], heads: int) -> None:
    assert all(ranks.run(round_trip, 3, lengths, heads))


@RANKS
@given(
    layout=st.sampled_from(["ulysses3", "ring3", "ulysses2", "ring2", "ring2.ulysses2"]),
    text=st.integers(1, 9),
    image=st.integers(1, 20),
    heads=st.integers(3, 5),
    padding=st.lists(st.integers(0, 9), min_size=0, max_size=3),
)
def test_any_lengths_heads_and_masks(
    ranks: Ranks, layout: str, text: int, image: int, heads: int, padding: list[int]
) -> None:
    real = [max(text - pad, 0) for pad in padding] or None
    world = ParallelismConfig.parse(layout).world_size
    assert max(ranks.run(attend, world, layout, text, image, heads, real, torch.float64)) <= 1e-12


def test_low_precision_is_merged_in_float32(ranks: Ranks) -> None:
    for layout in ("ring3", "ring2.ulysses2"):
        world = ParallelismConfig.parse(layout).world_size
        assert max(ranks.run(attend, world, layout, 5, 33, 4, None, torch.bfloat16)) <= 2**-7


def test_every_cpu_kernel_runs_in_a_ring(ranks: Ranks) -> None:
    for kernel in ("native", "_native_flash", "_native_math"):
        assert max(ranks.run(attend, 3, "ring3", 5, 11, 4, [2, 5], torch.float64, kernel)) <= 1e-12


@given(
    parts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    queries=st.integers(1, 5),
    magnitude=st.sampled_from([1.0, 30.0, 300.0]),
)
def test_merging_parts_is_attention_over_all_keys(parts: list[int], queries: int, magnitude: float) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 3, queries, 8, dtype=torch.float64) * magnitude
    k, v = torch.randn(2, 2, 3, sum(parts), 8, dtype=torch.float64)
    want, want_lse = math(q, k, v, None, None)
    pieces = [flash(q, k, v, None, None) for k, v in zip(k.split(parts, 2), v.split(parts, 2), strict=True)]
    out, lse = pieces[0]
    for piece in pieces[1:]:
        out, lse = merge(out, lse, *piece)
    assert relative_error(out, want) <= 1e-12
    assert relative_error(lse, want_lse) <= 1e-12


@given(length=st.integers(0, 50), degree=st.integers(1, 9))
def test_shards_are_those_of_tensor_split(length: int, degree: int) -> None:
    assert shard_sizes(length, degree) == [len(part) for part in torch.arange(length).tensor_split(degree)]


def test_the_definition_agrees_with_torch() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64)
    mask = torch.zeros(2, 1, 1, 7, dtype=torch.float64).masked_fill(torch.rand(2, 1, 1, 7) < 0.5, -torch.inf)
    mask[..., 0] = 0.0
    for name in ("native", "_native_flash", "_native_math"):
        out, _ = KERNELS[name](q, k, v, mask, 0.3)
        assert relative_error(out, F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)) <= 1e-12


def across_streams(layout: str, lengths: tuple[int, int], pairwise: bool) -> float:
    """Queries of one stream, keys of another, a whole mask of numbers or one for each pair of query and key."""
    sequence = ShardedSequence(build_mesh(ParallelismConfig.parse(layout), "cpu"))
    audio, video = lengths
    q = torch.randn(2, audio, 3, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, video, 3, 8, dtype=torch.float64)
    mask = torch.randn(2, 1, audio if pairwise else 1, video, dtype=torch.float64)
    mask[1, ..., video // 2 :] = -torch.inf
    want = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)
    shares = [sequence.cut(x, 1, name) for x, name in ((q, "audio"), (k, "video"), (v, "video"))]
    layer = LayerContext("attn", sequence, ("audio",), ("video",))
    return relative_error(sequence.gather(attention("native", *shares, mask, _parallel_config=layer), 1, "audio"), want)


@RANKS
@given(
    layout=st.sampled_from(["ulysses3", "ring3", "ring2.ulysses2"]),
    lengths=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    pairwise=st.booleans(),
)
def test_one_stream_attends_to_another(ranks: Ranks, layout: str, lengths: tuple[int, int], pairwise: bool) -> None:
    world = ParallelismConfig.parse(layout).world_size
    assert max(ranks.run(across_streams, world, layout, lengths, pairwise)) <= 1e-12


def with_padding(layout: str, lengths: tuple[int, int], square: bool, dtype: torch.dtype) -> float:
    """Joint attention whose processor makes a mask of its own shard of the text's padding; one stream is not there."""
    sequence = ShardedSequence(build_mesh(ParallelismConfig.parse(layout), "cpu"))
    image, text = lengths
    q, k, v = torch.randn(3, 2, image + text, 3, 8, dtype=torch.float64)
    real = torch.ones(2, image + text, dtype=torch.bool)
    real[1, image + text // 2 :] = False
    mask, sequence.masks["text"] = real[:, None, None], real[:, image:]

    def mine(x: Tensor, dim: int) -> Tensor:
        parts = x.split(lengths, dim)
        return torch.cat(
            [sequence.cut(part, dim, name) for part, name in zip(parts, ("image", "text"), strict=True)], dim
        )

    shares, part = [mine(x, 1) for x in (q, k, v)], mine(real, 1)[:, None, None]
    if square:
        mask, part = (mask & mask.mT).to(dtype), (part & part.mT).to(dtype)
    want = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)
    streams = ("image", "reference?", "text")
    out = attention("native", *shares, part, _parallel_config=LayerContext("attn", sequence, streams, streams))
    got = sequence.gather(out[:, : sequence.held(("image",))[0][0]], 1, "image")
    return relative_error(got, want[:, :image])  # whatever padding attends to, nobody reads


@RANKS
@given(
    layout=st.sampled_from(["ulysses3", "ring3", "ring2.ulysses2"]),
    lengths=st.tuples(st.integers(1, 9), st.integers(2, 9)),
    square=st.booleans(),
    dtype=st.sampled_from([torch.bool, torch.float64]),
)
def test_masks_made_of_shards_stand_for_the_padding(
    ranks: Ranks, layout: str, lengths: tuple[int, int], square: bool, dtype: torch.dtype
) -> None:
    world = ParallelismConfig.parse(layout).world_size
    assert max(ranks.run(with_padding, world, layout, lengths, square, dtype)) <= 1e-12


def counted(tokens: int, length: int) -> int:
    sequence = ShardedSequence(build_mesh(ParallelismConfig.parse("ring3"), "cpu"))
    share = sequence.cut(torch.arange(length), 0, "image")[
        : sequence.shards(("image",))[sequence.ranks.get_local_rank()]
    ]
    assert (share < tokens).sum() == sequence.count(tokens, "image")
    return sequence.count(tokens, "image")


@pytest.mark.parametrize(("tokens", "length"), [(0, 5), (3, 5), (5, 5), (1, 2), (4, 11)])
def test_ranks_count_the_first_tokens_they_hold(ranks: Ranks, tokens: int, length: int) -> None:
    assert sum(ranks.run(counted, 3, tokens, length)) == tokens


def one_for_all_tokens(layout: str) -> list[str]:
    """Tensors of one position before the stream's own, packed with another stream, counted, and after its end."""
    sequence = ShardedSequence(build_mesh(ParallelismConfig.parse(layout), "cpu"))
    one, x, both = torch.ones(2, 1, 4), torch.randn(2, 5, 4), torch.randn(2, 8, 4)
    for first in (one, x):
        sequence.begin()
        assert sequence.cut(first, 1, "image") is first or first is x
        share = sequence.cut(x, 1, "image")
        assert sequence.cut(one, 1, "image") is one
        assert torch.equal(sequence.gather(share, 1, "image"), x)
    sequence.begin()
    for stream, length in (("text", 3), ("image", 1)):
        sequence.cut(torch.ones(length), 0, stream)
    packed = sequence.cut_packed(both, 1, ("text", "image"))
    text = packed[:, : sequence.held(("text",))[0][0]]
    assert torch.equal(sequence.gather(text, 1, "text"), both[:, :3])
    assert sequence.lengths == {"text": 3, "image": 5}
    sequence.begin()
    sequence.cut(one, 1, "image")
    assert sequence.count(5, "image") == sequence.held(("image",))[0][0]
    sequence.begin()
    sequence.cut(one, 1, "image")
    assert torch.equal(sequence.gather(one, 1, "image"), one)  # a stream of one token after all, which counts from here
    with pytest.raises(ValueError, match="has 5 positions along the image stream, which has 1") as error:
        sequence.cut(x, 1, "image")
    return [str(error.value)]


def test_a_tensor_of_one_position_does_not_fix_the_length_of_its_stream(ranks: Ranks) -> None:
    for layout in ("ring2", "ring3"):
        assert all(ranks.run(one_for_all_tokens, ParallelismConfig.parse(layout).world_size, layout))
