"""Stage one of the training: an autoencoder that keeps the edges of the drawn shapes crisp."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from demo.loop import Trainee, train
from demo.shapes import PIXELS, PLACE_STEP, PLACES, Scene, draw, split

LATENT_CHANNELS = 8
CROP_STEPS = 850  # on 64 x 64 pixels around the shape: four times cheaper, and nothing but edges
STEPS = 940
CROP_PIXELS = 64
KL_WEIGHT = 1e-4


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=PIXELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def crops(pictures: torch.Tensor, scenes: list[Scene], rng: random.Random) -> torch.Tensor:
    """[B, 3, 128, 128] -> [B, 3, 64, 64], each anywhere that touches its shape's square."""
    room = PIXELS - CROP_PIXELS
    cut = []
    for picture, scene in zip(pictures, scenes, strict=True):
        left, top = (
            round(min(max(room / 2 + PLACE_STEP * place + rng.uniform(-24, 24), 0), room))
            for place in PLACES[scene.place]
        )
        cut.append(picture[:, top : top + CROP_PIXELS, left : left + CROP_PIXELS])
    return torch.stack(cut)


def loss(autoencoder: AutoencoderKL, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Absolute, squared and edge errors, plus a little KL; a mean over all values of the pictures."""
    posterior = autoencoder.encode(pictures).latent_dist
    drawn = autoencoder.decode(posterior.sample(generator)).sample
    error = drawn - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + KL_WEIGHT * kl


def train_autoencoder(folder: Path, seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)
    scenes, _ = split()

    def step_loss(step: int, share: int) -> torch.Tensor:
        rng = random.Random(f"autoencoder {seed} {step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(40))
        chosen = rng.choices(scenes, k=16 if step < CROP_STEPS else 8)
        pictures = draw(chosen, rng)
        if step < CROP_STEPS:
            pictures = crops(pictures, chosen, rng)
        return loss(autoencoder, pictures.contiguous(memory_format=torch.channels_last), generator)

    modules = torch.nn.ModuleDict({"vae": autoencoder})
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=2.5e-3, betas=(0.9, 0.98))
    schedule = {"rising": 200, "cycles": ((STEPS, 200),), "averaging": 0.99}
    trainee = Trainee("autoencoder", modules, [optimizer], step_loss, shares=1, **schedule)
    train(trainee, folder, lambda: f"{decibels(autoencoder, seed):.1f} dB")
    return autoencoder.eval()


@torch.no_grad()
def decibels(autoencoder: AutoencoderKL, seed: int, count: int = 32) -> float:
    """Peak signal to noise of held-out pictures, encoded and decoded."""
    rng = random.Random(seed)
    pictures = draw(rng.sample(split()[1], count), rng).contiguous(memory_format=torch.channels_last)
    drawn = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mean).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / (drawn - pictures).square().mean()))
