"""What a transformer is made of, as data: every strategy, the planner, the loader and the tests read these facts.

Names of modules are globs in the vocabulary of diffusers' and transformers' plans: ``*`` stands for every child of a
module, ``-1`` for the last one, ``a|b`` for the first of the two that a variant of the model has, and a last ``?``
marks a module that only some variants have. So it does an argument that only some of them take, and a stream that only
some calls have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Blocks:
    """One list of transformer blocks; the lists of a sheet are one chain, in the order they run.

    ``returns`` names the arguments of the next block's forward that a block's outputs take the place of, in order; ""
    is an output that no block takes, and a stream is None where a call has none. The streams of a list may be those of
    the list before end to end, but within a list they keep their shapes: blocks in the middle of it may run elsewhere,
    or be left out and a residual added to their streams instead. A call may leave out blocks itself (guidance by
    skipped layers).

    ``between``: what the model itself does to the streams between two blocks, maybe in place: a block then takes other
    tensors than the block before returned. ``reaches_back``: (a block's number, how many the list has) -> the number of
    an earlier one whose output it takes too, as it is or with something added, or None. ``takes_turns``: the blocks of
    this list and of its neighbours that say so run in turn, one of each.

    ``uncached``: why none of its blocks may be left out. ``apart``: why this list is no part of the chain, so that
    none of them may run elsewhere either. ``lends``: modules of its blocks that the model runs itself, too, named as
    in the list.
    """

    path: str
    returns: tuple[str, ...] = ("hidden_states",)
    between: str = ""
    reaches_back: Callable[[int, int], int | None] | None = None
    takes_turns: bool = False
    uncached: str = ""
    apart: str = ""
    lends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fused:
    """A linear whose sharded side packs several parts, each of which is sharded by itself.

    ``parts`` names them in order: ``"heads"`` is as wide as all attention heads together, every ``"rest"`` is an equal
    share of what is left. ``Fused("rowwise", ("heads", "rest"))`` reads ``[attention | MLP]``.
    """

    style: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """A module that counts its heads, or the channels of all of them, in the named attributes: each rank its own."""

    counts: tuple[str, ...]


@dataclass(frozen=True)
class PerHead:
    """A module whose output tensors run over all attention heads, such as RoPE tables with other angles for each head.

    ``dims``: the number of dimensions of an output -> the dimension that runs over the heads, or over their channels.
    ``argument``: it is not the outputs that do, but the tensors in this argument, which the module may also write to.
    """

    dims: Mapping[int, int]
    argument: str = ""


@dataclass(frozen=True)
class Sharded:
    """A module with bare parameters: name -> the dimension to shard, and how many equal parts are packed along it.

    Its output is then a rank's share of a sum.
    """

    parameters: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Split:
    """Cut dimension ``dim`` of a tensor, or of every tensor in a list or dict, over the ranks that share a sequence.

    ``stream`` names the sequence the dimension runs along, or several that lie end to end, of which all but one have a
    known length by then; "" stands for what is not cut, since a rank is to hold it whole or holds its part of it
    already. With ``ndim`` only tensors of that many dimensions run along it (a timestep may be one number a sample or
    one a token). ``minor``: the dimension runs along something else too, and faster along the stream. ``least``: how
    many tokens a rank must have, where a model takes fewer for something else.

    ``mask`` marks a padding mask, true where a token is real; attention masks that processors make of its shards stand
    for it, square ones for its product with itself. ``unseen``: the model is shown that every token is real, and
    attention alone leaves the padding out, which has to be at the end: for a model that drops it sample by sample.
    ``new``: the stream begins with this tensor, where the same blocks run along one sequence after another.
    """

    dim: int
    stream: str | tuple[str, ...] = "image"
    ndim: int | None = None
    mask: bool = False
    minor: bool = False
    least: int = 1
    unseen: bool = False
    new: bool = False


@dataclass(frozen=True)
class Count:
    """A number that counts the first tokens of a stream, or all of them: as many of them as this rank holds."""

    stream: str = "image"


@dataclass(frozen=True)
class Length:
    """An argument that the length of a stream can be worked out of, before anything of the stream is cut."""

    stream: str
    of: Callable[[Any], int]


@dataclass(frozen=True)
class Refuse:
    """An argument that a sequence or a batch in shards cannot honour, and why: whoever passes it gets an error."""

    why: str


@dataclass(frozen=True)
class Same:
    """A fact of an argument that a model asks of all samples of a batch at once, so that both halves have to agree."""

    of: Callable[[Any], Any]
    why: str


@dataclass(frozen=True)
class Gather:
    """Put the shards of ``stream`` together again along dimension ``dim`` of a tensor, or of each in a list.

    Several streams lie end to end; "" stands for what was not cut.
    """

    dim: int
    stream: str | tuple[str, ...] = "image"


Style = str | Fused | Heads | PerHead | Sharded
# A tuple has a cut for each of the values of a tuple.
Cut = Split | Gather | Count | Length | Refuse | tuple[Split, ...]


@dataclass(frozen=True)
class Attention:
    """The processor an attention module must hold, and the streams its queries and keys are made of, in order.

    ``processor`` may name several, of which variants of the model hold one. Without ``keys`` the keys are of the
    queries' streams; "" stands for keys that every rank holds whole, which come first. No streams at all: attention to
    keys that every rank holds (cross-attention to text), which needs no communication. ``names_backend``: the processor
    names a backend itself in some of its calls, so that what its instance holds does not reach them.
    """

    processor: str | tuple[str, ...]
    streams: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    names_backend: bool = False

    @property
    def processors(self) -> tuple[str, ...]:
        """The names of all of them."""
        return (self.processor,) if isinstance(self.processor, str) else self.processor


@dataclass(frozen=True)
class ModelSpec:
    """The fact sheet of one transformer class of diffusers, or of one ControlNet class.

    A ControlNet takes whole inputs and gives whole residuals, for its transformer to cut or not. Modules it has from
    its transformer are in ``cp_plan`` and ``attention``, but not in ``tp_plan``: the transformer shards them.

    Attributes:
        transformer: the class name, exactly.
        title: what people call the model; errors use it.
        blocks: the lists of blocks, in the order they run.
        tp_plan: module glob -> ``"colwise"``, ``"colwise_gather_output"``, ``"rowwise"``, ``"heads"`` (the module's
            ``heads`` counts those of one rank), ``"norm_across_heads"``, a ``Heads``, a ``PerHead``, a ``Sharded`` or
            a ``Fused``.
        replicated: glob of a block's linear that no rank shards -> the reason.
        cp_plan: module glob ("" is the transformer) -> what happens to its one output, or {argument name or output
            index: ``Cut``}; ``"name.1"`` is the second item of an argument.
        attention: attention module glob -> ``Attention``.
        covers: config key -> the values the sheet is right for, where other values make another model.
        heads, head_dim: the config keys that hold the number of attention heads and the width of one, or what works
            them out of the config.
        width: the config key that holds the width of all heads together, where none holds that of one.
        kv_heads: the config key that holds the number of key and value heads, where they may be fewer.
        controls: the class name of the transformer that a ControlNet is for; empty for a transformer.
        batch_dims: argument -> the dimension that runs over the batch where it is not the first one, None where none
            does or the first sample's holds for all, ``Same``, or why a batch with it cannot be halved.
        memories: argument that keeps keys and values for later calls -> whether a call with it does, or only reads
            them; such a call belongs to no branch of guidance.
        tokenwise: the argument with the latents [B, S, C], if token i of the output, and of the stream that goes
            through the blocks, is made of token i of the latents alone, but for what the blocks do; empty where the
            latents are no tokens, or something else mixes them. PipeFusion's stages then overlap across steps.
    """

    transformer: str
    title: str
    blocks: tuple[Blocks, ...]
    tp_plan: Mapping[str, Style]
    cp_plan: Mapping[str, Cut | Mapping[str | int, Cut]]
    attention: Mapping[str, Attention]
    replicated: Mapping[str, str] = field(default_factory=dict[str, str])
    covers: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    heads: str | Callable[[Mapping[str, Any]], int] = "num_attention_heads"
    head_dim: str | Callable[[Mapping[str, Any]], int] = "attention_head_dim"
    width: str = ""
    kv_heads: str = ""
    controls: str = ""
    batch_dims: Mapping[str, int | Refuse | Same | None] = field(default_factory=dict[str, int | Refuse | Same | None])
    memories: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict[str, Callable[[Any], bool]])
    tokenwise: str = ""

    def count_heads(self, config: Mapping[str, Any]) -> int:
        """The number of attention heads of a model of this configuration."""
        return config[self.heads] if isinstance(self.heads, str) else self.heads(config)

    def head_width(self, config: Mapping[str, Any]) -> int:
        """The channels of one head of a model of this configuration."""
        if self.width:
            return config[self.width] // self.count_heads(config)
        return config[self.head_dim] if isinstance(self.head_dim, str) else self.head_dim(config)

    def __str__(self) -> str:
        return self.transformer


# Parts of plans that many models share. Each takes the path of a module and, as ``optional``, a "?" if only some
# variants of the model have it.


def linears(path: str, inward: str, outward: str = "", optional: str = "") -> dict[str, Any]:
    """The linears of a module, by spaces: a rank keeps its outputs of the inward ones, its inputs of the outward."""
    plan = dict.fromkeys(inward.split(), "colwise") | dict.fromkeys(outward.split(), "rowwise")
    return {f"{path}.{name}{optional}": style for name, style in plan.items()}


def projections(path: str, optional: str = "") -> dict[str, Style]:
    """An attention's projections in and out, where it works its number of heads out of them."""
    return linears(path, "to_q to_k to_v", "to_out.0", optional)


def added_projections(path: str, optional: str = "") -> dict[str, Style]:
    """The projections of a second stream that shares an attention."""
    return linears(path, "add_q_proj add_k_proj add_v_proj", "to_add_out", optional)


def attention(path: str, optional: str = "", norms: str = "") -> dict[str, Style]:
    """An attention that counts its heads, and the style of its norms of queries and keys if they span all heads."""
    plan = {f"{path}{optional}": "heads", **projections(path, optional)}
    return plan | (dict.fromkeys((f"{path}.norm_q{optional}", f"{path}.norm_k{optional}"), norms) if norms else {})


def joint_attention(path: str) -> dict[str, Style]:
    """An attention of two streams, each with its own projections."""
    return attention(path) | added_projections(path)


def single_stream(path: str) -> dict[str, Style]:
    """A block whose attention and MLP run side by side and are joined by one projection."""
    inward = linears(path, "attn.to_q attn.to_k attn.to_v proj_mlp")
    return inward | {f"{path}.proj_out": Fused("rowwise", ("heads", "rest"))}


def feed_forward(path: str, optional: str = "") -> dict[str, Style]:
    """diffusers' own feed-forward, with an activation that is not gated."""
    return linears(path, "net.0.proj", "net.2", optional)


def packed_feed_forward(path: str, inward: str = "net.0.proj", outward: str = "net.2") -> dict[str, Style]:
    """A gated feed-forward whose first linear packs gate and value, in whichever order."""
    return {f"{path}.{inward}": Fused("colwise", ("rest", "rest")), f"{path}.{outward}": "rowwise"}


def gated_feed_forward(path: str, optional: str = "") -> dict[str, Style]:
    """A gated feed-forward of three linears."""
    return linears(path, "w1 w3", "w2", optional)


def double_stream(path: str) -> dict[str, Style]:
    """A block of two streams that share an attention; each has a modulation and a feed-forward of its own."""
    modulations = dict.fromkeys((f"{path}.norm1.linear", f"{path}.norm1_context.linear"), "colwise_gather_output")
    plan = modulations | joint_attention(f"{path}.attn")
    return plan | feed_forward(f"{path}.ff") | feed_forward(f"{path}.ff_context")
