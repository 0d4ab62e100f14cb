"""Every known kind of quantized weights in a transformer and a text encoder, and what the ranks run on them."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.parallel.tensor.apply import _check_weights
from ditmesh.parallel.tensor.linears import shard_columns, shard_rows
from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from ditmesh.runtime.shards import Shard
from ditmesh.upstream.quantized import settled, take_apart
from tests.api.deeds import AXES, made
from tests.cases.common import positions
from tests.quantized_kinds import KINDS, quantize
from tests.transformers import SHAPES, build, forward, relative_error
from tests.upstream.test_lora import load, lora

SHARES = ParallelismConfig(ulysses_size=2, shard_weights=True)
LAYOUTS: dict[str, ParallelismConfig | None] = AXES | {"shard_weights": SHARES, "text encoder": None}
TOKENS = ("ulysses", "ring", "cfg", "shard_weights")  # what leaves a rank some of the tokens of a call
CUT = ("tp", "text encoder")
BLOCKS = "what a rank keeps of a linear's inputs has to be whole blocks; a size that cuts one apart is refused."
ROUNDS = (
    "each linear is exact. It rounds its inputs to eight bits, and where the last bits of one differ, as between any "
    "two kernels, it may be rounded to the other side; so far apart are the pictures of two layouts then."
)
ALL_TOKENS = "a token's inputs are scaled by those of all tokens, of which a rank has only some."


def transformer() -> tuple[nn.Module, dict[str, Any]]:
    """A transformer whose linears are wide enough for whole blocks on two ranks."""
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=64, num_attention_heads=4,
        joint_attention_dim=128, pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip
    return model.requires_grad_(False), {
        "hidden_states": torch.randn(1, 15, 64),
        "encoder_hidden_states": torch.randn(1, 7, 128),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.full((1,), 0.5),
        "guidance": torch.full((1,), 3.5),
        "img_ids": positions((3, 5), 3),
        "txt_ids": torch.zeros(7, 3),
    }


def encoder() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=101, d_model=128, d_kv=64, d_ff=256, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config).requires_grad_(False), {"input_ids": torch.arange(14).view(2, 7)}


def run(model: Any, inputs: dict[str, Any]) -> Tensor:
    return model(**inputs).last_hidden_state if "input_ids" in inputs else made(model, inputs)


def parts(model: nn.Module) -> dict[str, Tensor]:
    """All plain tensors that a model's parameters are made of."""
    found = {}
    for path, module in model.named_modules():
        for name, weight in settled(module).named_parameters(recurse=False):
            weight = weight.to_local() if isinstance(weight, DTensor) else weight
            apart = take_apart(weight)
            inner = {"": weight} if apart is None else dict(apart.parts)
            if apart is not None and apart.origin:
                inner |= {"nested": apart.origin["absmax"], "scales": apart.origin["state2"].absmax}
            found |= {f"{path}.{name}.{part}": x for part, x in inner.items()}
    return found


def flat(state: Any) -> dict[str, Tensor]:
    """A state as plain tensors."""
    found = {}
    for name, x in state.items():
        apart = None if type(x).__name__ in ("Params4bit", "Int8Params") else take_apart(x)
        inner = {"": x} if apart is None else apart.parts
        found |= {f"{name}.{part}": y.detach().clone() for part, y in inner.items()}
    return found


def differing(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    def as_bytes(x: Tensor) -> bytes:
        return x.detach().as_subclass(Tensor).contiguous().flatten().view(torch.uint8).numpy().tobytes()

    names = mine.keys() ^ theirs.keys()
    return sorted(names or {name for name in mine if as_bytes(mine[name]) != as_bytes(theirs[name])})


def size(tensors: dict[str, Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors.values())


def cell(kind: str, layout: str) -> str:
    """What is wrong with a kind on a layout."""
    config = LAYOUTS[layout]
    model, inputs = encoder() if config is None else transformer()
    plain = run(model, inputs)
    quantize(model, kind)
    want, whole, state = run(model, inputs), copy.deepcopy(parts(model)), flat(model.state_dict())
    with ExitStack() as undo:
        try:
            if config is None:
                apply_text_encoder_parallel(model, init_device_mesh("cpu", (2,)), undo)
            else:
                ditmesh.enable_cache(model, parallelism_config=config)
                undo.callback(ditmesh.disable_cache, model)
        except ValueError as error:
            refused = KINDS[kind].tokens and layout in TOKENS and "by all tokens of a call" in str(error)
            return "" if refused and torch.equal(run(model, inputs), want) else f"refused: {error}"
        got, held = run(model, inputs), size(parts(model))
        saved = [] if config is None else differing(state, flat(model.state_dict()))
    apart, lost = relative_error(got, want), relative_error(want, plain)
    if KINDS[kind].tokens and layout in TOKENS:
        return "not refused"
    if apart > (lost if KINDS[kind].rounds else 1e-5):
        return f"{apart:.1e} from one process"
    if layout in (*CUT, "pp", "shard_weights") and held > 0.75 * size(whole):
        return f"holds {held} of {size(whole)} bytes"
    back = differing(whole, parts(model))
    if saved or back or not torch.equal(run(model, inputs), want):
        return f"saved others: {saved[:3]}, given back others: {back[:3]}"
    return ""


def walk(layout: str) -> list[str]:
    """The kinds that are not as the table says."""
    return [f"{kind}: {wrong}" for kind in KINDS if (wrong := cell(kind, layout))]


def others() -> list[str]:
    """Models whose heads, norms and experts are shared out beside their linears."""
    wrong = []
    for case in ("wan", "z_image", "hunyuan_video", "nucleus_moe_image", "prx"):
        model, inputs = build(case, SHAPES["odd"], torch.float32)
        quantize_(model, Int8WeightOnlyConfig())
        want = forward(model, inputs)
        ditmesh.enable_cache(model, parallelism_config=LAYOUTS["tp"])
        apart = relative_error(forward(model, inputs), want)
        ditmesh.disable_cache(model)
        if apart > 1e-5 or not torch.equal(forward(model, inputs), want):
            wrong.append(f"{case}: {apart}")
    return wrong


def linears() -> list[str]:
    """A linear of each kind, cut by columns and by rows: given the same inputs, it makes the same outputs."""
    mesh, wrong = init_device_mesh("cpu", (2,)), []
    for kind in KINDS:
        torch.manual_seed(0)
        model = quantize(nn.Sequential(nn.Linear(256, 64)).requires_grad_(False), kind)
        linear: Any = model[0]
        x = torch.randn(2, 7, 256)
        x[0, 0] *= 3  # its largest inputs are on one rank alone
        x[0, 0, :128] *= 0.1
        want = linear(x)
        with ExitStack() as undo:
            shard_columns(linear, Shard.even(0, (64,), mesh), True, undo)
            got = [linear(x)]
        with ExitStack() as undo:
            shard_rows(linear, Shard.even(1, (256,), mesh), undo)
            got.append(linear(x.chunk(2, -1)[mesh.get_local_rank()].contiguous()))
        wrong += [f"{kind}: {apart}" for y in got if (apart := relative_error(y, want)) > 1e-6]
    return wrong


class Packed(Tensor):
    """A weight of a kind of its own, as quantizers have them: it computes as what it stands for."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.detach, Tensor.requires_grad_):
            return super().__torch_function__(func, types, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = tree_map(lambda x: x.as_subclass(Tensor) if type(x) is Packed else x, (args, kwargs or {}))
            return func(*args, **kwargs)


def refused() -> list[str]:
    """What is said of blocks that three ranks would cut apart, and of a kind that nobody knows in every place."""
    messages = []

    def tell(run: Callable[[], Any]) -> None:
        try:
            run()
        except ValueError as error:
            messages.append(str(error))

    linear = quantize(nn.Sequential(nn.Linear(512, 96)), "quanto int4, in groups of up to 128")[0]
    three: Any = SimpleNamespace(size=lambda: 3)
    tell(lambda: _check_weights("proj", linear, "rowwise", (512,), three))
    for layout in ("tp", "pp", "shard_weights", "text encoder"):
        model = (encoder() if LAYOUTS[layout] is None else transformer())[0]
        for module in model.modules():
            if type(module) is nn.Linear:
                module.weight = nn.Parameter(module.weight.detach().as_subclass(Packed), requires_grad=False)
        if LAYOUTS[layout] is None:
            mesh = init_device_mesh("cpu", (2,))
            tell(lambda model=model, mesh=mesh: apply_text_encoder_parallel(model, mesh, ExitStack()))
        else:
            tell(lambda model=model, config=LAYOUTS[layout]: ditmesh.enable_cache(model, parallelism_config=config))
    return messages


def adapted() -> list[str]:
    """LoRA weights around quantized linears that are shared out, loaded before and after, and fused."""
    wrong, weights = [], lora(transformer()[0], 1)
    for kind in ("torchao int8", "bitsandbytes nf4", "quanto int8"):
        one, inputs = transformer()
        load(quantize(one, kind), weights, "a")
        want = run(one, inputs)
        for before in (True, False):
            model = quantize(transformer()[0], kind)
            if before:
                load(model, weights, "a")
            ditmesh.enable_cache(model, parallelism_config=LAYOUTS["tp"])
            if not before:
                load(model, weights, "a")
            if (apart := relative_error(run(model, inputs), want)) > 1e-5:
                wrong.append(f"{kind}, loaded {'before' if before else 'after'}: {apart}")
            try:
                model.fuse_lora()
                wrong.append(f"{kind}: fused")
            except ValueError as error:
                wrong += [] if "is quantized, and each rank" in str(error) else [str(error)]
            ditmesh.disable_cache(model)
            if not torch.equal(run(model, inputs), want):
                wrong.append(f"{kind}: not given back")
    return wrong


def saved(folder: Path) -> list[str]:
    """Whether all ranks save what one process does, to the bit, and whether that can be loaded again."""
    rank, wrong = torch.distributed.get_rank(), []
    model, inputs = transformer()
    model.save_pretrained(folder / f"plain {rank}")  # type: ignore[operator]
    for name, config in (
        ("int8", diffusers.TorchAoConfig(Int8WeightOnlyConfig())),
        ("quanto", diffusers.QuantoConfig("float8")),
    ):
        read = diffusers.FluxTransformer2DModel.from_pretrained
        whole = read(folder / f"plain {rank}", quantization_config=config, dtype=torch.float32)
        want = run(whole, inputs)
        whole.save_pretrained(alone := folder / f"{name} of {rank}")
        for layout in ("tp", "pp", "shard_weights"):
            ditmesh.enable_cache(whole, parallelism_config=LAYOUTS[layout])
            whole.save_pretrained(folder / name / layout)
            ditmesh.disable_cache(whole)
            (mine,), (theirs,) = (list(place.glob("*.safetensors")) for place in (folder / name / layout, alone))
            again = read(folder / name / layout, dtype=torch.float32)
            if differing(load_file(mine), load_file(theirs)) or not torch.equal(run(again, inputs), want):
                wrong.append(f"{name} on {layout}")
    return wrong


def page() -> str:
    """The table as Markdown: a row for each kind, a column for each layout, and below it what there is to say."""
    lines = ["| weights | " + " | ".join(LAYOUTS) + " |", "| --- |" + " --- |" * len(LAYOUTS)]
    notes: dict[str, int] = {}
    for name, kind in KINDS.items():
        cells = []
        for layout in LAYOUTS:
            refused = kind.tokens and layout in TOKENS
            about = [ALL_TOKENS] if refused else [BLOCKS] * (kind.block > 1 and layout in CUT) + [ROUNDS] * kind.rounds
            marks = ", ".join(f"{notes.setdefault(note, len(notes) + 1)}" for note in about)
            cells.append(("refused" if refused else "exact") + (f" ({marks})" if marks else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {note[0].upper()}{note[1:]}" for note, number in notes.items())]) + "\n"
