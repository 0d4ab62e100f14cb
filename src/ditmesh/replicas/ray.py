"""The engine of a Ray cluster: a placement group for each replica, and in it an actor for each rank.

A group that is too large for the cluster waits for ever, so it is compared with the nodes first. An actor that Ray
restarts has lost its process group, so none is restarted. A stopped process outlives `ray.kill`, so a task on its node
kills it.
"""

import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ditmesh.job.description import Job
from ditmesh.replicas.engine import NoRoom, RankDied, Tell
from ditmesh.replicas.ray_actor import LISTENING, THREADS, RankActor, Seat, kill_processes
from ditmesh.runtime.launch import LOOPBACK, LOOPBACK_DEVICE

SECONDS_TO_ANSWER = 5  # for the head of a cluster
SECONDS_TO_PLACE = 20  # for a group that the cluster is large enough for
SECONDS_TO_KILL = 10  # for a node to kill its ranks; one that is gone cannot
FORWARDED = ("DITMESH_", "HF_", "NCCL_", "GLOO_")  # of the supervisor's variables, what the ranks get too
OWN_GPUS = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}  # we say which can be seen: all of the replica's here


class RayEngine:
    """Starts the ranks of replicas on a cluster that runs, or on one of this machine alone that lasts as long as it."""

    def __init__(self, address: str | None = None):
        """
        Args:
            address: "auto" for the cluster that this machine belongs to, HOST:PORT of its head, or None to start one.

        Raises:
            ValueError: there is no such cluster.
        """
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do anyway, and warns about
        self._began = not ray.is_initialized()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        alone: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        try:
            if address not in (None, "auto"):
                check_reachable(address)
            ray.init(address=address or "local", ignore_reinit_error=True, **quiet, **alone)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"no Ray cluster answers at {address} ({_first_line(error)}); start one with `ray start --head`, name "
                f"the HOST:PORT that it prints, or leave the address out for a cluster of this machine."
            ) from error

    def start(self, replica: int, job: Job, tell: Tell) -> "RayRanks":
        need = {"CPU": 1.0, "GPU": 1.0} if needs_gpus(job) else {"CPU": 1.0}
        size = job.layout.world_size
        nodes = [places(node["Resources"], need) for node in ray.nodes() if node["Alive"]]
        if sum(nodes) < size:
            what = "GPU" if "GPU" in need else "CPU"
            raise NoRoom(
                f"a replica of {job.layout} needs {size} {what}s, and the cluster has {sum(nodes)} on {len(nodes)} "
                f"node(s); add nodes with `ray start --address`, or name a smaller layout."
            )
        strategy = "STRICT_PACK" if max(nodes) >= size else "PACK"
        return RayRanks(placement_group([need] * size, strategy), found_everywhere(job), tell)

    def close(self) -> None:
        if self._began:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Find out in a moment whether anything listens there: Ray itself waits for minutes, and ends the process then.

    Raises:
        OSError, ValueError: nothing does, or this is no HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()


def needs_gpus(job: Job) -> bool:
    """Whether each rank gets a GPU: if one is asked for, or the cluster has any and nothing else is asked for."""
    has_any = any(node["Alive"] and node["Resources"].get("GPU") for node in ray.nodes())
    return job.device == "cuda" or (job.device is None and has_any)


def places(has: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How many ranks a node has room for when nothing else runs there."""
    return min(int(has.get(name, 0) // amount) for name, amount in need.items())


def found_everywhere(job: Job) -> Job:
    """The job with its files named in full: a rank has another working folder."""

    def whole(source: Any) -> Any:
        path = Path(source).expanduser()
        return type(source)(path.absolute()) if path.exists() else source

    parts = tuple(replace(part, source=whole(part.source)) for part in job.parts)
    lora = job.lora and replace(job.lora, file=whole(job.lora.file))
    adapters = {name: whole(file) for name, file in job.adapters.items()}
    return replace(job, model=whole(job.model), parts=parts, lora=lora, adapters=adapters)


def files_of(job: Job) -> list[str]:
    """The files and folders of this machine that every node has to have."""
    sources = [job.model, *(part.source for part in job.parts), *job.adapters.values()]
    sources += [job.lora.file] if job.lora else []
    return [str(source) for source in sources if Path(source).exists()]


class RayRanks:
    """The actors of one replica: a thread that begins them and speaks to them, and one for each that hears it."""

    def __init__(self, group: PlacementGroup, job: Job, tell: Tell):
        self._group, self._job, self._tell = group, job, tell
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._ended = threading.Event()
        self._actors: list[Any] = []
        self._seats: list[Seat] = []
        self._hearing: list[threading.Thread] = []
        self._speaking = threading.Thread(target=self._begin_and_speak, daemon=True)
        self._speaking.start()

    def send(self, message: bytes) -> None:
        self._outbox.put(message)

    def end(self) -> None:
        self._ended.set()
        self._outbox.put(None)
        self._speaking.join()
        with suppress(RayError):
            kill_all(self._actors, self._seats)
        for thread in self._hearing:
            thread.join()
        with suppress(RayError):
            remove_placement_group(self._group)

    def _begin_and_speak(self) -> None:
        try:
            if not self._begin():
                return
            while (message := self._outbox.get()) is not None:
                for actor in self._actors:
                    actor.take.remote(message)
        except RayError as error:
            self._say(0, RankDied(0, f"the ranks could not be started: {_first_line(error)}"))

    def _begin(self) -> bool:
        """Place the ranks and have them run; whether there was room."""
        deadline = time.monotonic() + SECONDS_TO_PLACE
        while not self._group.wait(LISTENING):
            if self._ended.is_set():
                return False
            if time.monotonic() > deadline:
                free = ray.available_resources()
                has = ", ".join(f"{free.get(name, 0):g} {name}s" for name in self._group.bundle_specs[0])
                self._say(
                    0, NoRoom(f"{self._job.layout.world_size} ranks of one replica wait for room: {has} are free")
                )
                return False
        bundles: Mapping[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
        # Neighbours in the layout speak most, so the ranks of a node are neighbours.
        order = sorted(bundles, key=lambda bundle: (bundles[bundle], bundle))
        one_node = len(set(bundles.values())) == 1
        self._actors = [self._make(bundle) for bundle in order]
        self._seats = ray.get([actor.sit.remote() for actor in self._actors])
        master = LOOPBACK if one_node else self._seats[0].host  # on one node, no other machine can reach it
        port = ray.get(self._actors[0].listen.remote(master))
        job, files = pickle.dumps(self._job), files_of(self._job)
        common = {"MASTER_ADDR": master, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        common |= {"GLOO_SOCKET_IFNAME": LOOPBACK_DEVICE} if one_node else {}
        common |= {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
        for rank, actor in enumerate(self._actors):
            running = actor.run.remote(job, files, common | place_of(rank, self._seats))
            self._hearing.append(threading.Thread(target=self._hear, args=(rank, actor, running), daemon=True))
            self._hearing[-1].start()
        return True

    def _make(self, bundle: int) -> Any:
        place = PlacementGroupSchedulingStrategy(self._group, bundle)
        need = self._group.bundle_specs[bundle]
        remote: Any = ray.remote
        kind = remote(concurrency_groups=THREADS)(RankActor)
        return kind.options(
            num_cpus=need["CPU"],
            num_gpus=need.get("GPU", 0),
            max_restarts=0,
            scheduling_strategy=place,
            runtime_env={"env_vars": OWN_GPUS},
        ).remote()

    def _hear(self, rank: int, actor: Any, running: Any) -> None:
        why, seat = "ended", self._seats[rank]
        try:
            over = False
            while not over and not self._ended.is_set():
                over = bool(ray.wait([running], timeout=0)[0])
                for message in ray.get(actor.said.remote()):  # once more when it is over: its last words
                    self._say(rank, message)
            if over:
                ray.get(running)
        except RayActorError as error:
            why = f"is gone: {_why(error, seat.node)}"
        except RayError as error:
            why = "failed: " + _last_line(error)
        self._say(rank, RankDied(rank, f"rank {rank} (process {seat.pid} on {seat.host}) {why}"))

    def _say(self, rank: int, what: bytes | RankDied | NoRoom) -> None:
        if not self._ended.is_set():
            self._tell(rank, what)


def place_of(rank: int, seats: Sequence[Seat]) -> dict[str, str]:
    """What tells a rank who it is, as torchrun would."""
    here = [other for other, seat in enumerate(seats) if seat.node == seats[rank].node]
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(seats)),
        "LOCAL_RANK": str(here.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(here)),
        "CUDA_VISIBLE_DEVICES": ",".join(gpu for other in here for gpu in seats[other].gpus),
    }


def kill_all(actors: Sequence[Any], seats: Sequence[Seat]) -> None:
    """End the ranks and wait until they are gone, on every node that is still there."""
    for actor in actors:
        ray.kill(actor)
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    killing: list[Any] = []
    for node in {seat.node for seat in seats} & nodes:
        there = ray.remote(num_cpus=0, max_retries=0)(kill_processes).options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        )
        killing.append(there.remote([seat.pid for seat in seats if seat.node == node]))
    ray.wait(killing, num_returns=len(killing), timeout=SECONDS_TO_KILL) if killing else None


def _why(error: RayActorError, node: str) -> str:
    """Why an actor is gone; Ray's own words are of the part of it that noticed."""
    if node not in {one["NodeID"] for one in ray.nodes() if one["Alive"]}:
        return "its node is gone"
    if "exit type: SYSTEM_ERROR" in str(error):
        return "it was ended, as by SIGKILL (the system does this when memory runs out)"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]
