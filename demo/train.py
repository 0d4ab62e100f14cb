"""Train the demonstration model from nothing and save it where the package ships it: `python -m demo.train`.

It takes about an hour on two idle cores, and goes on where it was cut off. With `--export`, it saves the averaged
weights of the last checkpoint as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import FluxPipeline

from demo.autoencoder import new_autoencoder, train_autoencoder
from demo.denoiser import learners, new_pipeline, scale_latents, train_denoiser
from demo.judge import MODEL, ROOT
from demo.loop import load_average


def exported(folder: Path, seed: int) -> FluxPipeline:
    """The pipeline with the averaged weights of the checkpoints in `folder`."""
    vae = new_autoencoder()
    load_average(torch.nn.ModuleDict({"vae": vae}), folder / "autoencoder.pt")
    scale_latents(vae, torch.load(folder / "latents.pt", weights_only=True))
    pipe = new_pipeline(vae, seed)
    load_average(learners(pipe), folder / "denoiser.pt")
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".train", help="where the checkpoints go")
    parser.add_argument("--model", type=Path, default=MODEL, help="where the pipeline is saved")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", action="store_true", help="train no further, save what the checkpoints hold")
    options = parser.parse_args()

    if options.export:
        pipe = exported(options.folder, options.seed)
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(2)
        vae = train_autoencoder(options.folder, options.seed)
        torch.set_num_threads(1)  # in each of the denoiser's two
        pipe = train_denoiser(vae, options.folder, options.seed)
    pipe.save_pretrained(options.model)


if __name__ == "__main__":
    main()
