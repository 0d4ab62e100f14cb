"""Keys of original checkpoints and of LoRA files, converted by diffusers while nobody has read them, and at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import FluxPipeline, WanPipeline
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from torch import Tensor

from ditmesh.upstream.checkpoints import unread_files
from ditmesh.upstream.unread import Unread, read

Shapes = Mapping[str, tuple[int, ...]]
# One for each thing that diffusers does to the tensors of a model's single file.
FILES: dict[str, tuple[Callable[..., Any], Shapes]] = {
    "renamed": (
        single_file_utils.convert_wan_transformer_to_diffusers,
        {"model.diffusion_model.blocks.0.self_attn.q.weight": (6, 4), "head.modulation": (1, 2, 4)},
    ),
    "halved, and indexed": (
        single_file_utils.convert_wan_transformer_to_diffusers,
        {
            "face_adapter.fuser_blocks.0.linear1_kv.weight": (6, 4),
            "motion_encoder.enc.net_app.convs.0.1.bias": (1, 5, 1, 1),
        },
    ),
    "packed projections taken apart": (
        single_file_utils.convert_hunyuan_video_transformer_to_diffusers,
        {"double_blocks.0.img_attn_qkv.weight": (6, 4), "single_blocks.0.linear1.weight": (3 * 3072 + 5, 2)},
    ),
    "scale and shift exchanged": (
        single_file_utils.convert_hunyuan_video_transformer_to_diffusers,
        {"final_layer.adaLN_modulation.1.weight": (6, 4), "txt_in.t_embedder.mlp.0.bias": (3,)},
    ),
    "unchanged": (lambda checkpoint: checkpoint, {"proj_out.weight": (3, 4)}),
}
KOHYA = "lora_unet_double_blocks_0_img_attn_qkv"
LORAS: dict[str, tuple[Any, Shapes]] = {
    "kohya's, scaled and taken apart": (
        FluxPipeline,
        {f"{KOHYA}.lora_down.weight": (2, 4), f"{KOHYA}.lora_up.weight": (9, 2), f"{KOHYA}.alpha": ()},
    ),
    "x-flux's": (
        FluxPipeline,
        {
            "double_blocks.0.processor.qkv_lora1.down.weight": (2, 4),
            "double_blocks.0.processor.qkv_lora1.up.weight": (9, 2),
        },
    ),
    "with another prefix": (
        WanPipeline,
        {
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight": (2, 4),
            "diffusion_model.blocks.0.self_attn.q.lora_B.weight": (6, 2),
        },
    ),
    "diffusers' own": (
        WanPipeline,
        {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": (2, 4),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": (6, 2),
        },
    ),
}


def saved(shapes: Shapes, folder: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    save_file({name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def assert_same(got: Mapping[str, Any], want: Mapping[str, Tensor]) -> None:
    assert list(got) == list(want)
    assert all(torch.equal(read(got[name]), x) for name, x in want.items())


@pytest.mark.parametrize("kind", FILES)
def test_a_single_file_is_converted_unread(tmp_path: Path, kind: str) -> None:
    convert, shapes = FILES[kind]
    file = saved(shapes, tmp_path)
    want = convert(safetensors.torch.load_file(file))
    assert kind == "unchanged" or not want.keys() & shapes.keys()
    with unread_files():
        got = convert(safetensors.torch.load_file(file))
    assert all(type(x) is Unread for x in got.values())
    assert_same(got, want)


@pytest.mark.parametrize("kind", LORAS)
def test_lora_weights_are_converted_unread(tmp_path: Path, kind: str) -> None:
    pipeline, shapes = LORAS[kind]
    file = saved(shapes, tmp_path)
    want = pipeline.lora_state_dict(str(tmp_path), weight_name=file.name)
    assert (kind == "diffusers' own") == (want.keys() == shapes.keys())
    with unread_files():
        got = pipeline.lora_state_dict(str(tmp_path), weight_name=file.name)
    assert_same(got, want)
