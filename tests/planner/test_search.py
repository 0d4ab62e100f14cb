"""Which layouts are looked at, in which order they are told, and what makes one fit that does not."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from ditmesh import ParallelismConfig
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import PipelineFacts, TransformerFacts
from ditmesh.planner.hardware import GIB, hardware
from ditmesh.planner.layouts import layouts
from ditmesh.planner.search import Question, search
from ditmesh.planner.workers import Answer
from ditmesh.planner.workload import Operator, Phase, Workload

CONFIG = {"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 19, "num_single_layers": 38}
FACTS = PipelineFacts(
    "FluxPipeline",
    {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"},
    {"transformer": TransformerFacts("FluxTransformer2DModel", CONFIG)},
)
JOB = Job(Example("toy", "FluxPipeline", "nowhere", "", 4), "nowhere", FACTS, ParallelismConfig(), {}, dtype="bfloat16")


def pretend(asked: Iterable[tuple[Job, int]], seconds: float | None = None) -> Iterator[tuple[int, Answer]]:
    """60 GiB of transformer and 24 of encoder, which tp and TE-P share out; arithmetic that all ranks share."""
    for place, (job, _) in enumerate(asked):
        layout, ranks = job.layout, job.layout.world_size
        if layout.pp_size > 1:
            yield place, ValueError("no stages here")
            continue
        copies = ranks // layout.tp_size if layout.shard_weights else 1
        shared = ranks if "text_encoder" in layout.extra_parallel_modules else 1
        weights = {"transformer": 60 * GIB // layout.tp_size // copies, "text_encoder": 24 * GIB // shared}
        slower = 1 + 0.02 * layout.tp_size + 0.05 * (layout.ring_size > 1)
        step = Phase("step", 4, (Operator("matmul", "bfloat16", int(1e15 * slower / ranks), 0),), (), GIB, 1)
        yield place, Workload(0, weights, {"cache": GIB}, (step, Phase("decode", 1, (), (), 2 * GIB, 1)), 0)


def ask(devices: int = 8, **fields: object) -> Question:
    return Question(hardware("L20"), devices, **fields)


def names(layouts: Iterable[ParallelismConfig]) -> list[str]:
    return [str(layout) for layout in layouts]


def test_every_layout_of_so_many_devices_is_there_once():
    assert names(layouts(2)) == ["tp2", "ulysses2", "ring2", "cfg2", "single", "pp2"]
    assert names(layouts(2, throughput=True, exactly=True)) == ["tp2", "ulysses2", "ring2", "cfg2", "dp2", "pp2"]
    found = names(layouts(8))
    assert len(found) == len(set(found))
    assert {"tp8", "ulysses4.tp2", "ring2.ulysses2.tp2", "cfg2.ulysses4", "pp2.tp2", "tp4"} <= set(found)
    assert not any(name.startswith("cfg4") for name in found)
    assert {layout.world_size for layout in layouts(6)} == {6, 3, 2, 1}


def test_what_fits_comes_first_by_time_and_what_does_not_is_told_by_how_much():
    plan = search(JOB, ask(text=True), pretend)
    told = {str(one.layout): one for one in plan.estimates}
    assert plan.best is not None
    assert str(plan.best.layout) == str(plan.estimates[0].layout) == "ulysses4.tp2"
    assert "is predicted to be fastest" in plan.reason
    fit = [one.seconds.total for one in plan.estimates if one.fits]
    assert fit == sorted(fit)
    # 60 + 24 / 8 + 1 + 2 + context of 2.2 do not fit into 44.5
    assert told["ulysses8"].over == pytest.approx((60 + 3 + 1 + 2 + 2.2 - 44.5) * GIB, rel=1e-3)
    assert told["ulysses8"].cures == ("--shard-weights",)
    assert told["single"].cures == ()  # there is nobody to share with
    assert told["pp2.tp4"].refused == "no stages here"
    assert "tp_size=16" not in told["tp8"].refused
    assert [one.fits for one in plan.estimates] == sorted((one.fits for one in plan.estimates), reverse=True)


def test_flags_that_make_a_layout_fit_are_the_fewest_that_do():
    plan = search(JOB, replace(ask(2), device=replace(hardware("L20"), memory=50 * GIB)), pretend)
    told = {str(one.layout): one for one in plan.estimates}
    assert told["tp2"].cures == ("--parallel-text",)
    assert told["ulysses2"].cures == ("--parallel-text", "--shard-weights")
    assert told["single"].cures == ()
    assert plan.best is None
    assert (
        "no exact layout fits 2 x L20; tp2 comes nearest and lacks 9.2 GiB; with --parallel-text it fits" in plan.reason
    )


def test_a_layout_that_a_model_cannot_run_says_why():
    transformer = TransformerFacts("FluxTransformer2DModel", {**CONFIG, "num_attention_heads": 7})
    odd = replace(FACTS, transformers={"transformer": transformer})
    plan = search(replace(JOB, facts=odd), ask(2), pretend)
    [refused] = [one for one in plan.estimates if str(one.layout) == "tp2"]
    assert "tp_size=2 does not divide" in refused.refused


def test_replicas_count_where_many_pictures_are_wanted():
    one, many = (search(JOB, ask(text=True, throughput=many), pretend) for many in (False, True))
    assert not any(found.layout.dp_size > 1 for found in one.estimates)
    assert many.best is not None
    told = {str(found.layout): found for found in many.estimates}
    assert told["dp2.tp4"].pictures_per_hour == pytest.approx(2 * told["tp4"].pictures_per_hour)
    assert many.best.pictures_per_hour == max(found.pictures_per_hour for found in many.estimates if found.fits)


def test_what_there_was_no_time_for_is_named():
    def slow(asked: Iterable[tuple[Job, int]], seconds: float | None) -> Iterator[tuple[int, Answer]]:
        assert seconds is not None
        yield from (answer for answer in pretend(asked) if answer[0] < 3)

    plan = search(JOB, ask(seconds=0.001), slow)
    assert {str(layout) for layout in plan.unseen} >= {"tp2", "single"}
    assert len(plan.estimates) == 3
