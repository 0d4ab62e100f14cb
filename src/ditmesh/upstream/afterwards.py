"""What users do to a pipeline before or after they enable it: as in one process, or refused by name, nothing changed.

One table says which. ``check_before`` and ``refuse_after`` hold the calls to it, a test walks it, a page shows it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from torch import nn

from ditmesh.upstream.modules import override
from ditmesh.upstream.offload import OF_GROUPS, offloads_layers
from ditmesh.upstream.quantized import check_tokens
from ditmesh.upstream.saving import shares

SEQUENCE, EXTRAS = ("ulysses", "ring"), ("text encoder", "vae")
COLUMNS = ("tp", *SEQUENCE, "pp", "cfg", "shard_weights", *EXTRAS, "cache")
STEPS = ("tp", *SEQUENCE, "pp", "cfg", "shard_weights", "cache")  # what changes how a transformer runs
CUT = ("tp", "pp", "text encoder")  # what computes with a share of the weights
WEIGHTS = (*CUT, "shard_weights")  # what leaves a rank a share of the weights
TOKENS = (*SEQUENCE, "cfg", "vae")  # what leaves a rank a part of the tokens that a linear gets in one process
FIRST = "do it before enable_cache, or call ditmesh.disable_cache, do it, and enable again."
AGAIN = "call ditmesh.disable_cache, do it, and enable again."
INSTEAD = "leave it off, or use ulysses_size or ring_size."
FUSED = "fuse it first (fuse_lora, then unload_lora_weights), or leave the module out of extra_parallel_modules."
ADAPTED = "its linears or rows are shared out, and adapters would not be; "
HELD = "it holds the weights themselves, of which a rank has only a share; "
GATHERED = "weights are gathered block by block, and it would move them apart; use enable_model_cpu_offload."
OWN_CACHE = (
    "it decides by what one rank holds, and ranks would part; take it off (transformer.disable_cache()), and pass "
    "enable_cache of ditmesh a cache_config."
)
OWN_LAYOUT = "diffusers would share the same weights or tokens out again; load the model without it."
PROCESSORS = "this rank's heads, tokens or rows need the processors there are; "


def _on(columns: Collection[str], why: str) -> dict[str, str]:
    return dict.fromkeys(columns, why)


def _held(why: str) -> dict[str, str]:
    return _on(CUT, why + INSTEAD) | {"shard_weights": why + "leave it off, or shard_weights."}


@dataclass(frozen=True)
class Deed:
    """One thing that users do.

    Attributes:
        what: how the page names it.
        methods: of a model or a pipeline that do it; those refused after are replaced on the instance.
        before, after: column -> why it is refused there; in the others it does what it does in one process.
        of_parts: a pipeline does it to those of its models that it is given something for.
        together: every rank has to call it where weights are shared out.
        note: what else there is to say.
    """

    what: str
    methods: tuple[str, ...] = ()
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    of_parts: bool = False
    together: bool = False
    note: str = ""


CACHES = Deed(
    "a cache of diffusers (`transformer.enable_cache`)", ("enable_cache",), _on(STEPS, OWN_CACHE), _on(STEPS, OWN_CACHE)
)
LAYOUTS = Deed(
    "parallelism of diffusers (`enable_parallelism`)",
    ("enable_parallelism",),
    _on(STEPS, OWN_LAYOUT),
    _on(STEPS, OWN_LAYOUT),
)
LORA = Deed(
    "`load_lora_weights`, `add_adapter`",
    ("load_lora_weights", "load_lora_adapter", "add_adapter", "load_adapter"),
    before=_on(EXTRAS, ADAPTED + FUSED),
    after=_on(("pp",), "a rank has only a share of the weights it adapts; " + FIRST)
    | _on(EXTRAS, ADAPTED + "call ditmesh.disable_cache, load it, and " + FUSED),
    of_parts=True,
    note="Weights that adapt a transformer alone are loaded whatever is shared beside it. `add_adapter` of a "
    "transformer with tp is refused at the next call.",
)
GROUPS = Deed(
    "`enable_group_offload`",
    ("enable_group_offload",),
    _on(("shard_weights",), GATHERED),
    _on(("shard_weights",), GATHERED),
    note="A rank offloads what it has; to the disk, in a folder of its own.",
)
LAYERS = Deed(
    "`enable_sequential_cpu_offload`",
    ("enable_sequential_cpu_offload",),
    _on(("shard_weights",), GATHERED),
    _on(("shard_weights",), GATHERED),
    note="A rank offloads what it has.",
)
CASTING = Deed(
    "`enable_layerwise_casting`",
    ("enable_layerwise_casting",),
    _held(HELD),
    _held(HELD),
)
TABLE = (
    Deed(
        "`state_dict`, `save_pretrained`, `save_lora_adapter`, `save_lora_weights`",
        together=True,
        note="Weights are whole, and so is each file at any time. Where a rank has a share, all ranks have to save, "
        "and one for each folder writes. Else one rank is enough; all may, into one folder: each writes a copy aside.",
    ),
    Deed(
        "`load_state_dict`",
        after=_on(WEIGHTS, "a rank has only a share of these weights; " + AGAIN),
    ),
    LORA,
    Deed("`set_adapters`, `disable_lora`, `enable_lora`, `delete_adapters`, `unload_lora_weights`"),
    Deed(
        "`fuse_lora`, `unfuse_lora`",
        ("fuse_lora", "unfuse_lora"),
        after=_on(("pp",), "a stage has no weights of the others to change; " + FIRST),
    ),
    Deed(
        "`load_ip_adapter`, `unload_ip_adapter`",
        ("load_ip_adapter", "unload_ip_adapter", "_load_ip_adapter_weights"),
        before=_on(("tp", *SEQUENCE), "its attention is known to one rank only; use cfg_size or dp_size."),
        after=_on(("tp", *SEQUENCE, "pp"), PROCESSORS + "call ditmesh.disable_cache first, and use cfg_size."),
    ),
    Deed(
        "`set_attn_processor`",
        ("set_attn_processor",),
        after=_on((*SEQUENCE, "pp", "vae"), PROCESSORS + AGAIN),
        note="Before, the processors a fact sheet names are right, and others refused. On tp one has a rank's heads.",
    ),
    Deed("`set_attention_backend`, `reset_attention_backend`"),
    Deed(
        "`fuse_qkv_projections`, `unfuse_qkv_projections`",
        ("fuse_qkv_projections", "unfuse_qkv_projections"),
        before=_on(("tp",), "it packs the projections that tensor parallelism shards; " + INSTEAD),
        after=_on(("tp", *SEQUENCE, "pp", "shard_weights", "vae"), "it replaces modules that are shared out; " + AGAIN),
    ),
    Deed(
        "`resize_token_embeddings` of a text encoder",
        ("resize_token_embeddings",),
        after=_on(("text encoder",), "a rank has only a share of the vocabulary; " + AGAIN),
    ),
    Deed("`to`, `half`, `float`, `requires_grad_`, `train`", note="Only forwards are whole: no gradient passes ranks."),
    Deed(
        "`enable_gradient_checkpointing`",
        ("enable_gradient_checkpointing",),
        after=_on(STEPS, "no gradient passes between ranks; call ditmesh.disable_cache before training."),
    ),
    Deed(
        "`compile`, `compile_repeated_blocks`, `pipe.transformer = torch.compile(...)`",
        note="What ranks exchange stays outside the graphs, so `fullgraph=True` finds several.",
    ),
    Deed(
        "`copy.deepcopy`",
        ("__deepcopy__",),
        after=_on(COLUMNS, "a copy would share this one's ranks and requests; " + AGAIN),
    ),
    CACHES,
    LAYOUTS,
    Deed("quantized weights", note="[Kind by kind](quantization.md); a kind that is not known is refused by its name."),
    GROUPS,
    CASTING,
    Deed("`enable_model_cpu_offload`"),
    LAYERS,
    Deed("`pipe.transformer = other`, `pipe.vae = other`", note="Every rank runs the whole of the new one."),
    Deed("`vae.enable_tiling`, `vae.enable_slicing`"),
)

# Of diffusers' own guidance, which takes them off again, and of peft.
PASSING = ("layer_skip_hook", "smoothed_energy_guidance_hook", "peft_autocast_disable")


def check_before(model: nn.Module, columns: Collection[str]) -> None:
    """Refuse a model to which something has been done that these columns cannot run.

    Raises:
        ValueError: it has, and what.
    """
    title = type(model).__name__
    for column in columns:
        if column in TOKENS:
            check_tokens(model, column)
    if vars(model).get("_parallel_config") is not None:
        _refuse(title, "enable_parallelism", LAYOUTS.before, columns)
    if offloads_layers(model):
        _refuse(title, "enable_sequential_cpu_offload", LAYERS.before, columns)
    for name in _hooks(model):
        if name in OF_GROUPS:
            _refuse(title, "enable_group_offload", GROUPS.before, columns)
        elif name == "layerwise_casting":
            _refuse(title, "enable_layerwise_casting", CASTING.before, columns)
        elif name not in PASSING:
            _refuse(title, f"enable_cache of diffusers ({name})", CACHES.before, columns)


def _hooks(model: nn.Module) -> Iterator[str]:
    """The names of diffusers' hooks on a model."""
    for module in model.modules():
        if "_diffusers_hook" in vars(module):
            yield from vars(module)["_diffusers_hook"].hooks


def _refuse(title: str, deed: str, refused: Mapping[str, str], columns: Collection[str]) -> None:
    for column in columns:
        if column in refused:
            raise ValueError(f"{deed} of {title} does not go with {column}: {refused[column]}")


def refuse_after(owner: Any, columns: Collection[str], undo: ExitStack) -> None:
    """Let a model or a pipeline refuse what these columns cannot run once they are there."""
    for deed in TABLE:
        apart = EXTRAS if deed.of_parts and not isinstance(owner, nn.Module) else ()
        for name in [name for name in deed.methods if set(columns).difference(apart) & set(deed.after)]:
            if name == "__deepcopy__" or name in dir(owner):
                override(owner, name, _refusing(type(owner), name, deed.after, columns), undo)


def refuse_loads(pipe: Any, encoders: Mapping[str, nn.Module], undo: ExitStack) -> None:
    """Let a pipeline refuse LoRA weights for its text encoders that are shared, by name, before it loads any."""
    if "lora_state_dict" not in dir(pipe):
        return
    read = pipe.lora_state_dict

    @wraps(read)
    def lora_state_dict(*args: Any, **kwargs: Any) -> Any:
        found = read(*args, **kwargs)
        keys = found[0] if isinstance(found, tuple) else found
        for name, model in encoders.items():
            if shares(model) and any(key.startswith(f"{name}.") for key in keys):
                _refuse(type(model).__name__, f"load_lora_weights ({name})", LORA.after, EXTRAS)
        return found

    override(pipe, "lora_state_dict", lora_state_dict, undo)


def _refusing(kind: Any, name: str, refused: Mapping[str, str], columns: Collection[str]) -> Any:
    method = vars(nn.Module)["forward"] if name == "__deepcopy__" else getattr(kind, name)

    @wraps(method)
    def refuse(*args: Any, **kwargs: Any) -> None:
        _refuse(kind.__name__, name, refused, columns)

    return refuse


def page() -> str:
    """The table as Markdown: a row for each deed, a column for each axis, and below it why something is refused."""
    lines = [f"| what | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    reasons: dict[str, int] = {}
    for deed in TABLE:
        cells = [_cell(deed, column, reasons) for column in COLUMNS]
        lines.append(f"| {deed.what} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {why[0].upper()}{why[1:]}" for why, number in reasons.items()), ""]
    return "\n".join([*lines, *(f"- {deed.what}: {deed.note}" for deed in TABLE if deed.note)]) + "\n"


def _cell(deed: Deed, column: str, reasons: dict[str, int]) -> str:
    why = [side.get(column) for side in (deed.before, deed.after)]
    numbers = [str(reasons.setdefault(reason, len(reasons) + 1)) if reason else "" for reason in why]
    if any(numbers):
        words = [f"not {side} ({n})" for side, n in zip(("before", "after"), numbers, strict=True) if n]
        return f"no ({numbers[0]})" if len(words) == 2 and numbers[0] == numbers[1] else ", ".join(words)
    return "all ranks" if deed.together and column in WEIGHTS else "yes"
