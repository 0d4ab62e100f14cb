"""What the ranks of a request agree on before it begins: its arguments, and its randomness."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from ditmesh.runtime.gang import Gang

DIGEST = hashlib.sha256().digest_size


@contextmanager
def alike(gang: Gang, given: Mapping[str, object]) -> Iterator[None]:
    """All ranks were given the same, and draw at random what the first would draw alone.

    That costs one message a request. The first rank's generators go on from there; the others' are as before then.

    Args:
        given: the arguments of the request by name. Functions may differ.

    Raises:
        ValueError: on all ranks, what differs.
    """
    digests = {name: digest(x) for name, x in given.items() if x is not None and not isinstance(x, Callable)}
    own = _random_state(gang)
    summed = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).digest()
    messages = gang.exchange(summed + own)
    if any(message[:DIGEST] != summed for message in messages):
        raise ValueError(
            f"ranks that draw one picture were asked for different ones ({', '.join(_differences(gang, digests))} "
            f"differ); call the pipeline with the same arguments on each of them, or draw apart with dp_size."
        )
    _set_random_state(gang, messages[0][DIGEST:])
    try:
        yield
    finally:
        if gang.ranks.get_local_rank() > 0:
            _set_random_state(gang, own)


def share_randomness(gang: Gang) -> None:
    """From here on all ranks draw at random what the first draws."""
    _set_random_state(gang, gang.exchange(_random_state(gang))[0])


def digest(x: object) -> str:
    """A short text that is the same for the same argument on any rank."""
    found = hashlib.sha256()
    _add(x, found.update)
    return found.hexdigest()[:16]


def _add(x: object, add: Callable[[bytes], object]) -> None:
    if isinstance(x, Generator):
        x = x.get_state()
    if isinstance(x, Tensor):
        add(f"{tuple(x.shape)} {x.dtype}".encode())
        add(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(x, Mapping):
        for key in sorted(x, key=repr):
            add(repr(key).encode())
            _add(x[key], add)
    elif isinstance(x, list | tuple):
        add(f"{len(x)} of".encode())
        for one in x:
            _add(one, add)
    elif isinstance(x, str | int | float | bytes | None):
        add(repr(x).encode())
    else:
        _add_array(x, add)


def _add_array(x: object, add: Callable[[bytes], object]) -> None:
    """A numpy array or a picture, by its numbers; anything else by its kind."""
    import numpy as np
    from PIL import Image

    add(type(x).__name__.encode())
    if isinstance(x, np.ndarray | Image.Image):
        array = np.asarray(x)
        add(f"{array.shape} {array.dtype}".encode())
        add(array.tobytes())


def _differences(gang: Gang, digests: Mapping[str, str]) -> list[str]:
    """The names of what differs, on every rank the same."""
    told = json.dumps(digests).encode()
    longest = max(int.from_bytes(size, "little") for size in gang.exchange(len(told).to_bytes(8, "little")))
    ranks = [json.loads(message) for message in gang.exchange(told.ljust(longest))]
    names = dict.fromkeys(name for rank in ranks for name in rank)
    return [name for name in names if len({rank.get(name) for rank in ranks}) > 1]


def _random_state(gang: Gang) -> bytes:
    states = [torch.get_rng_state()]
    if gang.ranks.device_type == "cuda":
        states.append(torch.cuda.get_rng_state())
    return b"".join(state.numpy().tobytes() for state in states)


def _set_random_state(gang: Gang, told: bytes) -> None:
    state = torch.frombuffer(bytearray(told), dtype=torch.uint8)
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].clone())
    if gang.ranks.device_type == "cuda":
        torch.cuda.set_rng_state(state[size:].clone())
