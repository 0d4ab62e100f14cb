"""The arguments of the pipeline's call, and the noise of each picture: data alone, known before anything is loaded."""

from collections.abc import Container, Mapping
from dataclasses import asdict
from typing import Any

from ditmesh.job.example import Example

# Arguments of the call that have a flag of the same name in some verb.
GIVEN = ("prompt", "negative_prompt", "height", "width", "num_inference_steps", "num_frames")
SCALES = ("guidance_scale", "true_cfg_scale")
OURS = ("generator", "output_type", "return_dict")  # arguments of the call that no user sets
# Odd, so that it reaches all 2^32 seeds that the CPU's generator knows.
PER_ROW = 2246822519
PER_IMAGE = PER_ROW * 2654435769 % 2**32  # of the golden ratio: rows and images do not meet for millions of rows


def noise_seed(seed: int, index: int, image: int) -> int:
    """The seed of a picture's own generator: of (seed, row, image) alone, and of the first picture the seed itself.

    For one seed no two pictures share a number, and so no noise, until there are millions of rows.
    """
    return (seed + index * PER_ROW + image * PER_IMAGE) % 2**32


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


def asked_arguments(options: Any) -> dict[str, Any]:
    """Those that a verb's flags give under the pipeline's own names."""
    return given(**{name: value for name, value in asdict(options).items() if name in (*GIVEN, *SCALES)})


def given(**arguments: Any) -> dict[str, Any]:
    """Those that somebody gave."""
    return {name: value for name, value in arguments.items() if value is not None}


def check_two_branches(call: Mapping[str, Any], takes: Container[str], title: str) -> None:
    """Refuse a call that cfg_size=2 has no second branch for, as far as its arguments tell.

    Raises:
        ValueError: it has one branch.
    """
    if "true_cfg_scale" in takes:
        missing = [] if call.get("negative_prompt") is not None else ["a negative_prompt"]
        missing += [] if (call.get("true_cfg_scale") or 0) > 1 else ["a true_cfg_scale above 1"]
        why = " (its guidance_scale is an input of guidance-distilled models)" if "guidance_scale" in takes else ""
    else:
        scale, why = call.get("guidance_scale"), ""
        missing = [] if scale is None or scale > 1 else ["a guidance_scale above 1"]
    if missing:
        raise ValueError(
            f"guidance parallelism shares two branches between two ranks, and a {title} has a second one only with "
            f"{' and '.join(missing)}{why}; give it, or use these ranks otherwise: ulysses, or data for two pictures "
            f"at once"
        )
