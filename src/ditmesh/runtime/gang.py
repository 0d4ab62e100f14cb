"""The ranks that draw one picture: what they tell each other about a request, and how they fail together.

A rank that fails writes why into the job's store and breaks its groups. Whoever waits in one of them gets an error at
once, reads why, and does the same. The groups are made again before the next request. A rank that neither comes nor
fails is waited for as long as ``DITMESH_TIMEOUT`` says, and then named; there is no further request.
"""

import json
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from ditmesh.runtime.collectives import all_gather
from ditmesh.runtime.mesh import TIMEOUT, Mesh, patience, replica_mesh
from ditmesh.upstream.process_groups import PrefixStore, Store, is_of_broken_group, world_store

TOLD = timedelta(seconds=2)  # for the cause of a failure to be in the store: it is written before groups are broken
COMES = timedelta(seconds=5)  # for a rank that is there to say so
ENDED_EARLY = "its call of a pipeline ended early; its own error says why"
LOOKS = 0.1  # seconds between two looks for a failure elsewhere
_gathered: Counter[tuple[int, ...]] = Counter()  # times that ranks gathered: the job's store remembers them


class Stopped(Exception):
    """All ranks leave their request together, between two of its steps, because they agreed to."""


class RanksLost(RuntimeError):
    """A rank did not come, so that no request can be drawn any more."""


class Gang:
    """The ranks of one replica, and the request they have in hand."""

    def __init__(self, mesh: Mesh):
        self.mesh, self.ranks = mesh, replica_mesh(mesh)
        self._lost = ""  # why there can be no further request
        self._watching = ExitStack()
        store: Any = world_store()
        self._beside: Store = store.clone()  # a connection of its own, for another thread

    def exchange(self, mine: bytes) -> list[bytes]:
        """The message of every rank; each is as long as this one's."""
        x = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(self.ranks.device_type)
        return [row.numpy().tobytes() for row in all_gather(x[None], 0, [1] * self.ranks.size(), self.ranks).cpu()]

    def __enter__(self) -> None:
        self.begin(lambda: True)

    def begin(self, is_under_way: Callable[[], bool]) -> None:
        """A request begins, which may end early without a word: then it is not under way any more.

        Raises:
            RanksLost: a rank does not come, or did not come to an earlier one.
        """
        if self._lost:
            raise RanksLost(f"no further request can be drawn: {self._lost}")
        if any(axis.is_ended for axis in self.mesh.axes):
            self._meet_again()
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(self._place(self._beside), over, is_under_way))
        watch.start()
        self._watching.callback(watch.join)
        self._watching.callback(over.set)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A request ends: well on all ranks, stopped on all, or with an error on all.

        Raises:
            ValueError: another rank refused the request.
            RanksLost: a rank did not come.
            RuntimeError: another rank failed.
        """
        with self._watching:
            if error is None or isinstance(error, Stopped):
                try:
                    self.exchange(b"\0")  # nobody returns a picture that another one did not finish
                    return  # well, or stopped
                except (RuntimeError, KeyboardInterrupt) as late:
                    error = late
        store, caused_here = self._place(world_store()), not _comes_from_another_rank(error)
        cause = _cause(store, error if caused_here else None)
        for axis in self.mesh.axes:
            axis.end()
        if not caused_here:
            raise self._without(store, cause) from error
        if kind is None:
            raise error

    def gather(self, what: str) -> None:
        """Wait for all ranks before they do together what each of them is asked for, outside of a request.

        Raises:
            RuntimeError: which rank did not come. Nothing is lost: they may come again.
        """
        place = self._place(world_store())
        _gathered[self.ranks.ranks] += 1
        store = PrefixStore(f"{_gathered[self.ranks.ranks]}", place)
        if missing := self._missing(store, "gather", patience()):
            _gathered[self.ranks.ranks] -= 1
            store.delete_key(f"gather/{dist.get_rank()}")
            raise RuntimeError(f"{what}: {_late(missing)}; each rank has a share of the weights: call it on all ranks.")

    def _place(self, store: Store) -> Store:
        """Where the ranks meet when a request fails; the next one has another place."""
        return PrefixStore(f"ditmesh/gang/{'-'.join(map(str, self.ranks.ranks))}/{self.ranks.made}", store)

    def _meet_again(self) -> None:
        """The request before has failed: make its groups again, when all ranks are there to make them."""
        store = self._place(world_store())
        if missing := self._missing(store, "again", patience()):
            self._lost = _words(missing)
            raise RanksLost(self._lost)
        for axis in self.mesh.axes:
            axis.get_group()

    def _watch(self, store: Store, over: threading.Event, is_under_way: Callable[[], bool]) -> None:
        """Interrupt the rank's waiting when another one fails, for backends whose groups break on one rank alone."""
        with suppress(dist.DistError):  # the job's store is gone, and the job with it
            while not over.wait(LOOKS):
                if not is_under_way():
                    _cause(store, RuntimeError(ENDED_EARLY))
                if store.check(["cause"]):
                    for axis in list(self.mesh.axes):
                        axis.interrupt()
                    return

    def _without(self, store: Store, cause: tuple[int, bool, str] | None) -> Exception:
        """The error of a rank that did nothing wrong."""
        if cause is not None:
            rank, is_refusal, words = cause
            return ValueError(words) if is_refusal else RuntimeError(f"rank {rank} failed: {words}")
        missing = json.dumps(self._missing(store, "here", COMES))
        missing = json.loads(store.compare_set("missing", "", missing))  # the ranks say the same, also who comes late
        if not missing:
            return RuntimeError(
                f"a rank came later than {_limit()}, so this request is not drawn; the next one can be."
            )
        self._lost = _words(missing)
        return RanksLost(self._lost)

    def _missing(self, store: Store, question: str, limit: timedelta) -> list[int]:
        """Who has not come to the store in time."""
        keys = {rank: f"{question}/{rank}" for rank in self.ranks.ranks}
        store.set(keys[dist.get_rank()], "")
        with suppress(RuntimeError):  # those that are missing are the answer
            store.wait(list(keys.values()), limit)
        return [rank for rank, key in keys.items() if not store.check([key])]


def _cause(store: Store, own: BaseException | None) -> tuple[int, bool, str] | None:
    """The first failure of the request: its rank, whether it is a refusal, and what it says."""
    if own is not None:
        words = str(own) if isinstance(own, ValueError) else traceback.format_exception_only(own)[-1].strip()
        told = json.dumps([dist.get_rank(), isinstance(own, ValueError), words])
        return json.loads(store.compare_set("cause", "", told))
    try:
        store.wait(["cause"], TOLD)
    except RuntimeError:  # of every kind of store
        return None
    return json.loads(store.get("cause"))


def _comes_from_another_rank(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised after, says that a group is broken or waited too long."""
    while error is not None:
        if is_of_broken_group(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit() -> str:
    return f"{TIMEOUT}={patience().total_seconds():g} seconds"


def _words(missing: Sequence[int]) -> str:
    return f"{_late(missing)}, or ended; start the job again."


def _late(missing: Sequence[int]) -> str:
    return f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} did not come within {_limit()}"
