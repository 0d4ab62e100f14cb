"""Share the table of a text encoder's token embeddings over ranks, by token."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ditmesh.parallel.tensor.linears import shard_columns
from ditmesh.runtime.collectives import all_reduce
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard
from ditmesh.upstream.modules import override, parameter, set_facts
from ditmesh.upstream.saving import keep_share


def shard_vocabulary(encoder: nn.Module, embedding: Any, mesh: Axis, undo: ExitStack) -> set[int]:
    """Shard the token embeddings and the linear that scores tokens, by token; returns the ids of what it sharded."""
    whole, shard = embedding.weight, Shard.even(0, (embedding.num_embeddings,), mesh)
    modules = [module for module in encoder.modules() if isinstance(module, nn.Embedding) or type(module) is nn.Linear]
    tied = [module for module in modules if module.weight is whole]
    scorer = encoder.get_output_embeddings() if isinstance(encoder, PreTrainedModel) else None
    linears = dict.fromkeys(module for module in [*tied, scorer] if type(module) is nn.Linear)
    share = parameter(shard.cut(whole), whole)

    @undo.callback
    def restore() -> None:
        restored = parameter(shard.restore(embedding.weight), embedding.weight)
        for module in tied:
            module.weight = restored

    for linear in linears:
        shard_columns(linear, Shard.even(0, (linear.out_features,), mesh), True, undo)
    for module in tied:
        module.weight = share
        if isinstance(module, nn.Embedding):
            keep_share(module, undo, weight=shard.restore)
            _look_up(module, shard, undo)
    return {id(module) for module in [*tied, *linears]}


def _look_up(embedding: nn.Embedding, shard: Shard, undo: ExitStack) -> None:
    """Embed the tokens this rank keeps; the others' embeddings come from the sum over the ranks."""
    mine = shard.kept[shard.mesh.get_local_rank()][0]
    # A padding_idx only says which row learns nothing.
    set_facts(embedding, {"num_embeddings": len(mine), "padding_idx": None}, undo)
    forward = embedding.forward

    def look_up(tokens: Tensor) -> Tensor:
        elsewhere = (tokens < mine.start) | (tokens >= mine.stop)
        found = forward((tokens - mine.start).masked_fill(elsewhere, 0))
        return all_reduce(found.masked_fill(elsewhere[..., None], 0), shard.mesh)

    override(embedding, "forward", look_up, undo)
