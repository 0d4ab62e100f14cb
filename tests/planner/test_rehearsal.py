"""Whole pipelines: what a rehearsal says of a rank is what the rank does, however it is laid out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import ditmesh
from ditmesh import DBCacheConfig
from ditmesh.job.caching import Cached
from ditmesh.job.description import Job
from ditmesh.job.quantization import Quantization
from ditmesh.planner.rehearsal import rehearse, weights_of
from ditmesh.planner.workload import Workload
from ditmesh.upstream.operators import COLLECTIVES
from tests.counting import CommunicationCounter
from tests.planner.jobs import job
from tests.ranks import Ranks

WAYS: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("flux2", "tp2", ("text_encoder", "vae"), {}),
    ("flux2", "ulysses2", ("vae",), {"shard_weights": True}),
    ("qwen_image", "cfg2", (), {}),
    ("qwen_image", "pp2", (), {}),
    ("flux", "pp2", (), {}),
    ("wan_two", "ring2", ("text_encoder",), {}),
]
Answer = tuple[dict[str, int], dict[str, int]]  # bytes of weights by component, bytes sent by collective


def in_truth(jobs: list[Job]) -> list[Answer]:
    return [_in_truth(one) for one in jobs]


def _in_truth(one: Job) -> Answer:
    pipe = DiffusionPipeline.from_pretrained(one.model)
    pipe.set_progress_bar_config(disable=True)
    ditmesh.enable_cache(pipe, parallelism_config=one.layout)
    with CommunicationCounter() as counter:
        pipe(**one.call, generator=torch.Generator().manual_seed(0), output_type="pt")
    sent: Counter[str] = Counter()
    for operator, size in counter.bytes.items():
        sent[COLLECTIVES.get(operator, operator)] += size
    return weights_of(pipe), +sent


def said(workload: Workload) -> Answer:
    sent: Counter[str] = Counter()
    for phase in workload.phases:
        for message in phase.messages:
            sent[message.collective] += message.bytes * message.count * phase.repeats
    return dict(workload.weights), +sent


def test_what_is_held_and_sent(ranks: Ranks, tmp_path: Path) -> None:
    jobs = [job(name, layout, tmp_path, extras, **options) for name, layout, extras, options in WAYS]
    real = ranks.run(in_truth, 2, jobs)
    for number, one in enumerate(jobs):
        for rank in range(2):
            weights, sent = real[rank][number]
            found, predicted = said(rehearse(one, rank))
            assert found == weights, WAYS[number]
            # The forms of branches, which ranks tell each other once as objects, are not counted.
            assert predicted == pytest.approx(sent, abs=512 if one.layout.cfg_size > 1 else 0), WAYS[number]


def test_blocks_that_are_alike_are_counted_as_if_each_ran(tmp_path: Path) -> None:
    """Blocks stand in for each other here by the thirty, and nowhere there."""
    one = job("flux2", "tp2", tmp_path)
    counted = rehearse(one, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ditmesh.planner.blocks.Repeats.stand_in", lambda self, blocks, undo: None)
        patch.setattr("ditmesh.planner.blocks.Repeats.stand_in_for_calls", lambda self, model, notice, undo: None)
        each = rehearse(one, 0)
    assert counted.weights == each.weights
    for phase, other in zip(counted.phases, each.phases, strict=True):
        assert (phase.name, phase.repeats, phase.flops, phase.sent) == (
            other.name, other.repeats, other.flops, other.sent
        )  # fmt: skip
        assert phase.launches == pytest.approx(other.launches, rel=0.02)
        assert phase.activation_peak == pytest.approx(other.activation_peak, rel=0.02)


def test_what_a_cache_leaves_out_is_not_foretold(tmp_path: Path) -> None:
    one = job("flux", "single", tmp_path)
    call = {**one.call, "num_inference_steps": 4}
    cache = Cached(DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=2))
    found = rehearse(replace(one, call=call, cache=cache), 0)
    repeats = Counter({phase.name: 0 for phase in found.phases})
    for phase in found.phases:
        repeats[phase.name] += phase.repeats
    assert repeats["step"] == 4
    assert repeats["cached step"] == 0
    assert found.buffers["cache"] > 0
    flops = {phase.name: phase.flops for phase in found.phases}
    assert flops["cached step"] < flops["step"]


def test_quantized_weights_are_smaller_and_those_of_numbers_are_refused(tmp_path: Path) -> None:
    one = job("flux", "tp2", tmp_path)
    whole = rehearse(one, 0).weights["transformer"]
    int8 = rehearse(replace(one, quantized=Quantization("int8", ("transformer",))), 0)
    assert 0.25 < int8.weights["transformer"] / whole < 0.3
    with pytest.raises(ValueError, match="nf4: bitsandbytes makes such weights of numbers"):
        rehearse(replace(one, quantized=Quantization("nf4", ("transformer",))), 0)
