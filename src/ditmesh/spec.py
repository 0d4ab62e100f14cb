"""What a transformer is made of, as data: every strategy, the planner, the loader and the tests read these facts.

Names of modules are globs in the vocabulary of diffusers' and transformers' plans: ``*`` stands for every child of a
module, and a last ``?`` marks a module that only some variants of the model have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Blocks:
    """One list of transformer blocks, and the streams a block returns, in order."""

    path: str
    returns: tuple[str, ...] = ("hidden_states",)


@dataclass(frozen=True)
class Fused:
    """A linear whose sharded side packs several parts, each of which is sharded by itself.

    ``parts`` names them in order: ``"heads"`` is as wide as all attention heads together, every ``"rest"`` is an equal
    share of what is left. ``Fused("rowwise", ("heads", "rest"))`` reads ``[attention | MLP]``.
    """

    style: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Cut dimension ``dim`` of a tensor, or of every tensor in a list, over the ranks that share a sequence.

    ``stream`` names the sequence the dimension runs along. With ``ndim`` only tensors of that many dimensions run
    along it (a timestep may be one number a sample or one a token). ``mask`` marks a padding mask, true where a token
    is real.
    """

    dim: int
    stream: str = "image"
    ndim: int | None = None
    mask: bool = False


@dataclass(frozen=True)
class Gather:
    """Put the shards of ``stream`` together again along dimension ``dim`` of a tensor, or of each in a list."""

    dim: int
    stream: str = "image"


Cut = Split | Gather


@dataclass(frozen=True)
class Attention:
    """The processor an attention module must hold, and the streams its queries and keys are made of, in order.

    Without ``keys`` the keys are of the queries' streams. No streams at all: attention to keys that every rank holds
    (cross-attention to text), which needs no communication.
    """

    processor: str
    streams: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ModelSpec:
    """The fact sheet of one transformer class of diffusers.

    Attributes:
        transformer: the class name, exactly.
        title: what people call the model; errors use it.
        blocks: the lists of blocks, in the order they run.
        tp_plan: module glob -> ``"colwise"``, ``"colwise_gather_output"``, ``"rowwise"``, ``"heads"`` (the module's
            ``heads`` counts those of one rank), ``"norm_across_heads"`` or a ``Fused``.
        replicated: glob of a block's linear that no rank shards -> the reason.
        cp_plan: module glob ("" is the transformer) -> what happens to its one output, or {argument name or output
            index: ``Split`` or ``Gather``}.
        attention: attention module glob -> ``Attention``.
        heads, head_dim: the config keys that hold the number of attention heads and the width of one.
    """

    transformer: str
    title: str
    blocks: tuple[Blocks, ...]
    tp_plan: Mapping[str, str | Fused]
    cp_plan: Mapping[str, Cut | Mapping[str | int, Cut]]
    attention: Mapping[str, Attention]
    replicated: Mapping[str, str] = field(default_factory=dict)
    heads: str = "num_attention_heads"
    head_dim: str = "attention_head_dim"

    def __str__(self) -> str:
        return self.transformer
