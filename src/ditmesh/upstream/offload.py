"""Weights that are elsewhere between their uses: diffusers' group offloading, accelerate's sequential offloading.

Both keep hold of the very weights they found. So while weights are shared out or put together again, offloading is off
and the weights are where they wait; then it begins anew, with what this rank has by now.
"""

import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from types import MethodType
from typing import Any

import torch.distributed as dist
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file
from torch import nn

from ditmesh.upstream.modules import override

GROUPS = "group_offloading"
OF_GROUPS = (GROUPS, "layer_execution_tracker", "lazy_prefetch_group_offloading")
OWN_FOLDER = "ditmesh-rank"  # begins the name of a folder on disk that one rank has for one model
OF_PIPELINE = "ditmesh-pipeline"  # and of one for all models of a pipeline, those that are not shared among them
Again = Callable[[], object]  # offloads once more


@contextmanager
def fetched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Take offloading off these modules, and put it on again in the end."""
    with ExitStack() as again:
        for module in modules:
            for offload in (*_fetch_groups(module), *_fetch_layers(module)):
                again.callback(offload)
        yield


def _fetch_groups(model: nn.Module) -> Iterator[Again]:
    registries = [held["_diffusers_hook"] for module in model.modules() if "_diffusers_hook" in (held := vars(module))]
    hooks = [registry.hooks[GROUPS] for registry in registries if GROUPS in registry.hooks]
    if not hooks:
        return
    for group in {id(hook.group): hook.group for hook in hooks}.values():
        _wait(group)
    for registry in registries:
        for name in OF_GROUPS:
            registry.remove_hook(name, recurse=False)
    _forget_stock_forwards(model)
    asked: Any = dict(vars(hooks[0].config))  # as apply_group_offloading names it, but for these
    asked["use_stream"] = asked.pop("stream") is not None
    del asked["module_prefix"]
    folder = asked["offload_to_disk_path"]
    if folder is not None and Path(folder).name.startswith(OWN_FOLDER):
        shutil.rmtree(folder)
        folder = Path(folder).parent
    yield lambda: apply_group_offloading(model, **asked | {"offload_to_disk_path": folder and own_folder(folder)})


def _wait(group: Any) -> None:
    """Bring a group's weights to where they wait, or read them from the disk again."""
    if group.offload_to_disk_path is None:
        group.offload_()
        return
    read = load_file(group.safetensors_file_path, device=str(group.offload_device))
    for key, weight in group.key_to_tensor.items():
        weight.data = read[key]


def own_folder(folder: Any, begins: str = OWN_FOLDER) -> str:
    """A folder for one model of this rank: diffusers reads whatever file it finds, another rank's share as well."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=f"{begins}{dist.get_rank() if dist.is_initialized() else 0}-", dir=folder)


def part_on_disk(owner: Any, undo: ExitStack) -> None:
    """Let ranks that offload to the disk have a folder each, by whatever name they ask for it."""
    if isinstance(owner, nn.Module):
        for module in owner.modules():
            if "_diffusers_hook" not in vars(module):
                undo.callback(_forget_registry, module)
            registry = HookRegistry.check_if_exists_or_initialize(module)
            override(registry, "register_hook", partial(_register, registry.register_hook), undo)
    elif "enable_group_offload" in dir(owner):
        override(owner, "enable_group_offload", _apart(owner.enable_group_offload), undo)


def _forget_registry(module: nn.Module) -> None:
    if not vars(module)["_diffusers_hook"].hooks:
        del module._diffusers_hook


def _register(register: Callable[[Any, str], None], hook: Any, name: str) -> None:
    """Begin to offload a group into this rank's folder; those of one call have one configuration, and one folder."""
    if name == GROUPS and hook.group.offload_to_disk_path is not None:
        folder = hook.config.offload_to_disk_path
        if not Path(folder).name.startswith(OWN_FOLDER):
            folder = hook.config.offload_to_disk_path = own_folder(folder)
        hook.group.offload_to_disk_path = folder
        hook.group.safetensors_file_path = str(Path(folder, Path(hook.group.safetensors_file_path).name))
    register(hook, name)


def _apart(offload: Callable[..., None]) -> Callable[..., None]:
    @wraps(offload)
    def enable_group_offload(*args: Any, **kwargs: Any) -> None:
        given = inspect.signature(offload).bind(*args, **kwargs).arguments
        folder = given.get("offload_to_disk_path")
        offload(**given | {"offload_to_disk_path": folder and own_folder(folder, OF_PIPELINE)})

    return enable_group_offload


def takes_groups(kind: Any) -> bool:
    """Whether models of a class can be offloaded by groups; of others than its own diffusers does not say."""
    return kind._supports_group_offloading if issubclass(kind, ModelMixin) else True


def offloads_layers(model: nn.Module) -> bool:
    """Whether sequential offloading moves a model's weights one by one."""
    return any(_layer_hooks(module) for module in model.modules())


def _fetch_layers(model: nn.Module) -> Iterator[Again]:
    hooks = [hook for module in model.modules() for hook in _layer_hooks(module)]
    if not hooks:
        return
    preloaded = [
        type(module).__name__ for module in model.modules() for x in _layer_hooks(module) if x.place_submodules
    ]
    remove_hook_from_module(model, recurse=True)
    _forget_stock_forwards(model)
    device, buffers = hooks[0].execution_device, hooks[0].offload_buffers
    yield lambda: cpu_offload(model, device, buffers, preload_module_classes=preloaded or None)


def _layer_hooks(module: nn.Module) -> list[Any]:
    """The hooks of sequential offloading to memory; what accelerate keeps on disk is read in other ways."""
    hook = vars(module).get("_hf_hook")
    hooks = [] if hook is None else vars(hook).get("hooks", [hook])
    maps = [(x, vars(x).get("weights_map")) for x in hooks if vars(x).get("offload")]
    return [x for x, weights in maps if weights is not None and isinstance(weights.dataset, dict)]


def _forget_stock_forwards(model: nn.Module) -> None:
    """Hooks that are taken off leave the method of the class behind, as one of the instance."""
    for module in model.modules():
        if vars(module).get("forward") == MethodType(type(module).forward, module):
            del module.forward


@contextmanager
def stock_forwards(model: nn.Module) -> Iterator[None]:
    """Let modules run as their classes say, without what moves weights."""
    with ExitStack() as undo:
        for module in model.modules():
            if "forward" in vars(module):
                override(module, "forward", MethodType(type(module).forward, module), undo)
        yield
