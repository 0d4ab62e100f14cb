"""Tensors of a shape and no numbers: what is made of one is another, at no cost, and who looks on sees every operator.

They pass for tensors on the CPU. What is made of plain tensors alone stays so: a pipeline may read its masks, its
timesteps and the lengths of its prompts. Of a hollow tensor it reads ones, and nothing that is true.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from typing import Any, NamedTuple

import torch
import torch.distributed._tools.fake_collectives  # pyright: ignore[reportUnusedImport]  # messages of tensors on meta
from torch import Tensor, nn
from torch.fx.experimental import _config
from torch.utils._python_dispatch import TorchDispatchMode

from ditmesh.upstream.trees import map_tensors, tensors, tree_map
from ditmesh.upstream.unread import Origin, Unread

aten = torch.ops.aten
SMALL, LARGE = 1 << 11, 1 << 24  # so many numbers nobody draws or works out if nobody reads them
BY_INDEX = (aten.index, aten.index_put, aten.index_put_)
Look = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]


class Blank(NamedTuple):
    """What is made of nothing."""

    form: Tensor

    def read(self) -> Tensor:
        """It stays hollow."""
        return Hollow.of(self.form)


class Hollow(Unread):
    """A tensor of which there is the form alone. Views share their form's memory, which takes no room."""

    @classmethod
    def of(cls, form: Tensor) -> "Hollow":  # pyright: ignore[reportIncompatibleMethodOverride]
        """A tensor of the form of one on meta."""
        return _of(cls, form)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.equal.default:
            return args[0].shape == args[1].shape
        if func is aten._local_scalar_dense.default:
            return _read(args[0].dtype)
        if func is aten.is_nonzero.default:
            return False
        forms: dict[int, Any] = {}

        def form(x: Any) -> Any:
            if isinstance(x, Hollow):
                forms[id(x.form)] = x
                return x.form
            if isinstance(x, Tensor) and x.device.type != "meta":
                forms[id(made := x.to("meta"))] = x
                return made
            return x

        if func.overloadpacket in BY_INDEX:
            args = (args[0], [x for index in args[1] for x in _places(index)], *args[2:])
        stays = torch.device(kwargs.get("device") or "cpu").type == "meta"
        on_meta = {"device": "meta"} if kwargs.get("device") is not None else {}
        out = func(*tree_map(form, args), **(tree_map(form, kwargs) | on_meta))
        given = forms if func._schema.is_mutable else {}
        return out if stays else tree_map(lambda x: _hollow(x, given), out)

    def as_subclass(self, cls: Any) -> Any:
        """The same of another class, whose ways with functions come first."""
        kind: Any = Hollow if cls is Tensor else type(f"Hollow{cls.__name__}", (cls, Hollow), {})
        return _of(kind, self.form)

    def tolist(self) -> Any:
        return torch.full(self.shape, _read(self.dtype)).tolist()

    def data_ptr(self) -> int:
        """A number for each place in memory."""
        return self.form.untyped_storage()._cdata + self.form.storage_offset() * self.form.element_size()

    def untyped_storage(self) -> Any:
        return self.form.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = Hollow.of(self.form.clone())
        return memo.setdefault(id(self), nn.Parameter(copy, False) if isinstance(self, nn.Parameter) else copy)


def _read(dtype: torch.dtype) -> float | int | bool:
    return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def _of(kind: Any, form: Tensor) -> Any:
    blank: Any = Blank(form)
    return kind(Origin(blank), form)


def _places(index: Any) -> list[Any]:
    """The places that a mask names, as numbers: how many they are is seen in a plain one alone."""
    is_seen = isinstance(index, Tensor) and not isinstance(index, Hollow) and index.dtype == torch.bool
    return list(index.nonzero().unbind(1)) if is_seen else [index]


def _hollow(x: Any, given: dict[int, Any]) -> Any:
    return given[id(x)] if id(x) in given else Hollow.of(x) if isinstance(x, Tensor) else x


def hollow_out(module: nn.Module, dtype: Callable[[str, Tensor], torch.dtype]) -> None:
    """Make the weights of a module hollow, in place; those that two modules share stay one.

    Args:
        module: the module.
        dtype: of a parameter, by its name.
    """
    made: dict[int, Any] = {}
    for path, part in module.named_modules():
        for name, x in part._parameters.items():
            if x is not None:
                if id(x) not in made:
                    whole = x.detach().to("meta").to(dtype(f"{path}.{name}".lstrip("."), x))
                    made[id(x)] = x, nn.Parameter(Hollow.of(whole), requires_grad=False)
                part._parameters[name] = made[id(x)][1]


class Storages:
    """Memory that is known, for as long as it is there."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Any]] = {}

    def add(self, storage: Any) -> bool:
        """Whether it was not known yet."""
        at = self._known.get(storage._cdata)
        if at is not None and at() is storage:
            return False
        self._known[storage._cdata] = weakref.ref(storage)
        return True


@dataclass(frozen=True)
class Outline:
    """The form of what a function returned: which tensors are those it was given, which are views, which are new.

    Attributes:
        size: bytes of what is new.
    """

    tree: Any
    size: int
    _leaves: tuple[Any, ...]

    @classmethod
    def of(cls, leaves: list[Any], tree: Any, given: list[Any]) -> "Outline | None":
        """That of an output; None if there are numbers in it."""
        known = {id(x): i for i, x in enumerate(given) if isinstance(x, Tensor)}
        homes = {x.untyped_storage()._cdata: i for i, x in enumerate(given) if isinstance(x, Hollow)}
        new: dict[int, int] = {}
        found: list[Any] = []
        for x in leaves:
            if not isinstance(x, Tensor) or id(x) in known:
                found.append((known[id(x)],) if isinstance(x, Tensor) else [x])
                continue
            if not isinstance(x, Hollow):
                return None
            storage = x.untyped_storage()
            if storage._cdata not in homes:
                new[storage._cdata] = storage.nbytes()
            home = homes.get(storage._cdata, -1 - list(new).index(storage._cdata) if storage._cdata in new else None)
            found.append((home, storage.nbytes(), x.dtype, x.shape, x.stride(), x.form.storage_offset()))
        return cls(tree, sum(new.values()), tuple(found))

    def again(self, given: list[Any]) -> list[Any]:
        """Tensors of this form, for what was given this time."""
        new: dict[int, Tensor] = {}
        found: list[Any] = []
        for leaf in self._leaves:
            if isinstance(leaf, list):
                found += leaf
            elif len(leaf) == 1:
                found.append(given[leaf[0]])
            else:
                home, size, dtype, *view = leaf
                if home < 0 and home not in new:
                    new[home] = torch.empty(size, dtype=torch.uint8, device="meta")
                base = new[home] if home < 0 else given[home].form
                made = torch.empty(0, dtype=dtype, device="meta").set_(base.untyped_storage(), view[2], *view[:2])
                found.append(Hollow.of(made))
        return found


def blank(size: int) -> Tensor:
    """So many bytes."""
    return Hollow.of(torch.empty(size, dtype=torch.uint8, device="meta"))


class Watch(TorchDispatchMode):
    """Lets somebody look at every operator that runs inside, after it has run; large tensors are made hollow."""

    def __init__(self, look: Look):
        super().__init__()
        self._look = look
        settings: Any = _config
        self._assume = settings.patch(meta_nonzero_assume_all_nonzero=True)

    def __enter__(self) -> Any:
        self._assume.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._assume.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        if not given and (made := _drawn(args, kwargs)) is not None:
            out = made
        elif func.namespace == "aten" and given and _is_large(given):
            out = func(*map_tensors(_emptied, args), **map_tensors(_emptied, kwargs))
        else:
            out = func(*args, **kwargs)
        self._look(func, args, kwargs, out)
        return out


def _emptied(x: Tensor) -> Tensor:
    return x if isinstance(x, Hollow) or x.is_meta else Hollow.of(x.to("meta"))


def _is_large(given: list[Tensor]) -> bool:
    """Whether plain tensors would make one that nobody wants to wait for."""
    if max(x.numel() for x in given) < SMALL or any(isinstance(x, Hollow) or x.is_meta for x in given):
        return False
    sides = zip_longest(*(reversed(x.shape) for x in given), fillvalue=1)
    return prod(max(side) for side in sides) >= LARGE


def _drawn(args: Any, kwargs: Any) -> Tensor | None:
    """A large tensor that is made of nothing."""
    sizes = [x for x in args if isinstance(x, list | tuple)]
    is_large = bool(sizes) and all(isinstance(x, int) for x in sizes[0]) and prod(sizes[0]) >= LARGE
    if not is_large or torch.device(kwargs.get("device") or "cpu").type == "meta":
        return None
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return Hollow.of(torch.empty(sizes[0], dtype=dtype, device="meta"))
