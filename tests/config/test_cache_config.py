"""The configurations of the cache: names and defaults, what is refused, masks, files."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import (
    BlockAdapter,
    CacheType,
    CalibratorConfig,
    DBCacheConfig,
    DMDCalibratorConfig,
    FoCaCalibratorConfig,
    ForwardPattern,
    ParallelismConfig,
    ParamsModifier,
    TaylorSeerCalibratorConfig,
    load_configs,
    steps_mask,
    strify,
)  # fmt: skip

DEFAULTS = {
    "cache_type": CacheType.DBCache, "Fn_compute_blocks": 8, "Bn_compute_blocks": 0, "residual_diff_threshold": 0.08,
    "max_accumulated_residual_diff_threshold": None, "max_warmup_steps": 8, "warmup_interval": 1,
    "max_cached_steps": -1, "max_continuous_cached_steps": -1, "enable_separate_cfg": None, "cfg_compute_first": False,
    "cfg_diff_compute_separate": True, "num_inference_steps": None, "steps_computation_mask": None,
    "steps_computation_policy": "dynamic", "force_refresh_step_hint": None, "force_refresh_step_policy": "once",
}  # fmt: skip


def test_fields_and_defaults() -> None:
    assert DBCacheConfig().as_dict() == DEFAULTS
    assert TaylorSeerCalibratorConfig().taylorseer_order == 1
    assert FoCaCalibratorConfig().calibrator_type == "foca"
    dmd = DMDCalibratorConfig()
    assert (dmd.dmd_history, dmd.dmd_rank, dmd.dmd_ridge, dmd.dmd_svd_precision) == (6, 0, 1e-8, "medium")
    assert not CalibratorConfig().enable_calibrator
    with pytest.raises(dataclasses.FrozenInstanceError):
        DBCacheConfig().Fn_compute_blocks = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("given", "message"), [
    ({"Fn_compute_block": 1}, "did you mean 'Fn_compute_blocks'"), ({"Fn_compute_blocks": 0}, "Fn_compute_blocks=0"),
    ({"Bn_compute_blocks": 1.5}, "Bn_compute_blocks=1.5"), ({"warmup_interval": 0}, "warmup_interval=0"),
    ({"steps_computation_policy": "statik"}, "did you mean 'static'"), ({"cache_type": "DBPrune"}, "DBPrune"),
    ({"steps_computation_mask": "fast"}, "steps_mask"), ({"steps_computation_mask": [0, 2]}, "list of 0 and 1"),
    ({"cfg_compute_first": True}, "cfg_diff_compute_separate=False"),
    ({"residual_diff_threshold": -0.1}, "residual_diff_threshold=-0.1"),
    ({"residual_diff_threshold": float("nan")}, "residual_diff_threshold=nan"),
    ({"max_accumulated_residual_diff_threshold": float("inf")}, "max_accumulated_residual_diff_threshold=inf"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DBCacheConfig(**given)


def test_a_config_changes_by_a_new_one() -> None:
    config = DBCacheConfig(Fn_compute_blocks=1)
    assert config.update(max_warmup_steps=4) == DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=4)
    assert config == DBCacheConfig(Fn_compute_blocks=1)
    assert config.reset(residual_diff_threshold=0.2).given == {"residual_diff_threshold"}


def test_a_modifier_changes_only_what_it_is_given() -> None:
    own, taylor = DBCacheConfig(Fn_compute_blocks=1), TaylorSeerCalibratorConfig()
    changed, calibrator = ParamsModifier(DBCacheConfig(max_warmup_steps=4)).of(own, None)
    assert (changed, calibrator) == (DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=4), None)
    assert ParamsModifier(calibrator_config=taylor).of(own, None) == (own, taylor)
    assert ParamsModifier(DBCacheConfig().reset(residual_diff_threshold=0.2)).of(own, taylor) == (
        DBCacheConfig(Fn_compute_blocks=1, residual_diff_threshold=0.2), taylor,
    )  # fmt: skip


@pytest.mark.parametrize(("steps", "policy", "mask"), [
    (28, "slow", "1111111101110011100110010001"), (28, "medium", "1111110110001100011000110001"),
    (28, "fast", "1111110100010000100000100001"), (28, "ultra", "1111001000001000000100000001"),
    (50, "fast", "11111111111001100000110000000110000000001100000001"),
    (50, "ultra", "11111110001100000000011000000000001100000000000001"),
    (20, "fast", "11111101000100001001"), (12, "fast", "111010010011"), (9, "fast", "111101001"),
    (8, "fast", "11101001"), (6, "slow", "111001"), (4, "fast", "1101"),
])  # fmt: skip
def test_masks(steps: int, policy: str, mask: str) -> None:
    assert "".join(map(str, steps_mask(total_steps=steps, mask_policy=policy))) == mask


def test_masks_of_bins_and_of_no_policy() -> None:
    assert steps_mask([2, 1], [3]) == [1, 1, 0, 0, 0, 1]
    for given in ({"total_steps": 5}, {}, {"cache_bins": [1]}):
        with pytest.raises(ValueError, match="steps"):
            steps_mask(**given)


@pytest.mark.parametrize("steps", range(10, 101))
def test_masks_of_all_lengths(steps: int) -> None:
    masks = [steps_mask(total_steps=steps, mask_policy=policy) for policy in ("slow", "medium", "fast", "ultra")]
    assert all(len(mask) == steps and mask[0] == mask[-1] == 1 for mask in masks)
    assert [sum(mask) for mask in masks] == sorted((sum(mask) for mask in masks), reverse=True)


def test_a_file_is_read_and_what_it_does_not_know_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    path = tmp_path / "cache.yaml"
    path.write_text(
        "cache_config: {max_warmup_steps: 4, enable_taylorseer: true, taylorseer_order: 2, cache_type: DBCache,\n"
        "  steps_computation_mask: fast, num_inference_steps: 28}\n"
        "parallelism_config: {ulysses_size: auto, tp_size: 2}\nattention_backend: native\n"
    )
    mask = tuple(steps_mask(total_steps=28, mask_policy="fast"))
    assert load_configs(path) == {
        "cache_config": DBCacheConfig(max_warmup_steps=4, steps_computation_mask=mask, num_inference_steps=28),
        "calibrator_config": TaylorSeerCalibratorConfig(taylorseer_order=2),
        "parallelism_config": ParallelismConfig(ulysses_size=4, tp_size=2),
        "attention_backend": "native",
    }
    for sections, message in (
        ({"cache_config": {"enable_sperate_cfg": True}}, "did you mean 'enable_separate_cfg'"),
        ({"cache_confg": {}}, "did you mean 'cache_config'"),
        ({"parallelism_config": {"ulysses": 2}}, "ulysses"),
        ({"cache_config": {"steps_computation_mask": "fast"}}, "num_inference_steps"),
        ({"cache_config": {"taylorseer_order": 2}}, "enable_taylorseer"),
        ({"cache_config": {"enable_dmd": True, "enable_foca": True}}, "choose one"),
        ({"parallelism_config": {"ulysses_size": "auto", "tp_size": 3}}, "do not divide 8"),
        ({"parallelism_config": {"ulysses_size": "auto", "tp_size": "auto"}}, "both auto"),
    ):
        with pytest.raises(ValueError, match=message):
            load_configs(sections)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"parallelism_config": 5}, "parallelism_config: 5 has no fields"),
        ({"cache_config": ["Fn_compute_blocks"]}, "cache_config: .* has no fields"),
        ({"cache_config": {5: 1}}, "has no fields"),
        ({"attention_backend": ["native"]}, "is no name of a kernel"),
        ({"cache_config": {"residual_diff_threshold": "high"}}, "residual_diff_threshold is 'high', where a number"),
        ({"cache_config": {"max_cached_steps": True}}, "max_cached_steps is True, where a whole number"),
        ({"cache_config": {"steps_computation_mask": 5}}, "where a list or a name or null belongs"),
        ({"cache_config": {"enable_dmd": 1}}, "enable_dmd is 1, where true or false"),
        ({"cache_config": {"enable_dmd": True, "dmd_ridge": [1]}}, "dmd_ridge is .* where a number"),
        ({"parallelism_config": {"tp_size": [2]}}, "tp_size is .* where a whole number"),
        ({"parallelism_config": {"parallel_kwargs": 5}}, "parallel_kwargs is 5, where a section"),
        ({"parallelism_config": {"parallel_kwargs": {"extra_parallel_modules": 5}}}, "is 5, where a list"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_named(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ditmesh.load_configs(sections)


def test_tags() -> None:
    config = DBCacheConfig(Fn_compute_blocks=1, residual_diff_threshold=0.24, max_continuous_cached_steps=3)
    parts = {"cache_config": config, "parallelism_config": ParallelismConfig(ulysses_size=4)}
    assert strify(parts) == "DBCache_F1B0_W8I1M0MC3_R0.24_CFG0_T0O0_Ulysses4"
    assert strify({**parts, "calibrator_config": TaylorSeerCalibratorConfig()}).endswith("T1O1_Ulysses4")


class Block(nn.Module):
    """Changes its tensor in place, as a user's own block may, and returns what its pattern says."""

    def __init__(self, pattern: ForwardPattern):
        super().__init__()
        self.linear, self.pattern = nn.Linear(8, 8), pattern


class WithText(Block):
    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Any:
        hidden_states += 0.1 * self.linear(hidden_states) + encoder_hidden_states.mean()
        streams = {"hidden_states": hidden_states, "encoder_hidden_states": encoder_hidden_states * 1.1}
        made = tuple(streams[name] for name in self.pattern.returns)
        return made if len(made) > 1 else made[0]


class WithoutText(Block):
    def forward(self, hidden_states: Tensor) -> Any:
        hidden_states += 0.1 * self.linear(hidden_states)
        streams = {"hidden_states": hidden_states, "encoder_hidden_states": hidden_states.mean(1, keepdim=True)}
        made = tuple(streams[name] for name in self.pattern.returns)
        return made if len(made) > 1 else made[0]


class Own(nn.Module):
    """A user's own transformer."""

    def __init__(self, pattern: ForwardPattern):
        super().__init__()
        torch.manual_seed(0)
        kind = WithText if pattern in list(ForwardPattern)[:3] else WithoutText
        self.blocks, self.pattern, self.kind = nn.ModuleList(kind(pattern) for _ in range(4)), pattern, kind

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            made = block(x, text) if self.kind is WithText else block(x)
            made = made if isinstance(made, tuple) else (made,)
            streams = dict(zip(self.pattern.returns, made, strict=True))
            x, text = streams["hidden_states"], streams.get("encoder_hidden_states", text)
        return torch.cat([x, text], dim=1)


@pytest.mark.parametrize("pattern", ForwardPattern)
def test_a_user_s_own_transformer_is_cached(pattern: ForwardPattern) -> None:
    model, x, text = Own(pattern), torch.randn(1, 5, 8), torch.randn(1, 2, 8)
    with torch.no_grad():
        want = model(x.clone(), text.clone())
        adapter = BlockAdapter(transformer=model, blocks=model.blocks, forward_pattern=pattern)
        config = DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=1)
        assert ditmesh.enable_cache(adapter, cache_config=config) is adapter
        ran: list[int] = []
        model.blocks[2].linear.register_forward_hook(lambda *_: ran.append(1))
        got = [model(x.clone(), text.clone()) for _ in range(3)]
    assert ran == [1]
    for output in got:
        torch.testing.assert_close(output, want)
    assert ditmesh.summary(adapter, logging=False)[0].cached_steps == (1, 2)
    ditmesh.disable_cache(adapter)
    with pytest.raises(ValueError, match="has no cache"):
        ditmesh.summary(adapter)


def test_an_adapter_names_what_it_lacks_and_layouts_need_a_sheet() -> None:
    model = Own(ForwardPattern.Pattern_3)
    with pytest.raises(ValueError, match="forward_pattern"):
        BlockAdapter(transformer=model, blocks=model.blocks)
    with pytest.raises(ValueError, match="does not hold"):
        BlockAdapter(transformer=model, blocks=nn.ModuleList(), forward_pattern=ForwardPattern.Pattern_3)
    adapter = BlockAdapter(transformer=model, blocks=model.blocks, forward_pattern=ForwardPattern.Pattern_3)
    with pytest.raises(ValueError, match="Own"):
        ditmesh.enable_cache(adapter, parallelism_config=ParallelismConfig(ulysses_size=2))


def test_a_calibrator_without_a_cache_is_refused() -> None:
    model = Own(ForwardPattern.Pattern_3)
    adapter = BlockAdapter(transformer=model, blocks=model.blocks, forward_pattern=ForwardPattern.Pattern_3)
    with pytest.raises(ValueError, match="pass cache_config"):
        ditmesh.enable_cache(
            adapter, DBCacheConfig(cache_type=CacheType.NONE), calibrator_config=TaylorSeerCalibratorConfig()
        )
