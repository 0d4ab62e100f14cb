"""What the ranks of a request agree on before it begins: its arguments, and its randomness."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, cast

import torch
from torch import Generator, Tensor

from ditmesh.runtime.gang import Gang

DIGEST = hashlib.sha256().digest_size
FEW, APART = 64, 7919  # how many of the latents' numbers are compared, and how far apart these lie
ADVICE = "call the pipeline with the same arguments on each of them, or draw apart with dp_size"
ADVICE_IF_FOUND = (
    "this pipeline was made of the parts of an enabled one, and its first call may draw noise before ditmesh sees it: "
    "pass the same arguments and a generator with the same seed on each of them; later calls need no generator"
)


class Agreement:
    """One message a request: all ranks were given the same, and draw at random what the first would draw alone."""

    def __init__(self, gang: Gang):
        self.gang = gang
        self._own: bytes | None = None  # the state of this rank's generators before the request

    def begin(self, given: Mapping[str, object], advice: str = ADVICE) -> None:
        """Make sure of the arguments of a request, by name, and take over the first rank's generators.

        Raises:
            ValueError: on all ranks, what differs. Functions may.
        """
        digests = {name: digest(x) for name, x in given.items() if x is not None and not isinstance(x, Callable)}
        own = _random_state(self.gang)
        summed = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).digest()
        messages = self.gang.exchange(summed + own)
        if any(message[:DIGEST] != summed for message in messages):
            _refuse(_differences(self.gang, digests), advice)
        _set_random_state(self.gang, messages[0][DIGEST:])
        self._own = own

    def end(self) -> None:
        """The request is over: the first rank's generators go on from there, the others' are as before."""
        if self._own is not None and self.gang.ranks.get_local_rank() > 0:
            _set_random_state(self.gang, self._own)
        self._own = None

    def check_noise(self, latents: Tensor) -> None:
        """Make sure that the ranks begin with the same latents, where these were drawn before ``begin``.

        Raises:
            ValueError: on all ranks, that they do not.
        """
        flat = latents.detach().flatten()
        few = flat[torch.arange(FEW, device=flat.device) * APART % len(flat)].float().cpu()
        first, *others = (torch.frombuffer(bytearray(x), dtype=few.dtype) for x in self.gang.exchange(_bytes(few)))
        # Noise differs by as much as it is large, and what kernels make of the same numbers by its rounding.
        if any((first - other).abs().max() > 0.1 * first.abs().max() for other in others):
            _refuse(["the first latents"], ADVICE_IF_FOUND)


def _refuse(names: Sequence[str], advice: str) -> NoReturn:
    raise ValueError(
        f"ranks that draw one picture were asked for different ones ({', '.join(names)} differ); {advice}."
    )


def _bytes(x: Tensor) -> bytes:
    return x.numpy().tobytes()


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
        add(_bytes(x.detach().cpu().contiguous().flatten().view(torch.uint8)))
    elif isinstance(x, Mapping):
        items = cast("Mapping[object, object]", x)
        for key in sorted(items, key=repr):
            add(repr(key).encode())
            _add(items[key], add)
    elif isinstance(x, list | tuple):
        several = cast("Sequence[object]", x)
        add(f"{len(several)} of".encode())
        for one in several:
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
    return b"".join(map(_bytes, states))


def _set_random_state(gang: Gang, told: bytes) -> None:
    state = torch.frombuffer(bytearray(told), dtype=torch.uint8)
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].clone())
    if gang.ranks.device_type == "cuda":
        torch.cuda.set_rng_state(state[size:].clone())
