"""Draw pictures with one call, and learn how it went on every rank of the replica."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch

from ditmesh.batch.pictures import Picture
from ditmesh.batch.work_list import WorkList
from ditmesh.job.call import given
from ditmesh.job.draw import call_pipeline
from ditmesh.runtime.gang import RanksLost

# How long a rank that failed waits for the others to fail likewise; who has not by then waits for it in a collective.
PATIENCE = timedelta(seconds=10)
NO_NUMBERS = "its values are no numbers"


@dataclass(frozen=True)
class Failed:
    """A picture that was not drawn, and why."""

    why: str


def draw(pipe: object, pictures: Sequence[Picture]) -> list[np.ndarray]:
    """Call the pipeline once; [height, width, channels] in [0, 1] for each picture."""
    call = given(**pictures[0].call) | {"prompt": pictures[0].prompt}
    if len(pictures) > 1:
        call["prompt"] = [picture.prompt for picture in pictures]
        if "negative_prompt" in call:
            call["negative_prompt"] = [picture.call["negative_prompt"] for picture in pictures]
    result = call_pipeline(pipe, call, [picture.noise_seed for picture in pictures])
    images = np.asarray(result["images"])
    if len(images) != len(pictures):
        raise ValueError(f"the pipeline drew {len(images)} pictures for {len(pictures)} prompts; use --batch_size 1.")
    return list(images)


def draw_together(pipe: object, pictures: Sequence[Picture], work: WorkList) -> list[np.ndarray | Failed]:
    """Draw on every rank of the replica, and go on only if it went the same way on all of them.

    Returns:
        each picture, or why it was not drawn.

    Raises:
        ValueError: it did not; the replica's ranks are out of step, and the job has to end.
    """
    drawn: list[np.ndarray | Failed]
    try:
        images = draw(pipe, pictures)
    except (torch.AcceleratorError, RanksLost):
        raise  # the device is lost to this process, or another rank is
    except Exception as error:  # noqa: BLE001 - it costs this prompt, or ends the job if not all ranks see it
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        drawn = [Failed(words(error))] * len(pictures)
        answers = work.agree(f"failed {words(error)}", PATIENCE)
    else:
        drawn = [image if np.isfinite(image).all() else Failed(NO_NUMBERS) for image in images]
        broken = [i for i, image in enumerate(drawn) if isinstance(image, Failed)]
        answers = work.agree(f"drawn-but-for-{broken} {NO_NUMBERS}" if broken else "drawn ")
    if len({answer and answer.split(" ", 1)[0] for answer in answers}) > 1:
        raise ValueError(_out_of_step(pictures, work, answers))
    return drawn


def words(error: BaseException) -> str:
    """An error in one line: what it says, and of what kind it is unless it is made for readers."""
    told = " ".join(str(error).split())
    return told if isinstance(error, ValueError) and told else f"{type(error).__name__}: {told}".rstrip(": ")


def _out_of_step(pictures: Sequence[Picture], work: WorkList, answers: Sequence[str | None]) -> str:
    first = work.place.replica * work.place.size
    failed = [(first + i, answer) for i, answer in enumerate(answers) if answer and not answer.startswith("drawn ")]
    rank, answer = failed[0]
    return (
        f"{pictures[0].name} failed on rank {rank} and not in the same way on every rank that draws it, so they are "
        f"out of step: {answer.split(' ', 1)[1]}. "
        f"The finished pictures are kept, and the same command goes on from there."
    )
