"""Real gangs of the demo model: what they draw, whatever happens to them while they draw it."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ditmesh.job.picture import facts_of
from ditmesh.replicas.requests import (
    Cancelled,
    Failed,
    Finished,
    Paused,
    Preview,
    Queued,
    Request,
    Resumed,
    Retried,
    Started,
    Stepped,
)
from ditmesh.replicas.supervisor import Supervisor
from tests.replicas.conftest import MakeEngine
from tests.replicas.watching import DEMO, Watcher, demo, pixels, request
from tests.upstream.lora import save_lora

pytestmark = pytest.mark.slow

FLAGS = ["demo", "--steps", "4", "--height", "64", "--width", "64", "--prompt", "a red circle", "--warmup", "0"]
LONG = 500  # steps: such a request is drawn for as long as a test needs it


class Gangs:
    """A supervisor with its replicas, and who watches it."""

    def __init__(self, supervisor: Supervisor, watcher: Watcher):
        self.supervisor, self.watcher = supervisor, watcher

    def submit(self, id: str, **facts: Any) -> None:
        self.supervisor.submit(request(id, **facts))

    def picture(self, id: str, **facts: Any) -> bytes:
        self.submit(id, **facts)
        return self.watcher.picture(id)

    def pid(self, rank: int, replica: int = 0) -> int:
        return self.supervisor.replicas()[replica].ranks[rank].pid


def gangs(engine: MakeEngine, layout: str | None, replicas: int, **facts: Any) -> Iterator[Gangs]:
    watcher = Watcher()
    with Supervisor(demo(layout), engine(replicas), range(replicas, replicas + 1), watcher, **facts) as supervisor:
        yield Gangs(supervisor, watcher)
        supervisor.close(drain=False)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lora(DEMO, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def pair(engine: MakeEngine, lora: Path) -> Iterator[Gangs]:
    """Two replicas of one rank."""
    yield from gangs(engine, None, 2, loras={"strong": lora})


@pytest.fixture(scope="module")
def gang(engine: MakeEngine) -> Iterator[Gangs]:
    """One replica of two ranks, which share the decoder as well."""
    yield from gangs(engine, "ulysses2", 1, patience=10)


def test_a_picture_is_the_file_that_generate_writes(pair: Gangs, generate: Any) -> None:
    job = demo(steps=4, height=64, width=64, prompt="a red circle", seed=3)
    pair.supervisor.submit(Request("a", job.call, (3,), (facts_of(job, job.call, 3),), previews=2))
    code, _, stderr = generate(*FLAGS, "--seed", 3, "--save-path", "a.png")
    assert code == 0, stderr
    assert pair.watcher.picture("a") == Path("a.png").read_bytes()  # though it was looked at on the way
    told = pair.watcher.of("a")
    assert [(x.step, x.steps) for x in told if isinstance(x, Stepped)] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [x.index for x in told if isinstance(x, Preview)] == [0, 1]
    shown = [pixels(x.content) for x in told if isinstance(x, Preview)]
    last = pixels(pair.watcher.picture("a"))
    away = [np.abs(x - last).mean() for x in shown]
    assert away[0] > away[1] > 0  # they come nearer
    [end] = pair.watcher.of("a", Finished)
    assert (end.results[0].media_type, end.results[0].width, end.results[0].height) == ("image/png", 64, 64)
    assert list(end.seconds) == ["queued", "text", "steps", "decode", "encode"]
    jpg, small = (pair.picture(f"jpg{x}", suffix=".jpg", quality=x) for x in (90, 20))
    assert Image.open(io.BytesIO(jpg)).format == "JPEG"
    assert len(small) < len(jpg)


def test_lora_weights_are_switched_by_name_and_leave_no_trace(pair: Gangs, generate: Any, lora: Path) -> None:
    plain = pair.picture("plain")
    code, _, stderr = generate(*FLAGS, "--lora-path", lora, "--disable-fuse-lora", "--save-path", "b.png")
    assert code == 0, stderr
    strong = pair.picture("strong", lora=(("strong", 1.0),))
    assert np.array_equal(pixels(strong), pixels(Path("b.png").read_bytes()))
    half = pair.picture("half", lora=(("strong", 0.5),))
    assert not np.array_equal(pixels(strong), pixels(half))
    pair.submit("plain too")
    assert pair.picture("plain again") == pair.watcher.picture("plain too") == plain  # on either replica


def test_a_request_that_fails_costs_itself_alone(pair: Gangs) -> None:
    restarts = [replica.restarts for replica in pair.supervisor.replicas()]
    pair.submit("bad", call={"max_sequence_length": 10**6})
    pair.submit("none", lora=(("strong", float("nan")),))
    end = pair.watcher.event("bad", Failed)
    assert end.by_request
    assert "max_sequence_length" in end.why
    [result] = pair.watcher.event("none", Finished).results
    assert (result.content, result.failed) == (b"", "the pipeline drew values that are no numbers")
    assert pair.picture("good") == pair.picture("good again")
    assert [replica.restarts for replica in pair.supervisor.replicas()] == restarts


def test_paused_on_one_replica_and_taken_up_on_the_other(pair: Gangs) -> None:
    want = pair.picture("undisturbed", steps=40)
    pair.submit("paused", steps=40)
    where = pair.watcher.event("paused", Started).replica
    pair.watcher.event("paused", Stepped)
    pair.supervisor.pause("paused")
    step = pair.watcher.event("paused", Paused).step
    assert 0 < step < 40
    for id in ("long", "longer"):
        pair.submit(id, steps=LONG)
        pair.watcher.event(id, Started)
    away = next(id for id in ("long", "longer") if pair.watcher.of(id, Started)[0].replica != where)
    pair.supervisor.cancel(away)
    pair.watcher.event(away, Cancelled)
    pair.supervisor.resume("paused")
    assert pair.watcher.picture("paused") == want
    assert [x.replica for x in pair.watcher.of("paused", Started)] == [where, 1 - where]
    for id in ("long", "longer"):
        pair.supervisor.cancel(id)
        pair.watcher.event(id, Cancelled)


def test_two_ranks_leave_a_request_together_and_draw_the_next_one(gang: Gangs) -> None:
    want = gang.picture("first")
    for what, end in (("cancel", Cancelled), ("pause", Paused)):
        gang.submit(what, steps=LONG)
        gang.submit(f"after {what}")
        gang.watcher.event(what, Stepped)
        vars(Supervisor)[what](gang.supervisor, what)
        gang.watcher.event(what, end)
        assert gang.watcher.picture(f"after {what}") == want
    gang.supervisor.cancel("pause")
    assert gang.picture("looked at", previews=3) == want
    assert len(gang.watcher.of("looked at", Preview)) == 3
    assert gang.supervisor.replicas()[0].restarts == 0


@pytest.mark.parametrize(("number", "rank", "words"), [(signal.SIGKILL, 1, "SIGKILL"), (signal.SIGSTOP, 0, "stopped")])
def test_a_rank_that_is_lost_in_mid_picture_costs_one_retry(
    gang: Gangs, number: signal.Signals, rank: int, words: str
) -> None:
    id = f"lost by {words}"
    want = gang.picture(f"not {id}", steps=60)
    gang.submit(id, steps=60)
    pids = [gang.pid(rank) for rank in (0, 1)]
    gang.watcher.event(id, Stepped)
    os.kill(pids[rank], number)
    assert words in gang.watcher.event(id, Retried).why
    gang.submit("behind it")
    assert gang.watcher.picture(id) == want
    assert not set(pids) & {gang.pid(rank) for rank in (0, 1)}
    kinds = [type(x) for x in gang.watcher.of(id) if not isinstance(x, Stepped)]
    assert kinds == [Queued, Started, Retried, Started, Finished]
    assert gang.watcher.event("behind it", Finished)
    assert not gang.watcher.of(id, Resumed)
