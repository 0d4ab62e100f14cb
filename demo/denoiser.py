"""Stage two of the training: the transformer and both text encoders learn flow matching on cached latents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline

from demo.loop import Trainee, train
from demo.muon import Muon
from demo.pipeline import assemble, new_clip, new_t5, new_transformer
from demo.shapes import Scene, caption, draw, split
from demo.words import CAPTION_TOKENS, new_clip_tokenizer, new_t5_tokenizer

CYCLES = ((1400, 500), (4400, 1200), (6400, 1400))  # steps, and how many of them the learning rate falls in
BATCH = 32
SHARES = 2  # two threads with half a batch each keep two cores busier than one batch on two threads
DRAWINGS = 4  # of each training scene, each a few pixels off
NO_CAPTION_SHARE = 0.1  # what guidance against the empty prompt needs


def cached_latents(vae: AutoencoderKL, scenes: list[Scene], file: Path) -> torch.Tensor:
    """Means of the drawings' latents, [drawing, C, 16, 16], unscaled."""
    if file.exists():
        return torch.load(file, weights_only=True)
    rng = random.Random("latents")
    means = []
    with torch.no_grad():
        for begin in range(0, len(scenes), 32):
            pictures = draw(scenes[begin : begin + 32], rng).contiguous(memory_format=torch.channels_last)
            means.append(vae.encode(pictures).latent_dist.mean.contiguous())
    latents = torch.cat(means)
    torch.save(latents, file)
    return latents


def scale_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation, by the two numbers that the pipeline undoes before it decodes."""
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 6), scaling_factor=round(1 / latents.std().item(), 6)
    )
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def sampled_sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels in 0..1: four of five logit-normal (Esser et al. 2024), the others uniform."""
    normal = torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.8, normal, uniform)


def loss(pipe: FluxPipeline, tokens_BSC: torch.Tensor, captions: list[str], generator: torch.Generator) -> torch.Tensor:
    """Squared error of the velocity from clean latents to noise, the way FluxPipeline calls the transformer."""
    noise = torch.randn(tokens_BSC.shape, generator=generator)
    sigma = sampled_sigmas(len(captions), generator)
    noisy = torch.lerp(tokens_BSC, noise, sigma[:, None, None])
    clip_ids = pipe.tokenizer(captions, padding=True, return_tensors="pt").input_ids
    t5_ids = pipe.tokenizer_2(captions, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt").input_ids
    side = int(tokens_BSC.shape[1] ** 0.5)
    velocity = pipe.transformer(
        hidden_states=noisy,
        timestep=sigma,
        pooled_projections=pipe.text_encoder(clip_ids).pooler_output,
        encoder_hidden_states=pipe.text_encoder_2(t5_ids)[0],
        txt_ids=torch.zeros(CAPTION_TOKENS, 3),
        img_ids=pipe._prepare_latent_image_ids(len(captions), side, side, noise.device, noise.dtype),
    ).sample
    return (velocity - (noise - tokens_BSC)).square().mean()


def new_pipeline(vae: AutoencoderKL, seed: int) -> FluxPipeline:
    torch.manual_seed(seed)
    clip_tokenizer, t5_tokenizer = new_clip_tokenizer(), new_t5_tokenizer()
    clip, t5 = (clip_tokenizer, new_clip(clip_tokenizer)), (t5_tokenizer, new_t5(t5_tokenizer))
    return assemble(vae, new_transformer(), clip, t5)


def learners(pipe: FluxPipeline) -> torch.nn.ModuleDict:
    """The modules of stage two; the autoencoder stays as it is."""
    return torch.nn.ModuleDict({"transformer": pipe.transformer, "clip": pipe.text_encoder, "t5": pipe.text_encoder_2})


def optimizers(modules: torch.nn.ModuleDict) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks but their modulations, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in modules.named_parameters():
        inner = "transformer_blocks." in name and ".norm" not in name and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    return [Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=1.5e-3, betas=(0.9, 0.98))]


def train_denoiser(vae: AutoencoderKL, folder: Path, seed: int) -> FluxPipeline:
    """Train all but the autoencoder, which is only given the two numbers its latents are scaled by."""
    scenes = [scene for scene in split()[0] for _ in range(DRAWINGS)]
    latents = scale_latents(vae, cached_latents(vae, scenes, folder / "latents.pt"))
    tokens = FluxPipeline._pack_latents(latents, *latents.shape)
    pipe = new_pipeline(vae, seed)

    def step_loss(step: int, share: int) -> torch.Tensor:
        rng = random.Random(f"denoiser {seed} {step} {share}")
        generator = torch.Generator().manual_seed(rng.getrandbits(40))
        chosen = rng.sample(range(len(scenes)), BATCH // SHARES)
        captions = ["" if rng.random() < NO_CAPTION_SHARE else caption(scenes[i], rng) for i in chosen]
        return loss(pipe, tokens[chosen], captions, generator)

    modules = learners(pipe).train()
    schedule = {"rising": 100, "cycles": CYCLES, "averaging": 0.998}
    trainee = Trainee("denoiser", modules, optimizers(modules), step_loss, shares=SHARES, **schedule)
    train(trainee, folder, lambda: "saved")
    modules.eval()
    return pipe
