"""Ranks that draw requests in step, on every kind of layout: whatever happens, they draw the same as before."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import ditmesh
from ditmesh.job import load
from ditmesh.replicas.drawing import Easel
from ditmesh.replicas.messages import Drawn, Left, NotDrawn
from ditmesh.replicas.requests import Preview, Stepped
from tests.ranks import Ranks
from tests.replicas.watching import DEMO, demo, pixels, request
from tests.upstream.lora import save_lora

# Stages a step apart, with deferred latents; a promise of the other branch; a cache whose decisions are collective; the
# decoder shared by bands.
JOBS: dict[str, dict[str, Any]] = {
    "pp2": {},
    "cfg2": {"negative_prompt": "blue", "extra_input_kwargs": "{'true_cfg_scale': 2.0}"},
    "ulysses2": {"cache": True, "max_warmup_steps": 1, "parallel_vae": True},
    "tp2": {},
}


def walk(layout: str | None, adapters: dict[str, Path]) -> dict[str, Any]:
    """What a rank answers to several requests, and says on the way."""
    job = replace(demo(layout, steps=6, **JOBS.get(layout or "", {})), adapters=adapters)
    pipe, _ = load.prepare(job, torch.float32, torch.device("cpu"))
    pipe.set_progress_bar_config(disable=True)
    said = list[Any]()
    rank = 0 if layout is None else dist.get_rank()
    easel, asked = Easel(pipe, job, rank == 0, said.append), count()

    def stops() -> bool:
        return rank == 1 and next(asked) == 2  # one rank is told, before its third step

    def one(id: str, is_stopped: Any = lambda: False, **facts: Any) -> Any:
        facts["call"] = {"height": 64, "width": 64, **facts.get("call", {})}
        call = {**job.call, **facts.pop("call")}
        return easel.draw(request(id, call=call, **facts), is_stopped)

    answers = {
        "first": one("first"),
        "left": one("left", stops),
        "after it": one("after it"),
        "looked at": one("looked at", previews=2),
        "adapted": one("adapted", lora=(("strong", 0.5),) if adapters else ()),
        "bad": one("bad", call={"max_sequence_length": 10**6}),
        "after all": one("after all"),
    }
    if layout is not None:
        ditmesh.disable_cache(pipe)
    return {**answers, "said": said}


@pytest.mark.slow
@pytest.mark.parametrize("layout", JOBS)
def test_whatever_happens_to_a_request_the_next_one_is_right(ranks: Ranks, layout: str) -> None:
    leader, other = ranks.run(walk, 2, layout, {})
    want = leader["first"].results[0].content
    assert want
    for id in ("after it", "looked at", "after all"):
        assert isinstance(leader[id], Drawn), leader[id]
        assert leader[id].results[0].content == want
        assert isinstance(other[id], Drawn)
    step = 3 if layout == "pp2" else 2  # where none waits for the other they are told one step later
    assert leader["left"] == other["left"] == Left("left", step)
    assert isinstance(leader["bad"], NotDrawn)
    assert isinstance(other["bad"], NotDrawn)
    assert "max_sequence_length" in leader["bad"].why
    assert other["said"] == []
    steps = [x for x in leader["said"] if isinstance(x, Stepped)]
    assert [(x.step, x.steps) for x in steps if x.id == "first"] == [(step, 6) for step in range(1, 7)]
    assert [x.index for x in leader["said"] if isinstance(x, Preview)] == [0, 1]


@pytest.mark.slow
def test_lora_weights_are_shared_out_with_the_linears_they_adapt(ranks: Ranks, tmp_path: Path) -> None:
    adapters = {"strong": save_lora(DEMO, tmp_path)}
    leader, _ = ranks.run(walk, 2, "tp2", adapters)
    alone = walk(None, adapters)
    drawn = {
        id: [pixels(x[id].results[0].content) for x in (leader, alone)] for id in ("first", "adapted", "after all")
    }
    for ours, theirs in drawn.values():
        assert np.abs(ours - theirs).max() <= 1
    assert np.array_equal(drawn["first"][0], drawn["after all"][0])
    assert np.abs(drawn["first"][0] - drawn["adapted"][0]).max() > 9
