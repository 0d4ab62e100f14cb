"""What the flags of `ditmesh generate` say of the pipeline's call."""

import ast
from typing import Any

from ditmesh.cli.generate.options import Options
from ditmesh.job.call import OURS, asked_arguments, default_arguments, given
from ditmesh.job.example import Example


def call_arguments(options: Options, example: Example) -> tuple[dict[str, Any], frozenset[str]]:
    """The arguments of the call by the pipeline's names, but for images; and those of them that the user gave.

    Raises:
        ValueError: something asked for contradicts something else.
    """
    asked = asked_arguments(options) | given(num_inference_steps=options.steps)
    asked |= extra_arguments(options.extra_input_kwargs)
    call = {**default_arguments(example), **asked}
    if example.rate_argument and options.fps:
        call[example.rate_argument] = options.fps
    if options.skip_negative_prompt:
        if options.negative_prompt is not None:
            raise ValueError("--negative-prompt gives one and --skip-neg leaves it out; use one of them.")
        if call.pop("negative_prompt", None) is None:
            raise ValueError(f"--skip-neg: {example.name} has no negative prompt to leave out.")
    return call, frozenset(asked)


def extra_arguments(text: str | None) -> dict[str, Any]:
    """Read --extra-input-kwargs, a Python dict of literals."""
    if text is None:
        return {}
    try:
        extra = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"--extra-input-kwargs {text!r} is no Python dict; write it like \"{{'sigmas': None}}\"."
        ) from error
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise ValueError(f"--extra-input-kwargs {text!r} is no dict with names as keys, like \"{{'sigmas': None}}\".")
    for name in OURS:
        if name in extra:
            raise ValueError(f"--extra-input-kwargs: {name} is set by generate itself; leave it out.")
    return extra
