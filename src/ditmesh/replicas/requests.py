"""What is asked of the replicas, what becomes of it on the way, and what comes back: plain data, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One call of the pipeline, checked before it is submitted.

    Attributes:
        id: its name, which no other request has while this one is known.
        call: arguments by the pipeline's own names, images as Pillow has them; neither generator nor output_type.
        seeds: of each result's own noise, as ``job.call.noise_seed`` makes them; with several, the prompt is a list.
        facts: for each seed, what its file says about how it was made.
        suffix: the kind of file, as .png, .jpg, .webp or .mp4.
        quality: of a .jpg or .webp, up to 100; None for the usual.
        fps: frames per second of a video; None for the example's.
        priority: the highest goes first, and among equals who came first.
        previews: how many pictures are wanted on the way, evenly spread over the steps.
        lora: names that the supervisor was given files for, each with its scale.
    """

    id: str
    call: Mapping[str, Any]
    seeds: tuple[int, ...]
    facts: tuple[Mapping[str, object], ...]
    suffix: str = ".png"
    quality: int | None = None
    fps: int | None = None
    priority: int = 0
    previews: int = 0
    lora: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Result:
    """One file; of a seed there is one, or one for each layer where the pipeline draws layers.

    Attributes:
        failed: why there is no file, or None; ``content`` is empty then.
    """

    content: bytes = field(repr=False)
    media_type: str
    facts: Mapping[str, object]
    width: int
    height: int
    failed: str | None = None


@dataclass(frozen=True)
class Queued:
    id: str


@dataclass(frozen=True)
class Started:
    """A replica has begun to draw it; after a pause or a retry this comes again, and the steps begin anew."""

    id: str
    replica: int


@dataclass(frozen=True)
class Stepped:
    """So many steps are done; ``steps`` may grow where a pipeline goes through several loops."""

    id: str
    step: int
    steps: int


@dataclass(frozen=True)
class Preview:
    """The first result as it is by now, as a file of the request's kind; of a video its first frame, as .jpg."""

    id: str
    index: int
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Retried:
    """Its replica was lost, and it goes back in line, once."""

    id: str
    why: str


@dataclass(frozen=True)
class Paused:
    id: str
    step: int


@dataclass(frozen=True)
class Resumed:
    id: str


@dataclass(frozen=True)
class Finished:
    """The last event of a request that was drawn.

    Attributes:
        seconds: "queued", "text" (until the first step), "steps", "decode", "encode".
    """

    id: str
    results: tuple[Result, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """The last event of a request that was not drawn, and whether that is its own fault."""

    id: str
    why: str
    by_request: bool


@dataclass(frozen=True)
class Cancelled:
    """The last event of a request that nobody wants any more."""

    id: str


@dataclass(frozen=True)
class Rank:
    """A rank of a replica; ``memory`` in bytes, of its GPU if it has one, else of its process."""

    rank: int
    pid: int
    host: str
    device: str
    memory: int


@dataclass(frozen=True)
class Replica:
    """What a replica is at.

    Attributes:
        state: "waiting" (there is no room for it), "starting", "loading", "idle", "drawing", "restarting" (after a
            while), "gone".
        request: the id of what it draws.
        restarts: how often its ranks were lost.
        why: they were lost for the last time, or cannot be started.
        no_previews: why its pipeline shows nothing on the way; empty if it does.
    """

    number: int
    state: str
    request: str | None = None
    restarts: int = 0
    ranks: tuple[Rank, ...] = field(default=())
    why: str = ""
    no_previews: str = ""


@dataclass(frozen=True)
class ReplicaChanged:
    """A replica has another state than before."""

    replica: Replica


Event = (
    Queued | Started | Stepped | Preview | Retried | Paused | Resumed | Finished | Failed | Cancelled | ReplicaChanged
)
