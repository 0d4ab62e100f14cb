"""What ranks run for the tests of latents that somebody mixes outside of a model's blocks."""

from typing import Any

from torch import Tensor, nn

import ditmesh
from tests.parallel.overlap import Pipe, enabled, flow_scheduler, given
from tests.parallel.pipefusion import config


def depends_on_all(where: str) -> tuple[Tensor, Tensor]:
    """The latents of a model whose stages need all latents themselves: deferred, and not."""

    def latents(deferred: bool) -> Tensor:
        pipe, seen = enabled("flux", "pp2", 3), []
        model = pipe.components["transformer"]
        model.x_embedder.register_forward_hook(lambda module, args, out: seen.append(args[0].mean()))
        if where == "before the blocks":
            model.time_text_embed.register_forward_hook(lambda module, args, out: out + seen[-1])
        else:
            model.proj_out.register_forward_pre_hook(lambda module, args: (args[0] + seen[-1],))
        if not deferred:
            pipe.between = lambda i, noise, x: (noise * 1, x)
        return pipe(given("flux", 0)[1])

    return latents(True), latents(False)


def mixed_unseen() -> str:
    """The error where a hook of the transformer itself mixes the latents, which is not asked what it does."""
    model, inputs = given("flux", 0)

    def centre(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] - kwargs["hidden_states"].mean()}

    model.register_forward_pre_hook(centre, with_kwargs=True)
    pipe = Pipe(model, flow_scheduler(""))
    ditmesh.enable_cache(pipe, parallelism_config=config("pp2", num_pipeline_patch=3))
    try:
        pipe(inputs)
    except ValueError as error:
        return str(error)
    return ""
