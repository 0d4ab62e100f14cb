"""A cache from the command line: what every flag makes of it, what is refused, and what a run says of it."""

import re

import pytest

from ditmesh import DBCacheConfig, DMDCalibratorConfig, ParamsModifier, TaylorSeerCalibratorConfig, steps_mask
from ditmesh.cli import main
from ditmesh.cli.examples import EXAMPLES
from ditmesh.cli.generate.cache import asked_cache
from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.job.caching import DEFAULTS, Cached
from ditmesh.runtime.world import World


def chosen(example: str = "flux", steps: int | None = 28, transformers: int = 1, file: dict | None = None, **flags):
    flags = {"cache": True, **flags}
    return asked_cache(Options(example, **flags), file or {}, EXAMPLES[example], transformers, steps)


def test_without_flags_the_command_line_has_defaults_of_its_own():
    assert chosen() == Cached(DBCacheConfig(**DEFAULTS))
    assert vars(chosen().config)["Fn_compute_blocks"] == 1
    assert chosen(cache=False) is None


def test_every_flag_is_a_field():
    fields = {
        "residual_diff_threshold": 0.3, "Fn_compute_blocks": 2, "Bn_compute_blocks": 3, "max_warmup_steps": 4,
        "warmup_interval": 2, "max_cached_steps": 9, "max_continuous_cached_steps": 5,
    }  # fmt: skip
    assert chosen(**fields) == Cached(DBCacheConfig(**fields))
    for policy, name in (("f", "fast"), ("ultra", "ultra")):
        mask = vars(chosen(mask_policy=policy).config)["steps_computation_mask"]
        assert list(mask) == steps_mask(total_steps=28, mask_policy=name)
    mask = vars(chosen(steps_mask=True).config)["steps_computation_mask"]
    assert list(mask) == steps_mask(total_steps=28, mask_policy="medium")
    assert chosen(taylorseer=True, taylorseer_order=2).calibrator == TaylorSeerCalibratorConfig(taylorseer_order=2)
    dmd = chosen(dmd=True, dmd_history=5, dmd_svd_precision="high").calibrator
    assert dmd == DMDCalibratorConfig(dmd_history=5, dmd_svd_precision="high")
    assert chosen(foca=True).calibrator.calibrator_type == "foca"


def test_examples_have_settings_that_flags_go_before():
    eight, four = chosen("qwen_image_lightning", 8).config, chosen("qwen_image_lightning", 4).config
    assert (eight.Fn_compute_blocks, eight.Bn_compute_blocks, eight.max_warmup_steps) == (16, 16, 4)
    assert (four.max_cached_steps, four.residual_diff_threshold) == (1, 0.8)
    assert chosen("qwen_image_lightning", 8, Fn_compute_blocks=8).config.Fn_compute_blocks == 8

    (lists,) = chosen("flux2", residual_diff_threshold=0.1).modifiers
    assert [one.cache_config.residual_diff_threshold for one in lists] == pytest.approx([0.1, 0.3])
    first, second = chosen("wan2.2_t2v", 30, 2).modifiers
    assert first == (ParamsModifier(DBCacheConfig(max_warmup_steps=4, max_cached_steps=8)),)
    assert second == (ParamsModifier(DBCacheConfig(max_warmup_steps=2, max_cached_steps=20)),)
    first, second = chosen("wan2.2_t2v", 30, 2, max_warmup_steps=6).modifiers
    assert first == (ParamsModifier(DBCacheConfig(max_cached_steps=8)),)
    assert chosen("wan2.2_t2v", 30, 1).modifiers == ()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"cache": False, "residual_diff_threshold": 0.1}, "--rdt is for a cache.*add --cache"),
        ({"cache": False, "max_continuous_cached_steps": -1}, "--mcc is for a cache.*add --cache"),
        ({"cache": False, "mask_policy": "f"}, "--scm is for a cache.*add --cache"),
        ({"cache": False, "cache_summary": True}, "--summary is for a cache.*add --cache"),
        ({"cache": False, "taylorseer": True}, "--taylorseer extrapolates.*add --cache"),
        ({"taylorseer": True, "dmd": True}, "one forecast, and --taylorseer and --dmd were asked for"),
        ({"taylorseer_order": 2}, "--taylorseer-order is for --taylorseer"),
        ({"dmd_history": 5, "foca": True}, "--dmd-history is for --dmd"),
        ({"dmd": True, "dmd_svd_precision": "exact"}, "dmd_svd_precision='exact' is unknown"),
        ({"mask_policy": "quick"}, "--scm: there is no mask_policy 'quick'"),
        ({"steps_mask": True, "steps": None}, "--steps-mask is for a number of steps"),
        ({"steps": 4}, "the first 8 steps are always computed, and flux is drawn in 4.*add --ws 2"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        chosen(**flags)


def test_a_file_configures_all_of_it_and_flags_go_before_it(weightless, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "cache_config: {residual_diff_threshold: 0.2, enable_taylorseer: true, Fn_compute_blocks: 2}\n"
        "parallelism_config: {ulysses_size: auto, tp_size: 2, shard_weights: true, extra_parallel_modules: [vae]}\n"
        "attention_backend: native\n"
    )
    job = describe_job(Options("flux", model_path=weightless, config_path=file, nproc=4, max_warmup_steps=3), World())
    layout = job.layout
    assert (str(layout), layout.shard_weights, layout.extra_parallel_modules) == ("ulysses2.tp2", True, ("vae",))
    assert job.kernel == "native"
    config = DBCacheConfig(residual_diff_threshold=0.2, Fn_compute_blocks=2, max_warmup_steps=3)
    assert job.cache == Cached(config, TaylorSeerCalibratorConfig())
    with pytest.raises(ValueError, match=r"--parallel tp2, but --config .* says ulysses2\.tp2; use one"):
        describe_job(Options("flux", model_path=weightless, config_path=file, nproc=4, parallel="tp2"), World())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parallelism_config: {extra_parallel_modules: [vae]}", "extra_parallel_modules are shared over the ranks"),
        (
            "parallelism_config: {tp_size: 2, extra_parallel_modules: [text_encoder_9]}",
            "has no 'text_encoder_9' among its components",
        ),
        ("cash: {}", r"--config .*: there is no section 'cash'"),
    ],
)
def test_what_a_file_cannot_ask_for_is_refused(weightless, tmp_path, text, words):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        describe_job(Options("flux", model_path=weightless, config_path=tmp_path / "wrong.yaml"), World())


def test_more_blocks_than_there_are_are_refused_before_loading(generate, weightless):
    code, _, err = generate("flux", "--model-path", weightless, "--cache", "--Fn", 2, "--Bn", 2)
    assert code == 2
    assert "--cache: Fn_compute_blocks=2 and Bn_compute_blocks=2 are more than the 3 blocks" in err


def test_a_cached_run_says_what_was_cached_and_how_far_off_it_is(generate, tmp_path):
    flags = ["--height", 64, "--width", 64, "--steps", 6, "--ws", 2, "--rdt", 1, "--mcc", -1, "--taylorseer"]
    code, out, err = generate("demo", *flags, "--cache", "--summary", "--verify")
    assert code == 0, err
    tag = "DBCache_F1B0_W2I1M0MC0_R1_CFG0_T1O1_S4"
    assert f"single, {tag}" in out
    assert f"saved demo.64x64.single.{tag}.png" in out
    assert (tmp_path / f"demo.64x64.single.{tag}.verify.png").exists()
    assert out.count("| 4 of 6 | 16 of 36 |") == 2  # of each branch
    assert float(re.search(r"max \|difference\| (\S+) ", out)[1]) > 1e-4
    assert f"(single with {tag} against one process)" in out
    assert "more than rounding" not in out


def bench(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["bench", *map(str, arguments)])
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "add --cache-sweep"),
        (["--cache-sweep", "--thresholds", "a,b"], "write numbers by commas"),
        (["--cache-sweep", "--calibrator", "taylor"], "--calibrator taylor: use some of none, taylorseer"),
        (["--cache-sweep", "--save-path", "plot.svg"], "end the name in .png"),
        (["--cache-sweep", "--steps", 5], "always computed"),
    ],
    ids=str,
)
def test_bench_refuses_in_one_line(arguments, words, capsys):
    assert bench("demo", *arguments) == 2
    assert words in capsys.readouterr().err


def test_bench_sweeps_thresholds_and_plots_them(monkeypatch, tmp_path, capsys, generate):
    small = ["--height", 64, "--width", 64, "--steps", 6, "--ws", 2, "--repeat", 1]
    assert bench("demo", "--cache-sweep", "--thresholds", "1,0", "--calibrator", "none", *small) == 0
    out = capsys.readouterr().out
    exact, cached = [line.split() for line in out.splitlines() if line.startswith("none ")]
    assert exact[:4] == ["none", "0", "0.0", "0.0%"]
    assert exact[-3:] == ["inf", "dB", "1.0000"]
    assert cached[:4] == ["none", "1", "3.0", "41.7%"]  # of 4 steps in a row, one is computed: 15 of 36 calls
    assert (tmp_path / "demo.cache.png").stat().st_size > 10_000
