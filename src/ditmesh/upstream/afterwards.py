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
from ditmesh.upstream.quantized import check_tokens

COLUMNS = ("tp", "ulysses", "ring", "pp", "cfg", "text encoder", "vae", "cache")
SEQUENCE = ("ulysses", "ring")
STEPS = ("tp", *SEQUENCE, "pp", "cfg", "cache")  # what changes how a transformer runs
WEIGHTS = ("tp", "pp", "text encoder")  # what leaves a rank a share of the weights
TOKENS = (*SEQUENCE, "cfg", "vae")  # what leaves a rank a part of the tokens that a linear gets in one process
FIRST = "do it before enable_cache, or call ditmesh.disable_cache, do it, and enable again."
AGAIN = "call ditmesh.disable_cache, do it, and enable again."
INSTEAD = "leave it off, or use ulysses_size or ring_size."
HELD = "it holds the weights themselves, of which a rank has only a share; "
OWN_CACHE = (
    "it decides by what one rank holds, and ranks would part; take it off (transformer.disable_cache()), and pass "
    "enable_cache of ditmesh a cache_config."
)
OWN_LAYOUT = "diffusers would share the same weights or tokens out again; load the model without it."
PROCESSORS = "this rank's heads or tokens need the processors there are; "


def _on(columns: Collection[str], why: str) -> dict[str, str]:
    return dict.fromkeys(columns, why)


@dataclass(frozen=True)
class Deed:
    """One thing that users do.

    Attributes:
        what: how the page names it.
        methods: of a model or a pipeline that do it; those refused after are replaced on the instance.
        before, after: column -> why it is refused there; in the others it does what it does in one process.
        together: every rank has to call it where weights are shared out.
        note: what else there is to say.
    """

    what: str
    methods: tuple[str, ...] = ()
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
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
GROUPS = Deed(
    "`enable_group_offload`", ("enable_group_offload",), _on(WEIGHTS, HELD + INSTEAD), _on(WEIGHTS, HELD + INSTEAD)
)
CASTING = Deed(
    "`enable_layerwise_casting`",
    ("enable_layerwise_casting",),
    _on(WEIGHTS, HELD + INSTEAD),
    _on(WEIGHTS, HELD + INSTEAD),
)
TABLE = (
    Deed(
        "`state_dict`, `save_pretrained`, `save_lora_adapter`",
        together=True,
        note="The weights are whole. Where a rank has a share, all ranks save and one writes; else save on one.",
    ),
    Deed(
        "`load_state_dict`",
        after=_on(WEIGHTS, "a rank has only a share of these weights; " + AGAIN),
    ),
    Deed(
        "`load_lora_weights`, `add_adapter`",
        ("load_lora_weights", "load_lora_adapter", "add_adapter", "load_adapter"),
        after=_on(("pp", "text encoder"), "a rank has only a share of the weights it adapts; " + FIRST),
        note="A text encoder that is shared takes no adapter before either: fuse it. `add_adapter` of a transformer "
        "with tp is refused at the next call.",
    ),
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
        after=_on((*SEQUENCE, "pp"), PROCESSORS + AGAIN),
        note="Before, the processors a fact sheet names are right, and others refused. On tp one has a rank's heads.",
    ),
    Deed("`set_attention_backend`, `reset_attention_backend`"),
    Deed(
        "`fuse_qkv_projections`, `unfuse_qkv_projections`",
        ("fuse_qkv_projections", "unfuse_qkv_projections"),
        before=_on(("tp",), "it packs the projections that tensor parallelism shards; " + INSTEAD),
        after=_on(("tp", *SEQUENCE, "pp"), "it replaces modules that are shared out; " + AGAIN),
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
    Deed(
        "`enable_sequential_cpu_offload`",
        ("enable_sequential_cpu_offload",),
        before=_on(WEIGHTS, "the weights are nowhere; call pipe.remove_all_hooks() first, and offload after."),
        after=_on(("pp",), "stages could not give their weights back; use enable_model_cpu_offload."),
        note="Where it is refused before, take it off (`pipe.remove_all_hooks()`) before `disable_cache`.",
    ),
    Deed("`pipe.transformer = other`, `pipe.vae = other`", note="Every rank runs the whole of the new one."),
    Deed("`vae.enable_tiling`, `vae.enable_slicing`"),
)

OFFLOADING = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading", "lazy_leafs")
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
    for name in _hooks(model):
        if name in OFFLOADING:
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
        for name in [name for name in deed.methods if set(columns) & set(deed.after)]:
            if name == "__deepcopy__" or name in dir(owner):
                override(owner, name, _refusing(type(owner), name, deed.after, columns), undo)


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
