"""What ranks run for the tests of stages whose blocks take what earlier ones returned."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import ditmesh
from ditmesh.models import SPECS
from tests.counting import CommunicationCounter
from tests.parallel.overlap import Pipe, given
from tests.parallel.pipefusion import Oracle, config, deep, loop
from tests.tiny.parts import autoencoder_kl
from tests.transformers import Inputs, build, forward

PLACE, STEPS = "single_transformer_blocks", 4


def sent_by_a_step(name: str, layout: str, patches: int) -> tuple[int, int, int]:
    """Messages and bytes that a rank sends in a step in patches, and the messages it takes."""
    model, steps = deep(name)
    pipe = loop(model, layout, num_pipeline_patch=patches)
    pipe(steps[:1])
    pipe.scheduler.step_index = 1
    with CommunicationCounter() as counter:
        forward(model, steps[1])
    return counter.calls["send"], counter.bytes["send"], counter.calls["recv_"]


def mirrored(block: int, count: int) -> int | None:
    """The last takes what the first returned, the one before it what the second did."""
    return count - 1 - block if block > count // 2 else None


@contextmanager
def sheet() -> Iterator[None]:
    """FLUX.1's sheet for as long as its blocks reach back."""
    name = "FluxTransformer2DModel"
    spec = SPECS[name]
    lists = tuple(replace(one, reaches_back=mirrored, between="") if one.path == PLACE else one for one in spec.blocks)
    SPECS[name] = replace(spec, blocks=lists)
    try:
        yield
    finally:
        SPECS[name] = spec


def reaching(seed: int = 0, early: bool = False) -> tuple[nn.Module, Inputs]:
    """A FLUX.1 of ten blocks, the last of which take what earlier ones returned: added to the image, by the model.

    ``early``: the model makes something of what they returned there and then.
    """
    model, inputs = given("flux", seed)
    blocks: Any = model.get_submodule(PLACE)
    torch.manual_seed(5)
    while len(blocks) < 8:
        blocks.append(copy.deepcopy(blocks[-1]))
        for weight in blocks[-1].parameters():
            nn.init.normal_(weight, std=0.2)
    kept: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(block: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            kept[number] = output[1] * 1 if early else output[1]

        return hook

    def take(number: int) -> Any:
        def hook(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, kwargs | {"hidden_states": kwargs["hidden_states"] + 0.3 * kept[number]}

        return hook

    for number, block in enumerate(blocks):
        made = mirrored(number, len(blocks))
        if made is not None:
            blocks[made].register_forward_hook(keep(made))
            block.register_forward_pre_hook(take(made), with_kwargs=True)
    return model, inputs


def written(patches: int, warmup: int, seed: int = 0) -> Tensor:
    """The latents that the written algorithm makes in one process."""
    model, _ = reaching()
    pipe, oracle = Pipe(model, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)), Oracle(patches, warmup, 7, 0)

    def predict(inputs: Inputs) -> Tensor:
        with oracle:
            return forward(model, inputs)

    pipe.predict = predict
    return pipe(reaching(seed)[1])


def drawn(
    layout: str, patches: int, warmup: int, seeds: tuple[int, ...] = (0,), early: bool = False
) -> list[tuple[Tensor, int]]:
    """The latents of requests in a row on a layout, and how often all stages waited for each other."""
    pipe, made = Pipe(reaching(early=early)[0], diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)), []
    with sheet():
        settings = config(layout, num_pipeline_patch=patches, warmup_steps=warmup)
        ditmesh.enable_cache(pipe, parallelism_config=settings)
    for seed in seeds:
        with CommunicationCounter() as counter:
            made.append((pipe(reaching(seed)[1]), counter.calls["broadcast_"]))
    return made


def stock(layout: str, patches: int, warmup: int) -> list[Tensor]:
    """What the stock pipeline of a HunyuanDiT of eight blocks makes, twice; by the written algorithm in one process."""
    model, inputs = build("hunyuan_dit:deep", (1, (3, 5), 7, False), torch.float32)
    pipe = diffusers.HunyuanDiTPipeline(
        vae=autoencoder_kl(1), text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=model, scheduler=diffusers.DDPMScheduler(prediction_type="v_prediction"), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"guidance_scale": 2.0, "height": 48, "width": 80, "num_inference_steps": STEPS}
    call |= {"use_resolution_binning": False, "output_type": "latent"}
    for which, (end, name) in enumerate((("", ""), ("_2", "_t5"))):
        text = inputs[f"encoder_hidden_states{name}"]
        mask = torch.ones(text.shape[:2], dtype=torch.long)
        for negative in ("", "negative_"):
            call[f"{negative}prompt_embeds{end}"] = text if not negative else text.flip(-1) + which
            call[f"{negative}prompt_attention_mask{end}"] = mask
    if layout:
        ditmesh.enable_cache(pipe, parallelism_config=config(layout, num_pipeline_patch=patches, warmup_steps=warmup))
    found, run = [], model.forward
    for _ in range(2):
        oracle = Oracle(patches, warmup, 0, 0)

        def predict(*args: Any, **kwargs: Any) -> Any:
            with oracle:  # noqa: B023 - it is called within this turn
                return run(*args, **kwargs)

        if not layout:
            vars(model)["forward"] = predict
        found.append(pipe(**call, generator=torch.Generator().manual_seed(0)).images)
    return found
