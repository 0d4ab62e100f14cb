"""What a supervisor makes of what its ranks say: who draws what, what is tried again, and when it gives up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ditmesh.replicas import books, seat
from ditmesh.replicas.messages import Broken, Here, NotDrawn
from ditmesh.replicas.requests import (
    Cancelled,
    Failed,
    Finished,
    Paused,
    Queued,
    ReplicaChanged,
    Resumed,
    Retried,
    Started,
    Stepped,
)
from ditmesh.replicas.supervisor import Supervisor
from tests.replicas.puppets import Puppet, Puppets
from tests.replicas.watching import Watcher, demo, request


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "FIRST_DELAY", 0)
    monkeypatch.setattr(books, "NEXT_LOOK", 0)


class Play:
    """A supervisor on puppets, and who watches it."""

    def __init__(self, engine: Puppets, supervisor: Supervisor, watcher: Watcher):
        self.engine, self.supervisor, self.watcher = engine, supervisor, watcher

    def puppet(self, started: int = 1, replica: int = 0) -> Puppet:
        """The ranks of a replica, when they have been started so often."""

        def own() -> list[Puppet]:
            return [one for one in self.engine.started if one.number == replica]

        self.watcher.wait(lambda: len(own()) >= started)
        return own()[started - 1]

    def draws(self, puppet: Puppet, id: str) -> None:
        """Wait until it was told to draw a request."""
        self.watcher.wait(lambda: id in puppet.drawn)

    def kinds(self, id: str) -> list[Any]:
        return [type(x) for x in self.watcher.of(id)]


@contextmanager
def play(replicas: range = range(1, 2), engine: Puppets | None = None, **facts: Any) -> Iterator[Play]:
    watcher, engine = Watcher(), engine or Puppets()
    with Supervisor(demo(facts.pop("layout", None)), engine, replicas, watcher, **facts) as supervisor:
        yield Play(engine, supervisor, watcher)
    assert engine.is_closed
    assert all(one.is_over for one in engine.started)


def test_the_highest_priority_goes_first_and_each_request_is_told_of_in_order() -> None:
    with play() as p:
        for id, priority in (("a", 0), ("b", 0), ("c", 5)):
            p.supervisor.submit(request(id, priority=priority))
        with pytest.raises(ValueError, match="id of its own"):
            p.supervisor.submit(request("a"))
        with pytest.raises(ValueError, match="no LoRA weights 'x'; there are: none"):
            p.supervisor.submit(request("d", lora=(("x", 1.0),)))
        assert p.supervisor.queued == 3
        p.watcher.event("c", Queued)
        puppet = p.puppet()
        puppet.load()
        for id in ("c", "a", "b"):
            p.draws(puppet, id)
            assert p.supervisor.replicas()[0].request == id
            puppet.say(Stepped(id, 1, 2))
            puppet.finish()
            p.watcher.event(id, Finished)
        assert puppet.drawn == ["c", "a", "b"]
        assert p.kinds("a") == [Queued, Started, Stepped, Finished]
        assert p.supervisor.replicas()[0].ranks[0].memory == 7
        assert p.supervisor.queued == 0
    with pytest.raises(ValueError, match="closed"):
        p.supervisor.submit(request("e"))


def test_what_waits_and_what_is_drawn_is_cancelled_paused_and_taken_up_again() -> None:
    with play() as p:
        puppet = p.puppet()
        puppet.load()
        for id in ("a", "b", "c"):
            p.supervisor.submit(request(id))
        p.draws(puppet, "a")
        p.supervisor.pause("b")
        p.supervisor.cancel("c")
        p.supervisor.cancel("nobody")
        p.watcher.event("c", Cancelled)
        assert p.supervisor.queued == 0
        puppet.say(Stepped("a", 3, 4))
        p.supervisor.pause("a")
        p.watcher.wait(lambda: puppet.stopped)
        puppet.leave(3)
        assert p.watcher.event("a", Paused).step == 3
        p.supervisor.resume("b")
        p.draws(puppet, "b")
        p.supervisor.resume("a")
        p.watcher.event("a", Resumed)
        puppet.finish()
        p.watcher.wait(lambda: puppet.drawn == ["a", "b", "a"])
        p.supervisor.pause("a")
        p.supervisor.resume("a")  # before its ranks have left it
        p.watcher.wait(lambda: puppet.stopped == 2)
        puppet.leave(1)
        p.watcher.wait(lambda: puppet.drawn == ["a", "b", "a", "a"])
        p.supervisor.cancel("a")
        p.watcher.wait(lambda: puppet.stopped == 3)
        puppet.finish()  # they were done before they heard of it
        p.watcher.event("a", Cancelled)
        assert p.kinds("b") == [Queued, Paused, Resumed, Started, Finished]


def test_a_lost_replica_is_started_again_and_costs_its_request_one_retry() -> None:
    with play(layout="ulysses2") as p:
        p.supervisor.submit(request("a"))
        for life in (1, 2):
            puppet = p.puppet(life)
            puppet.load()
            p.draws(puppet, "a")
            puppet.die(f"rank 1 was ended by SIGKILL, {life}")
            puppet.finish()  # too late
        end = p.watcher.event("a", Failed)
        assert (end.why, end.by_request) == ("rank 1 was ended by SIGKILL, 2", False)
        assert p.kinds("a") == [Queued, Started, Retried, Started, Failed]
        p.supervisor.submit(request("b"))
        puppet = p.puppet(3)
        puppet.load()
        p.draws(puppet, "b")
        puppet.fail("too large")
        assert p.watcher.event("b", Failed) == Failed("b", "too large", by_request=True)
        p.supervisor.submit(request("c"))
        p.draws(puppet, "c")  # the same ranks: they failed alike
        puppet.say(NotDrawn("c", "no memory"), ranks=[1])
        puppet.finish()
        assert "rank 1 and not on every rank" in p.watcher.event("c", Retried).why
        assert p.supervisor.replicas()[0].restarts == 3
        p.supervisor.cancel("c")


def test_a_replica_that_never_loads_is_given_up_and_one_that_is_refused_at_once() -> None:
    with play() as p:
        p.supervisor.submit(request("a"))
        for life in (1, 2, 3):
            p.puppet(life).say(Here(1, "here", "CPU"), Broken("no memory is left"))
        end = p.watcher.event("a", Failed)
        assert (end.why, end.by_request) == ("rank 0: no memory is left", False)
        p.supervisor.submit(request("b"))
        assert p.watcher.event("b", Failed).why == p.supervisor.broken == "rank 0: no memory is left"
        assert len(p.engine.started) == 3
    with play() as p:
        p.puppet().say(Broken("this model has no such layout", for_good=True))
        p.watcher.wait(lambda: p.supervisor.broken)
        assert p.supervisor.replicas()[0].state == "gone"
        assert len(p.engine.started) == 1


def test_replicas_wait_for_room_and_too_few_for_ever_is_the_end() -> None:
    with play(range(1, 3), Puppets(room=1)) as p:
        p.watcher.wait(lambda: p.supervisor.replicas()[1].why == "there is room for 1")
        assert p.supervisor.replicas()[1].state == "waiting"
        assert not p.supervisor.broken
        p.engine.room = 2
        p.puppet(replica=1)
    with play(range(2, 3), Puppets(room=1, for_good=True)) as p:
        p.watcher.wait(lambda: p.supervisor.broken)
        assert p.supervisor.broken == "there is room for 1"


def test_silent_ranks_are_lost_whether_they_draw_or_not() -> None:
    with play(patience=0.6) as p:
        puppet = p.puppet()
        puppet.load()
        changed = p.watcher.wait(
            lambda: [x for x in p.watcher.events if isinstance(x, ReplicaChanged) and x.replica.why]
        )
        assert "rank 0 has said nothing" in changed[0].replica.why
        assert puppet.is_over
        p.puppet(2)


def test_closing_now_cancels_and_draining_draws_what_is_in_line_but_not_what_is_paused() -> None:
    with play() as p:
        p.supervisor.submit(request("a"))
        p.supervisor.close(drain=False)
        assert p.kinds("a")[-1] is Cancelled
    with play() as p:
        puppet = p.puppet()
        puppet.load()
        for id in ("a", "b"):
            p.supervisor.submit(request(id))
        p.supervisor.pause("b")
        p.watcher.event("b", Paused)
        p.draws(puppet, "a")
        puppet.finish()
    assert (p.kinds("a")[-1], p.kinds("b")[-1]) == (Finished, Cancelled)
    assert p.supervisor.replicas()[0].state == "gone"


def test_a_listener_that_fails_ends_the_ranks_and_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(event: Any) -> None:
        if isinstance(event, Queued):
            raise KeyError("a mistake of the listener")

    engine = Puppets()
    supervisor = Supervisor(demo(), engine, range(1, 2), fail)
    told = list[str]()
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.append(str(failed.exc_value)))
    supervisor.__enter__().submit(request("a"))
    with pytest.raises(RuntimeError, match="its own error"):
        supervisor.close(drain=True)
    assert told == ["'a mistake of the listener'"]
    assert engine.started[0].is_over
