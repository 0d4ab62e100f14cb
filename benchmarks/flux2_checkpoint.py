"""A random checkpoint of FLUX.2's architecture and of any size, in sharded safetensors."""

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, Mistral3ForConditionalGeneration

from tests.tiny import tiny_path

GIB = 2**30
SHARD = GIB // 4  # bytes of a file
BLOCKS = 4  # of two streams, and about six times as many of one, as in FLUX.2
TEXT_LAYERS = 32  # FLUX.2 reads layers 10, 20 and 30
# As the language model inside was saved before it had a name of its own.
RENAMED = (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."), ("model.", ""))


def make(folder: Path, gib: float) -> None:
    """Write the checkpoint: two fifths text encoder, the rest transformer, of as many heads as that gives blocks."""
    shutil.copytree(tiny_path("flux2", folder.with_name("tiny")), folder, dirs_exist_ok=True)
    text = AutoConfig.from_pretrained(folder / "text_encoder")
    width = max(256, int(math.sqrt(0.4 * gib * GIB / 29 / TEXT_LAYERS)) // 256 * 256)
    text.text_config.update(
        {
            "vocab_size": 8 * width,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": TEXT_LAYERS,
            "head_dim": 64,
            "num_attention_heads": width // 64,
            "num_key_value_heads": width // 128,
        }
    )
    with torch.device("meta"):
        encoder = Mistral3ForConditionalGeneration(text)
    rest = (gib * GIB - size(encoder)) / 2
    heads = max(4, int(math.sqrt(rest / (104 * BLOCKS + 15))) // 512 * 4)
    square = (128 * heads) ** 2  # a block of two streams has 26 of these, one of a single stream 13, and 15 are shared
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=BLOCKS,
            num_single_layers=max(4, int(rest / square - 26 * BLOCKS - 15) // 13),
            num_attention_heads=heads,
            joint_attention_dim=3 * width,
        )
    transformer.save_config(folder / "transformer")
    text.save_pretrained(folder / "text_encoder")
    write(transformer, folder / "transformer", "diffusion_pytorch_model")
    write(encoder, folder / "text_encoder", "model")


def size(model: nn.Module) -> int:
    """Bytes in bfloat16."""
    return sum(2 * x.numel() for x in model.state_dict().values())


def in_file(part: str, name: str) -> str:
    """What a weight of a component is called in its file."""
    old, new = next((pair for pair in RENAMED if part == "text_encoder" and name.startswith(pair[0])), ("", ""))
    return new + name.removeprefix(old)


def write(model: nn.Module, folder: Path, name: str) -> None:
    """Random weights in files of a quarter GiB with an index, of which no more than one is ever in memory."""
    (folder / f"{name}.safetensors").unlink(missing_ok=True)
    files: list[dict[str, torch.Size]] = [{}]
    held = 0
    for key, x in model.state_dict().items():
        if files[-1] and held + 2 * x.numel() > SHARD:
            files.append({})
            held = 0
        files[-1][in_file(folder.name, key)] = x.shape
        held += 2 * x.numel()
    pool = torch.randn(2**20 + 7).mul_(0.02).to(torch.bfloat16)
    weight_map = {}
    for number, shapes in enumerate(files, 1):
        file = f"{name}-{number:05}-of-{len(files):05}.safetensors"
        save_file({key: drawn(shape, pool) for key, shape in shapes.items()}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(shapes, file)
    index = {"metadata": {"total_size": size(model)}, "weight_map": weight_map}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))


def drawn(shape: torch.Size, pool: torch.Tensor) -> torch.Tensor:
    """Numbers of the pool over and over, from a random one on."""
    flat = torch.empty(math.prod(shape), dtype=torch.bfloat16)
    for start in range(0, len(flat), len(pool)):
        piece = flat[start : start + len(pool)]
        piece.copy_(pool.roll(random.randrange(len(pool)))[: len(piece)])
    return flat.view(shape)


def shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The name and shape of every tensor, as the heads of the files say."""
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            head = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, entry in head.items():
            if name != "__metadata__":
                yield f"{file.parent.name}.{name}", entry["shape"]
