"""The factory's own part, on ranks that a test plays: how far ahead it reads, and what it makes of odd answers."""

import pickle
from dataclasses import replace
from queue import SimpleQueue

import pytest
from rich.console import Console

from ditmesh.batch import factory
from ditmesh.batch.books import opened
from ditmesh.batch.factory import AHEAD, Factory, Order, check_folder, judged
from ditmesh.batch.files import RawRow
from ditmesh.batch.manifest import Manifest, records
from ditmesh.batch.pictures import Recipe
from ditmesh.batch.rows import check_rows
from ditmesh.replicas.messages import Draw, Drawn
from ditmesh.replicas.requests import Judged, Result
from ditmesh.replicas.supervisor import Supervisor
from tests.replicas.puppets import Puppet, Puppets
from tests.replicas.watching import demo


class Painter(Puppet):
    """Draws at once: of each seed a file, but none of the prompt that is odd."""

    def send(self, message: bytes) -> None:
        told = pickle.loads(message)
        if isinstance(told, Draw):
            asked = pickle.loads(told.request)
            odd = "odd" in (asked.call["prompt"] if len(asked.seeds) > 1 else [asked.call["prompt"]])
            files = [
                Result(b"%d" % seed, "image/png", facts, 1, 1)
                for seed, facts in zip(asked.seeds, asked.facts, strict=True)
            ]
            self.say(Drawn(asked.id, tuple(files[odd:]), {"queued": 9.0, "steps": 1.0}))


class Painters(Puppets):
    def start(self, replica, job, tell):
        made = super().start(replica, job, tell)
        painter = Painter(made.number, made.size, tell)
        painter.load()
        painter.say(Judged("", {"prompt": None}, "cpu", "float32"))
        return painter


class Rows:
    """Streams of rows, and how many each has given."""

    def __init__(self, prompts):
        self.prompts, self.given = prompts, list[int]()

    def __call__(self):
        at = len(self.given)
        self.given.append(0)
        for line, prompt in enumerate(self.prompts, 1):
            self.given[at] += 1
            yield from check_rows([RawRow(line, {"prompt": prompt, "index": line - 1})])


def draw(order: Order, engine=None):
    events = SimpleQueue()
    with Supervisor(demo(), engine or Painters(), range(1, 2), events.put) as supervisor:
        assert judged(supervisor).device == "cpu"
        with opened(order.folder, Console(quiet=True)) as books:
            Factory(order, Manifest(order.folder), books, events).draw(supervisor)
        return books.tally


def test_rows_are_read_as_they_are_needed(tmp_path, monkeypatch):
    rows, ahead = Rows([f"picture {i}" for i in range(500)]), []
    order = Order(rows, demo(), Recipe(), tmp_path)
    request_of = factory.request_of

    def asked(id, pictures, order):
        there = sum(1 for _ in records(tmp_path / "manifest.jsonl"))
        ahead.append(rows.given[0] - there)
        return request_of(id, pictures, order)

    monkeypatch.setattr(factory, "request_of", asked)
    assert draw(order).drawn == 500
    assert max(ahead) <= AHEAD
    assert [record["seconds"] for _, record in records(tmp_path / "manifest.jsonl")] == [1.0] * 500
    check_folder(order, Manifest(tmp_path))
    with pytest.raises(ValueError, match=r"000000\.png is there, and is not the picture that this job would draw"):
        check_folder(replace(order, recipe=Recipe(seed=1)), Manifest(tmp_path))
    assert draw(order).kept == 500


def test_a_call_that_draws_too_few_costs_only_the_pictures_that_do_so_alone(tmp_path):
    tally = draw(Order(Rows(["a", "odd", "b"]), demo(), Recipe(), tmp_path, batch_size=3))
    assert (tally.drawn, tally.failed) == (2, 1)
    assert "the pipeline drew 0 pictures for 1 prompts" in (tmp_path / "failures.jsonl").read_text()


def test_without_any_replica_the_job_ends_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="there is room for 0"):
        draw(Order(Rows(["a"]), demo(), Recipe(), tmp_path), Painters(room=0, for_good=True))
