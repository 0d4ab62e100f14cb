"""The flags of `ditmesh plan`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from ditmesh.cli.flags import argument, count, option, switch
from ditmesh.job.quantization import WHAT

MACHINE, CALL, WEIGHTS, SHOWN = "Machine", "What is drawn", "Weights and layout", "What is shown"

Text = str | None
Count = int | None


@dataclass(frozen=True)
class PlanOptions:
    """The flags as given; None where one was not."""

    model: str = argument("An example's name, a hub id or a folder; its weights are not read.", "MODEL")

    gpus: str = option(
        MACHINE, "How many of what, as in 8xL20; 2xthis is what ditmesh selftest measured.", "--gpus NxNAME",
        default=MISSING,
    )  # fmt: skip
    link: Text = option(
        MACHINE, "How they are joined, if not as usual: pcie3, pcie4, pcie4-host, nvlink4 ...", "--link NAME"
    )
    hardware: Path | None = option(MACHINE, "A TOML file with devices of your own.", "--hardware FILE")

    size: Text = option(CALL, "Pixels, as in 1024x1024.", "--size HxW")
    frames: Count = count(CALL, "Length of a video.", "--frames, --num-frames N")
    steps: Count = count(CALL, "Denoising steps.", "--steps N")
    batch: int = count(CALL, "Pictures of one call (1).", "--batch N", default=1)
    throughput: bool = switch(CALL, "Many prompts: replicas count, and pictures an hour.", "--throughput")
    cache: bool = switch(CALL, "With the memory of a cache, as `generate --cache` has it.", "--cache")
    cache_hits: float | None = option(
        CALL, "Part of the steps that it leaves out; without, seconds are those without a cache.", "--cache-hits X"
    )

    dtype: Text = option(WEIGHTS, "bf16, fp16 or fp32 (the example's).", "--dtype DTYPE")
    quantize: Text = option(WEIGHTS, WHAT, "--quantize KIND")
    quantized_text: bool = switch(WEIGHTS, "Quantize the text encoders likewise.", "--quantized-text")
    parallel_text: bool = switch(WEIGHTS, "Share the text encoders over all ranks too.", "--parallel-text")
    parallel_vae: bool = switch(WEIGHTS, "Share the VAE over all ranks too.", "--parallel-vae")
    shard_weights: bool = switch(WEIGHTS, "Share out weights that ranks would each hold whole.", "--shard-weights")

    max: float | None = option(SHOWN, "Seconds after which no further layout is looked at.", "--max SECONDS")
    json: bool = switch(SHOWN, "Print JSON instead of a table.", "--json")
    plot: Path | None = option(SHOWN, "Draw memory against time. Needs ditmesh[bench].", "--plot FILE.png")
