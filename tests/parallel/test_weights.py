"""Sharded weights: not a bit of the picture changes, a rank keeps its share, and gathers the blocks that run."""

from pathlib import Path

import pytest
import torch

from ditmesh import ParallelismConfig
from tests.cases import CASES
from tests.parallel.guidance import check
from tests.parallel.weights import adapted, cached, compiled, differs, failed, in_patches, life, sent, whole_at_once
from tests.ranks import Ranks
from tests.tiny import call_kwargs

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]


@pytest.mark.parametrize(
    ("layout", "name", "dtype"),
    [
        ("ulysses2", "flux", torch.float32), ("ring2", "wan", None), ("cfg2", "flux", torch.float32),
        ("tp2", "wan", torch.float32), ("ulysses2.tp2", "flux", torch.float32), ("cfg2.ulysses2", "wan", None),
        ("pp2.ulysses2", "flux", torch.float32),
    ],
)  # fmt: skip
def test_not_a_bit_changes_and_a_rank_keeps_its_share(
    ranks: Ranks, layout: str, name: str, dtype: torch.dtype | None
) -> None:
    for mine, share in ranks.run(life, ParallelismConfig.parse(layout).world_size, name, layout, dtype):
        assert 0 < share <= mine <= share * 1.02


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_sheet_is_the_same_to_the_bit(ranks: Ranks, name: str) -> None:
    assert ranks.run(differs, 2, name, "ulysses2") == [False, False]


@pytest.mark.parametrize(("name", "layout"), [("flux", "ulysses2"), ("wan", "ulysses3")])
def test_a_forward_gathers_each_block_once_to_the_byte(ranks: Ranks, name: str, layout: str) -> None:
    for calls, size, blocks, formula in ranks.run(sent, ParallelismConfig.parse(layout).world_size, name, layout):
        assert (calls, size) == (blocks, formula)


def test_two_blocks_are_whole_at_once(ranks: Ranks) -> None:
    for found, pairs in ranks.run(whole_at_once, 2, "flux"):
        assert len(found) == len(pairs)
        assert all(0.9 * pair <= more <= 1.2 * pair for more, pair in zip(found, pairs, strict=True))


@pytest.mark.parametrize("layout", ["ulysses2", "cfg2"])
def test_a_block_that_is_left_out_is_not_gathered(ranks: Ranks, layout: str) -> None:
    """The branches part: one is cached, the other is not."""
    shared, alone = (ranks.run(cached, 2, layout, shares) for shares in (True, False))
    for (made, gathers, runs), (want, before, _) in zip(shared, alone, strict=True):
        assert all(map(torch.equal, made, want))
        if layout == "ulysses2":
            assert runs == [16, 10, 10, 4]
            assert runs == [after - own for after, own in zip(gathers, before, strict=True)]


@pytest.mark.parametrize("layout", ["pp2.ulysses2", "pp2.tp2"])
def test_stages_gather_for_every_patch(ranks: Ranks, layout: str) -> None:
    for made, want in zip(*(ranks.run(in_patches, 4, layout, shares) for shares in (True, False)), strict=True):
        assert all(map(torch.equal, made, want))


@pytest.mark.slow
@pytest.mark.parametrize(("order", "kind"), [("before", None), ("after", None), ("after", "torchao int8")])
def test_compiled_blocks_are_gathered(ranks: Ranks, order: str, kind: str | None) -> None:
    ranks.run(compiled, 2, "ulysses2", order, kind)


def test_adapters_are_fused_into_shares(ranks: Ranks) -> None:
    shared, alone = (ranks.run(adapted, 2, "ulysses2", shares) for shares in (True, False))
    for (made, saved), (want, whole) in zip(shared, alone, strict=True):
        assert all(map(torch.equal, made, want))
        assert all(torch.equal(saved[key], x) for key, x in whole.items())


@pytest.mark.parametrize("layout", ["ulysses2", "cfg2"])
def test_the_request_after_a_failed_one_is_right(ranks: Ranks, flux: str, layout: str) -> None:
    ranks.run(failed, 2, flux, layout)


@pytest.mark.parametrize(
    ("name", "changed", "waits"),
    [("lumina2", {"cfg_trunc_ratio": 0.5, "num_inference_steps": 4}, 2), ("ltx2", {}, 2), ("wan_two", {}, 0),
     ("z_image", {"cfg_truncation": 0.3, "num_inference_steps": 4}, 2), ("qwen_image_controlnet", {}, 0)],
)  # fmt: skip
def test_a_rank_without_a_branch_gathers_with_the_other(
    ranks: Ranks, tmp_path: Path, name: str, changed: dict, waits: int
) -> None:
    extras = ["controlnet"]
    check(ranks, tmp_path, name, [call_kwargs(name) | changed], 1e-5, waits=waits, extras=extras, shard_weights=True)
