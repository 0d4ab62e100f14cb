"""Outputs and arguments as trees of tensors: torch's own functions, which have no public name yet."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only, tree_unflatten

__all__ = ["map_tensors", "tensors", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten"]


def tensors(tree: object) -> list[Tensor]:
    """The tensors of a tree, in order."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def map_tensors(change: Callable[[Tensor], Any], tree: object) -> Any:
    """The tree with other things in place of its tensors."""
    return tree_map_only(Tensor, change, tree)
