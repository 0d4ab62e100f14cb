"""The arguments of the pipeline's call: what the example says, and over it what the user does."""

import ast
from typing import Any

from ditmesh.cli.examples.example import Example
from ditmesh.cli.options import Options

OURS = ("generator", "output_type", "return_dict")  # arguments of the call that `generate` sets itself


def call_arguments(options: Options, example: Example) -> tuple[dict[str, Any], frozenset[str]]:
    """The arguments of the call by the pipeline's names, but for images; and those of them that the user gave.

    Raises:
        ValueError: something asked for contradicts something else.
    """
    asked = asked_arguments(options)
    call = {**default_arguments(example), **asked}
    if example.rate_argument and options.fps:
        call[example.rate_argument] = options.fps
    if options.skip_negative_prompt:
        if options.negative_prompt is not None:
            raise ValueError("--negative-prompt gives one and --skip-neg leaves it out; use one of them.")
        if call.pop("negative_prompt", None) is None:
            raise ValueError(f"--skip-neg: {example.name} has no negative prompt to leave out.")
    return call, frozenset(asked)


def default_arguments(example: Example) -> dict[str, Any]:
    """The arguments of the pipeline's call where the user says nothing, by the pipeline's names."""
    call = {
        "prompt": example.prompt,
        "height": example.height,
        "width": example.width,
        "num_inference_steps": example.steps,
        "num_frames": example.frames,
        **({example.rate_argument: example.fps} if example.rate_argument else {}),
    }
    return {name: value for name, value in call.items() if value is not None} | dict(example.call)


def asked_arguments(options: Options) -> dict[str, Any]:
    """The arguments of the pipeline's call that the user gave, by the pipeline's names."""
    given = {
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "num_inference_steps": options.steps,
        "height": options.height,
        "width": options.width,
        "num_frames": options.num_frames,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    return asked | extra_arguments(options.extra_input_kwargs)


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
