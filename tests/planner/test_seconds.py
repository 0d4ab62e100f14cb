"""Seconds of hand-made work, against the same arithmetic done by hand."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from ditmesh.planner.hardware import Hardware, Link
from ditmesh.planner.messages import flows, groups_like, seconds_of
from ditmesh.planner.seconds import price, slowest, spent
from ditmesh.planner.workload import Message, Operator, Phase, Workload

WHOLE = MappingProxyType(dict.fromkeys(("matmul", "attention", "convolution", "memory", "link"), 1.0))
# Two devices a switch, 10 bytes/s each way; a switch sends 10 to others, so that both its devices have 5 each.
BOX = (Link(2, 10.0, 0.0), Link(8, 5.0, 0.0), Link(1024, 1.0, 0.0))
DEVICE = Hardware("toy", 100, {"float32": 10.0, "bfloat16": 20.0}, 4.0, BOX, 1, WHOLE, 1e-9, 0.0, "made up")


def message(collective: str, *ranks: int, size: int = 60, **fields: object) -> Message:
    return Message(collective, "tp", ranks, size, **fields)


def phase(*operators: Operator, name: str = "step", repeats: int = 1, messages: tuple[Message, ...] = ()) -> Phase:
    return Phase(name, repeats, operators, messages, 0, 1)


def work(*phases: Phase) -> Workload:
    return Workload(0, {}, {}, phases, 0)


@pytest.mark.parametrize(
    ("ranks", "world", "groups"),
    [
        ((0, 1), 4, [(0, 1), (2, 3)]),
        ((0, 2), 8, [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ((1, 3, 5, 7), 8, [(0, 2, 4, 6), (1, 3, 5, 7)]),
        ((0, 1, 4), 8, [(0, 1, 4)]),  # along no axis
    ],
)
def test_groups_along_the_same_axis_send_at_the_same_time(
    ranks: tuple[int, ...], world: int, groups: list[tuple[int, ...]]
):
    assert groups_like(ranks, world) == groups


@pytest.mark.parametrize(
    ("sent", "world", "seconds"),
    [
        (message("all_reduce", 0, 1), 2, 6),  # under one switch
        (message("all_reduce", 0, 2), 4, 12),  # (0, 2) beside (1, 3): both of a switch go out of it
        (message("all_reduce", 0, 2), 3, 6),  # (0, 2) alone
        (message("all_reduce", 0, 1, 2, 3), 4, 6),  # a ring leaves each switch once
        (message("all_to_all", 0, 1, 2, 3), 4, 8),  # two thirds of what both send leave it
        (message("all_to_all", 0, 2, 4, 6), 8, 12),  # all that both send leaves it
        (message("send", 0, 8), 16, 60),  # eight devices share what leaves a machine
        (message("all_reduce", 0, size=0), 2, 0),
        (message("receive", 0, 1, size=0), 2, 0),
    ],
)
def test_a_message_takes_as_long_as_its_busiest_link(sent: Message, world: int, seconds: float):
    assert seconds_of(sent, DEVICE, world) == pytest.approx(seconds)


def test_a_pair_has_one_link_where_all_together_have_many():
    mesh = replace(DEVICE, links=(Link(8, 70.0, 0.0, pair=10.0),))
    assert seconds_of(message("all_reduce", 0, 1), mesh, 8) == pytest.approx(6)
    assert seconds_of(message("all_to_all", *range(8), size=70), mesh, 8) == pytest.approx(1)


def test_flows_carry_all_that_is_sent():
    for collective in ("all_to_all", "all_reduce", "send"):
        sent = dict.fromkeys(range(4), 0.0)
        for (a, _), part in flows(collective, (0, 1, 2, 3)):
            sent[a] += part
        assert sent == pytest.approx(dict.fromkeys(range(4), 1.0))


def test_an_operator_takes_as_long_as_its_arithmetic_or_its_traffic():
    parts = spent(
        phase(
            Operator("matmul", "bfloat16", 40, 4, count=3),  # 2 s of arithmetic, 1 s of traffic
            Operator("attention", "float32", 10, 8),  # 1 s, 2 s
            Operator("memory", "float32", 0, 4, count=2),
            Operator("matmul", "float8_e4m3fn", 20, 0),  # no such units here: bfloat16's do it
        ),
        DEVICE,
        1,
    )
    assert {what: parts[what] for what in ("matmul", "attention", "memory")} == pytest.approx(
        {"matmul": 7, "attention": 2, "memory": 2}
    )


def test_messages_are_hidden_by_what_runs_beside_them():
    attends = Operator("attention", "float32", 40, 0)
    sent = Message("send", "ring", (0, 1), 60, hidden=True)
    # Of the attention's two parts one runs beside the message.
    assert spent(phase(attends, messages=(sent,)), DEVICE, 2)["message ring"] == pytest.approx(6 - 2)
    gathered = replace(sent, axis="ulysses")
    assert spent(phase(attends, messages=(gathered,)), DEVICE, 2)["message ulysses"] == pytest.approx(6 - 4)
    assert spent(phase(attends, messages=(replace(sent, hidden=False),)), DEVICE, 2)["message ring"] == 6


def test_phases_steps_and_bubbles_add_up():
    step = phase(Operator("matmul", "float32", 30, 0), repeats=4, messages=(message("all_reduce", 0, 1),))
    encode, decode = (phase(Operator("memory", "float32", 0, 8), name=name) for name in ("encode", "decode"))
    found = price(work(encode, replace(step, bubble=0.25), decode), DEVICE, 2)
    assert (found.encode, found.decode, found.compute, found.communication) == pytest.approx((2, 2, 12, 24))
    assert found.bubble == pytest.approx((12 + 24) / 3)
    assert found.total == pytest.approx(2 + 2 + 48)
    assert found.limit == "messages of tp"
    slow = work(replace(decode, operators=(Operator("memory", "float32", 0, 80),)))
    assert slowest([work(encode, step), slow], DEVICE, 2).total == pytest.approx(2 + 36 + 20)


def test_a_host_that_is_slower_than_its_device_is_waited_for():
    slow = replace(DEVICE, launch=5.0)
    found = price(work(phase(Operator("matmul", "float32", 30, 0))), slow, 1)
    assert (found.launch, found.total, found.limit) == (2.0, 5.0, "matrices")


def test_steps_that_a_cache_leaves_blocks_out_of_are_priced_by_what_they_still_do():
    step, cached = (phase(Operator("matmul", "float32", 10 * size, 0), repeats=8) for size in (4, 1))
    cached = replace(cached, name="cached step", repeats=0)
    assert price(work(step, cached), DEVICE, 1).compute == pytest.approx(8 * 4)
    assert price(work(step, cached), DEVICE, 1, hits=0.5).compute == pytest.approx(4 * 4 + 4 * 1)


def test_what_was_just_written_is_read_from_a_cache():
    fast = replace(DEVICE, cache=16, cache_bandwidth=8.0)
    small, large = (spent(phase(Operator("memory", "float32", 0, size)), fast, 1)["memory"] for size in (8, 24))
    assert (small, large) == pytest.approx((1.0, 1.0 + 4.0))
