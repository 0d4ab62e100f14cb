"""What is checked of a job by its description alone, before torch is imported."""

import os
from pathlib import Path

from ditmesh.checks import check_layout
from ditmesh.job.description import Job
from ditmesh.job.numbers import check_numbers


def check_facts(job: Job) -> Job:
    """The job as it is.

    Raises:
        ValueError: a layout that a transformer cannot run, or a number that no picture can be drawn with.
    """
    layout = job.layout
    for part in job.facts.transformers.values() if layout.world_size > layout.dp_size else ():
        check_layout(layout, part.class_name, part.config, layout.world_size)
    check_numbers({**job.call, "seed": job.seed}, job.facts.smallest_side)
    return job


def check_place(flag: str, asked: Path, folder: Path) -> None:
    """Refuse a file or folder that nothing can be written to; ``folder`` is the one that has to be there or be made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{flag} {asked}: {there} is a file, not a folder; choose another place.")
    for place in (there, asked):
        if place.exists() and not os.access(place, os.W_OK):
            raise ValueError(f"{flag} {asked}: no permission to write {place}; choose another place.")
