"""The ranks that draw one picture: what they tell each other about a request, and how they fail together.

A rank that fails writes why into the job's store and ends its groups. Whoever waits for it in a collective gets an
error at once, reads why, and does the same. The groups are made again before the next request. A rank that neither
comes nor fails is waited for as long as ``DITMESH_TIMEOUT`` says, and then named.
"""

import json
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist

from ditmesh.runtime.collectives import all_gather
from ditmesh.runtime.mesh import TIMEOUT, Mesh, patience, replica_mesh
from ditmesh.upstream.process_groups import PrefixStore, Store, world_store

TOLD = timedelta(seconds=2)  # for the cause of a failure to be in the store: it is written before groups are ended
COMES = timedelta(seconds=5)  # for a rank that is there to say so
BACKEND = ("torch/distributed/", "torch\\distributed\\")  # where an error comes from that another rank caused


class Gang:
    """The ranks of one replica, and the request they have in hand."""

    def __init__(self, mesh: Mesh):
        self.mesh, self.ranks = mesh, replica_mesh(mesh)
        self._failures = 0
        self._silent = ""  # why there can be no further request

    def exchange(self, mine: bytes) -> list[bytes]:
        """The message of every rank; each is as long as this one's."""
        x = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(self.ranks.device_type)
        return [row.numpy().tobytes() for row in all_gather(x[None], 0, [1] * self.ranks.size(), self.ranks).cpu()]

    def __enter__(self) -> None:
        """A request begins.

        Raises:
            RuntimeError: a rank did not come to an earlier one, so that none can be drawn any more.
        """
        if self._silent:
            raise RuntimeError(f"no further request can be drawn: {self._silent}")
        for axis in self.mesh.axes:
            axis.get_group()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A request ends: well on all ranks, or with an error on all.

        Raises:
            ValueError: another rank refused the request.
            RuntimeError: another rank failed, or did not come.
        """
        if error is None:
            try:
                self.exchange(b"\0")  # nobody returns a picture that another one did not finish
                return
            except RuntimeError as lost:
                error = lost
        caused_here = not _comes_from_another_rank(error)
        store = PrefixStore(f"ditmesh/{'-'.join(map(str, self.ranks.ranks))}/{self._failures}", world_store())
        self._failures += 1
        cause = self._cause(store, error if caused_here else None)
        for axis in self.mesh.axes:
            axis.end()
        if caused_here:
            return
        if cause is None:
            self._silent = self._who_did_not_come(store)
            raise RuntimeError(self._silent) from error
        rank, is_refusal, words = cause
        if is_refusal:
            raise ValueError(words) from error
        raise RuntimeError(f"rank {rank} failed, and the request with it: {words}") from error

    def _cause(self, store: Store, own: BaseException | None) -> tuple[int, bool, str] | None:
        """The first failure of the request: its rank, whether it is a refusal, and what it says."""
        if own is not None:
            words = str(own) if isinstance(own, ValueError) else traceback.format_exception_only(own)[-1].strip()
            told = json.dumps([dist.get_rank(), isinstance(own, ValueError), words])
            return json.loads(store.compare_set("cause", "", told))
        try:
            store.wait(["cause"], TOLD)
        except dist.DistStoreError:
            return None
        return json.loads(store.get("cause"))

    def _who_did_not_come(self, store: Store) -> str:
        store.set(f"here/{dist.get_rank()}", "")
        keys = {rank: f"here/{rank}" for rank in self.ranks.ranks}
        with suppress(dist.DistStoreError):  # those that are missing are the answer
            store.wait(list(keys.values()), COMES)
        missing = [rank for rank, key in keys.items() if not store.check([key])]
        return f"{_ranks(missing)} did not come within {TIMEOUT}={patience().total_seconds():g} seconds, or ended."


def _comes_from_another_rank(error: BaseException) -> bool:
    """Whether an error was raised by a collective, whose ranks are not all there."""
    if not isinstance(error, RuntimeError):
        return False
    *_, last = traceback.extract_tb(error.__traceback__) or [None]
    return last is not None and any(folder in last.filename for folder in BACKEND)


def _ranks(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers))
    return f"rank {named}" if len(numbers) == 1 else f"ranks {named or 'unknown'}"
