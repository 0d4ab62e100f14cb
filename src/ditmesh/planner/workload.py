"""What one rank does for one call of a pipeline, counted; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Operator:
    """Operators that are alike, ``count`` of them; the numbers are those of one.

    Attributes:
        kind: "matmul", "attention", "convolution", or "memory" for what does no more than read and write.
        flops: floating point operations, two for each multiply-add; 0 for "memory".
        bytes: read and written.
        m, n, k: of a matmul [m, k] x [k, n]; of attention, queries x keys x channels of a head, over ``batch`` of
            samples times heads. 1 elsewhere.
    """

    kind: str
    dtype: str
    flops: int
    bytes: int
    count: int = 1
    m: int = 1
    n: int = 1
    k: int = 1
    batch: int = 1


@dataclass(frozen=True)
class Message:
    """Collectives that are alike, ``count`` of them.

    Attributes:
        collective: "all_to_all", "all_reduce", "all_gather", "reduce_scatter", "broadcast", "send" or "receive".
        axis: of the layout whose ranks take part; several are joined by dots, as in a layout's name.
        ranks: their numbers in the world.
        bytes: what this rank puts on the wire for one, 0 for "receive": of an all-reduce 2 (n - 1) / n of the tensor,
            of an all-gather n - 1 times its shard, of an all-to-all what does not stay here.
        hidden: it is waited for after other work.
    """

    collective: str
    axis: str
    ranks: tuple[int, ...]
    bytes: int
    hidden: bool = False
    count: int = 1


@dataclass(frozen=True)
class Phase:
    """A part of a call: "encode", "step", "cached step" or "decode"; steps that differ are phases of their own.

    How many steps a cache will leave blocks out of is not known: "cached step" is repeated 0 times, "step" for all.

    Attributes:
        component: whose forward it is.
        repeats: how often it runs in a call.
        activation_peak: bytes above weights and buffers.
        launches: kernels that run, in all.
        bubble: the fraction of its time in which this stage of a pipeline waits for others.
    """

    name: str
    repeats: int
    operators: tuple[Operator, ...]
    messages: tuple[Message, ...]
    activation_peak: int
    launches: int
    component: str = ""
    bubble: float = 0.0

    @property
    def flops(self) -> int:
        return sum(one.flops * one.count for one in self.operators)

    @property
    def sent(self) -> int:
        """Bytes on the wire, of this rank."""
        return sum(one.bytes * one.count for one in self.messages)


@dataclass(frozen=True)
class Workload:
    """One rank's program, for one call of the pipeline.

    Attributes:
        weights: bytes at rest by component, parameters and buffers of modules alike.
        buffers: what is held beside them while a request runs: "pipefusion", "cache", "gathered weights".
        load_peak: bytes of host memory while the weights are read.
        unknown: what was not counted, a line each.
    """

    rank: int
    weights: Mapping[str, int]
    buffers: Mapping[str, int]
    phases: tuple[Phase, ...]
    load_peak: int
    unknown: tuple[str, ...] = ()

    @property
    def bubble(self) -> float:
        """The fraction of a step in which a stage waits, once the pipeline is full; 0 without stages."""
        steps = [phase for phase in self.phases if phase.name == "step" and phase.repeats]
        return max(steps, key=lambda phase: phase.repeats).bubble if steps else 0.0
