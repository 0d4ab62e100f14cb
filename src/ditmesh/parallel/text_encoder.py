"""Text-encoder parallelism: share a transformers text encoder over all ranks of a replica, as plain tensors.

What to shard is read from the ``base_model_tp_plan`` transformers ships with each language model, and how from the
widths of the linears: attention by heads, MLPs by columns (arXiv 1909.08053), token embeddings by vocabulary.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ditmesh.models.text_encoders import PLANS, TEXT_ENCODERS
from ditmesh.parallel.tensor.linears import check_cut, keep_part, shard_columns, shard_rows
from ditmesh.parallel.vocabulary import shard_vocabulary
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard, even_ranges
from ditmesh.upstream.modules import check_present, expand, held, set_facts
from ditmesh.upstream.quantized import check_quantized, grain_of, is_linear

COLUMNS = {"colwise", "colwise_gather_output"}  # gathered by transformers for packed parts, which we cut one by one
ROWS = {"rowwise", "rowwise_split_input"}
APART = {"replicated_with_grad_allreduce", "embedding_rowwise"}  # norms of one head; embeddings, sharded in any case

HEAD_WIDTH = ("head_dim", "key_value_proj_dim")  # what attention modules call their facts
HEADS = ("num_heads", "n_heads", "num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True)
class Group:
    """The linears of one module that are cut together: those of an attention by heads, those of an MLP by columns.

    ``columns`` write what ``row`` reads. A head is ``width`` wide; those of an MLP are as wide as what is quantized
    together, or 1.
    """

    name: str
    module: nn.Module
    columns: dict[str, Any]
    row_name: str
    row: nn.Linear
    width: int
    attends: bool

    @property
    def heads(self) -> int:
        """Of the queries, on all ranks."""
        return self.row.in_features // self.width


def apply_text_encoder_parallel(encoder: nn.Module, mesh: Axis, undo: ExitStack) -> list[str]:
    """Shard a text encoder over a one-dimensional mesh, in place: what it returns stays the same on every rank.

    The language model inside it is sharded, with its token embeddings and the head over the vocabulary. Attention heads
    need not divide evenly, and a key-value head is kept by every rank whose query heads read it. Vision towers stay
    whole. Attention weights (``output_attentions``), if asked for, are those of this rank's heads.

    Args:
        encoder: a transformers model; its weights are replaced by this rank's shards.
        mesh: the ranks that share it.
        undo: takes what puts the whole weights back; every rank of the mesh has to close it.

    Returns:
        A line for each module that every rank keeps whole, with its size and the reason.

    Raises:
        ValueError: no plan covers it, or it has fewer heads than the mesh ranks; nothing has been changed then.
    """
    title = type(encoder).__name__
    if TEXT_ENCODERS.get(title) == ("",):
        return [f"{title}: {_size(encoder)}, it is small"]
    check_present(encoder)
    stacks = _stacks(encoder)
    for name, stack, _ in stacks:
        check_quantized(f"{title}.{name}".rstrip("."), stack, "sharing a text encoder", "leave it out.")
    groups = [group for name, stack, plan in stacks for group in _groups(f"{title}.{name}".rstrip("."), stack, plan)]
    for group in groups:
        _check_shares(group, mesh)
    for group in groups:
        _shard_group(group, mesh, undo)
    sharded = {id(stack) for _, stack, _ in stacks}
    for _, stack, _ in stacks:
        if id(stack.get_input_embeddings()) not in sharded:
            sharded |= shard_vocabulary(encoder, stack.get_input_embeddings(), mesh, undo)
    return _kept_whole(encoder, sharded)


def _stacks(encoder: nn.Module) -> list[tuple[str, PreTrainedModel, Mapping[str, str]]]:
    """The language models inside an encoder: the modules that hold everything a plan names, each with its plan."""
    found = []
    for name, module in encoder.named_modules():
        if isinstance(module, PreTrainedModel):
            shipped = module.config.base_model_tp_plan
            for plan in PLANS if shipped is None else (shipped,):
                if all(pattern.endswith("?") or expand(module, f"{pattern}?") for pattern in plan):
                    found.append((name, module, plan))
    if not found:
        raise ValueError(
            f"{type(encoder).__name__} has no language model that transformers or ditmesh has a tensor-parallel plan "
            f"for; leave it out of extra_parallel_modules."
        )
    return found


def _groups(title: str, stack: nn.Module, plan: Mapping[str, str]) -> list[Group]:
    """The linears of a language model by the module that holds them, or a ValueError if the plan does not cover it."""
    styles: dict[str, dict[str, str]] = {}
    for pattern, style in plan.items():
        for name, _ in expand(stack, pattern):
            if style not in COLUMNS | ROWS | APART:
                raise ValueError(f"{title}.{name}: the tensor-parallel plan asks for the unknown style {style!r}.")
            if style not in APART:
                parent, _, child = name.rpartition(".")
                styles.setdefault(parent, {})[child] = style
    for name, module in stack.named_modules():
        parent, _, child = name.rpartition(".")
        if isinstance(module, nn.Linear) and child not in styles.get(parent, {}):
            raise ValueError(f"{title}.{name}: the tensor-parallel plan does not say how to shard this linear.")
    return [_group(f"{title}.{name}", stack.get_submodule(name), children) for name, children in styles.items()]


def _group(name: str, module: nn.Module, styles: Mapping[str, str]) -> Group:
    for child in styles:
        kind, linear = type(module.get_submodule(child)), is_linear(module.get_submodule(child))
        if not linear and kind is not nn.Embedding:
            raise ValueError(
                f"{name}.{child} is a {kind.__name__}, which text-encoder parallelism cannot shard; fuse LoRA weights "
                f"and leave quantization off before enable_cache, or leave the encoder out of extra_parallel_modules."
            )
    rows = [child for child, style in styles.items() if style in ROWS]
    columns = {child: module.get_submodule(child) for child, style in styles.items() if style in COLUMNS}
    width = next((held(module, fact) for fact in HEAD_WIDTH if held(module, fact)), 1)
    if len(rows) != 1 or (held(module, "scaling") is not None and width == 1):
        raise ValueError(f"{name}: cannot tell by which heads to shard this {type(module).__name__}.")
    row: Any = module.get_submodule(rows[0])
    attends = width > 1
    width = width if attends else math.gcd(grain_of(row.weight, 1), row.in_features)
    group = Group(name, module, columns, rows[0], row, width, attends)
    sharded = {id(weight) for child in styles for weight in module.get_submodule(child).parameters()}
    for child, weight in module.named_parameters():
        if id(weight) not in sharded and weight.numel() != width:
            raise ValueError(f"{name}.{child} is not of one head, and the tensor-parallel plan does not shard it.")
    for child, linear in columns.items():
        _kept(f"{name}.{child}", group, linear, degree=1)
    return group


def _kept(name: str, group: Group, column: Any, degree: int) -> tuple[tuple[range, ...], ...]:
    """The outputs of a linear that each rank keeps: what those inputs of the row are computed from that it keeps.

    8 query heads on 3 ranks, 2 key-value heads:
        queries     0 1 2 | 3 4 5 | 6 7
        key-values  0     | 0 1   | 1
    """
    table = isinstance(column, nn.Embedding)  # with a column for each head
    wide, outputs = (1, column.embedding_dim) if table else (group.width, column.out_features)
    written, rest = divmod(outputs, wide)
    share = max(group.heads // max(written, 1), 1)  # query heads that one of its heads serves
    parts = max(written // group.heads, 1)  # packed one after the other
    if rest or written * share != group.heads * parts or (parts if group.attends else share) > 1:
        raise ValueError(f"{name} does not write whole heads for the {group.heads} that {group.name} reads.")
    starts, queries = range(0, written, group.heads), even_ranges(group.heads, degree)
    kept = [[range(at + q.start // share, at + (q.stop - 1) // share + 1) for at in starts] for q in queries]
    return tuple(tuple(_wide(heads, wide) for heads in mine) for mine in kept)


def _wide(heads: range, width: int) -> range:
    return range(heads.start * width, heads.stop * width)


def _check_shares(group: Group, mesh: Axis) -> None:
    """Refuse to share fewer heads than there are ranks, and to cut through what is quantized together."""
    leave = "leave the text encoder out of extra_parallel_modules."
    if group.heads < mesh.size():
        raise ValueError(
            f"{group.name} has {group.heads} heads, which {mesh.size()} ranks cannot share; use at most {group.heads} "
            f"ranks, or {leave}"
        )
    for child, module, shard in _shards(group, mesh):
        check_cut(f"{group.name}.{child}", module, shard, f"use another number of ranks, or {leave}")


def _shards(group: Group, mesh: Axis) -> list[tuple[str, Any, Shard]]:
    """What the ranks keep of each of a group's linears and tables; of the row last."""
    columns = [
        (child, column, Shard(int(isinstance(column, nn.Embedding)), _kept(child, group, column, mesh.size()), mesh))
        for child, column in group.columns.items()
    ]
    kept = tuple((_wide(queries, group.width),) for queries in even_ranges(group.heads, mesh.size()))
    return [*columns, (group.row_name, group.row, Shard(1, kept, mesh))]


def _shard_group(group: Group, mesh: Axis, undo: ExitStack) -> None:
    mine = even_ranges(group.heads, mesh.size())[mesh.get_local_rank()]
    facts = dict.fromkeys(HEADS, len(mine)) | {"inner_dim": len(mine) * group.width}
    for _, module, shard in _shards(group, mesh):
        if isinstance(module, nn.Embedding):
            _shard_table(module, shard, undo)
        elif module is group.row:
            shard_rows(module, shard, undo)
        else:
            share = group.row.in_features // module.out_features
            shard_columns(module, shard, False, undo)
            if share > 1:
                facts |= _serve(module, [head // share for head in mine], group.width, undo)
    if group.attends:
        set_facts(group.module, facts, undo)


def _serve(column: nn.Linear, served_by: list[int], width: int, undo: ExitStack) -> dict[str, int]:
    """Let key-value heads serve the query heads of this rank; returns the facts the attention has to know for it.

    Attention repeats every key-value head as often as every other. Where this rank's queries do not read them equally
    often, they are repeated here instead.
    """
    counts = [served_by.count(head) for head in dict.fromkeys(served_by)]
    if len(set(counts)) == 1:
        return {"num_key_value_groups": counts[0], "num_key_value_heads": len(counts)}

    def repeat_heads(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
        heads = zip(output.split(width, -1), counts, strict=True)
        return torch.cat([head for head, count in heads for _ in range(count)], -1)

    undo.callback(column.register_forward_hook(repeat_heads).remove)
    return {"num_key_value_groups": 1, "num_key_value_heads": len(served_by)}


def _shard_table(table: nn.Embedding, shard: Shard, undo: ExitStack) -> None:
    """Keep the columns of this rank's heads."""
    set_facts(table, {"embedding_dim": len(shard.kept[shard.mesh.get_local_rank()][0])}, undo)
    keep_part(table, "weight", shard.cut, shard.restore, undo)


def _kept_whole(encoder: nn.Module, sharded: set[int], name: str = "") -> list[str]:
    """A line for each of the largest modules that no sharded one is in, and that is in none itself."""
    if id(encoder) in sharded:
        return []
    lines = []
    for child, module in encoder.named_children():
        where, has_weights = f"{name}.{child}".lstrip("."), next(module.parameters(), None) is not None
        if any(id(inner) in sharded for inner in module.modules()):
            lines += _kept_whole(module, sharded, where)
        elif has_weights:
            lines.append(f"{where} ({type(module).__name__}): {_size(module)}, only language models are sharded")
    return lines


def _size(module: nn.Module) -> str:
    return f"{sum(weight.numel() * weight.element_size() for weight in module.parameters()) / 2**20:.1f} MiB"
