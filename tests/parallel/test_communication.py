"""What is sent equals the published formulas, to the byte, in as few calls as the design promises."""

import pytest

from ditmesh import ParallelismConfig
from tests.cases.common import HEAD_DIM, HEADS
from tests.ranks import Ranks
from tests.transformers import communication

B, FLOAT, H = 2, 4, HEADS * HEAD_DIM
SIDE, TEXT = (4, 6), 8
IMAGE = SIDE[0] * SIDE[1]
SHAPE, ODD = (B, SIDE, TEXT, False), (B, (5, 5), 7, False)
FLUX, FLUX2, QWEN, WAN = (
    "flux", "flux2", "qwen_image", "wan",
)  # fmt: skip
LAYERS = {FLUX: 4, FLUX2: 4, QWEN: 2, WAN: 2}  # attention layers over the cut sequence
TOKENS = {FLUX: IMAGE + TEXT, FLUX2: IMAGE + TEXT, QWEN: IMAGE + TEXT, WAN: IMAGE}  # and how many tokens it has
CHANNELS = {FLUX: 4, FLUX2: 4, QWEN: 8, WAN: 16}  # of the output, a token
REDUCED = {FLUX: 2 * 2 + 2, FLUX2: 2 * 2 + 2, QWEN: 2 * 2}  # full-width all-reduces a token
MODULATION = {  # widths that are gathered whole under tensor parallelism
    FLUX: 2 * (6 + 6) * H + 2 * 3 * H + 2 * H,
    FLUX2: (6 + 6 + 3) * H + 2 * H,
    QWEN: 2 * (6 + 6) * H + 2 * H,
    WAN: 0,
}


def sent(ranks: Ranks, name: str, layout: str, shape: tuple = SHAPE) -> list[tuple[dict, dict]]:
    return ranks.run(communication, ParallelismConfig.parse(layout).world_size, name, layout, shape)


def ulysses_bytes(name: str, degree: int, tokens: int, width: int = H) -> int:
    """4 (S/U) h b (U-1)/U L"""
    return 4 * (tokens // degree) * width * FLOAT * (degree - 1) // degree * LAYERS[name] * B


def ring_bytes(name: str, degree: int, tokens: int, width: int = H) -> int:
    """2 (S/R) h b (R-1) L"""
    return 2 * (tokens // degree) * width * FLOAT * (degree - 1) * LAYERS[name] * B


def reduced_bytes(name: str, degree: int, image: int, text: int, text_length: int) -> int:
    """2 (T-1)/T S h b for each full-width all-reduce, and one number a token for each norm across heads."""
    # Wan: self-attention, cross-attention and MLP; norms of two queries and a key on the image, of a key on the text.
    of_wan = 2 * (3 * image * H + 3 * image + text_length)
    numbers = of_wan if name == WAN else REDUCED[name] * (image + text) * H
    return 2 * numbers * B * FLOAT * (degree - 1) // degree


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_ulysses_sends_two_collectives_a_layer(ranks: Ranks, name: str, degree: int) -> None:
    for calls, size in sent(ranks, name, f"ulysses{degree}"):
        assert calls == {"alltoall_base_": 2 * LAYERS[name], "_allgather_base_": 1}
        assert size["alltoall_base_"] == ulysses_bytes(name, degree, TOKENS[name])
        assert size["_allgather_base_"] == B * IMAGE // degree * CHANNELS[name] * FLOAT * (degree - 1)


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_ring_sends_keys_and_values_round(ranks: Ranks, name: str, degree: int) -> None:
    for calls, size in sent(ranks, name, f"ring{degree}"):
        hops = LAYERS[name] * (degree - 1)
        assert calls == {"send": hops, "recv_": hops, "_allgather_base_": 1}
        assert size["send"] == ring_bytes(name, degree, TOKENS[name])


@pytest.mark.parametrize("name", LAYERS)
def test_tensor_parallelism_reduces_each_row_shard_once(ranks: Ranks, name: str) -> None:
    for degree in (2, 4):
        for calls, size in sent(ranks, name, f"tp{degree}"):
            assert set(calls) == ({"allreduce_", "_allgather_base_"} if MODULATION[name] else {"allreduce_"})
            assert size["allreduce_"] == reduced_bytes(name, degree, IMAGE, TEXT, TEXT)
            assert size.get("_allgather_base_", 0) == B * MODULATION[name] * FLOAT * (degree - 1) // degree


@pytest.mark.parametrize("name", LAYERS)
def test_a_hybrid_sends_the_sum_of_its_parts(ranks: Ranks, name: str) -> None:
    for _, size in sent(ranks, name, "ring2.ulysses2.tp2"):
        assert size["alltoall_base_"] == ulysses_bytes(name, 2, TOKENS[name] // 2, H // 2)
        assert size["send"] == ring_bytes(name, 2, TOKENS[name], H // 2 // 2)
        assert size["allreduce_"] == reduced_bytes(name, 2, IMAGE // 4, TEXT // 4, TEXT)


@pytest.mark.parametrize("name", LAYERS)
def test_odd_lengths_exchange_no_sizes(ranks: Ranks, name: str) -> None:
    for calls, _ in sent(ranks, name, "ulysses3", ODD):
        assert calls == {"alltoall_base_": 2 * LAYERS[name] + 1}  # the last one gathers the uneven output
    for calls, _ in sent(ranks, name, "ring3", ODD):
        assert calls == {"send": 2 * LAYERS[name], "recv_": 2 * LAYERS[name], "alltoall_base_": 1}
