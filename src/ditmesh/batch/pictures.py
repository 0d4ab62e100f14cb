"""From rows to pictures, the units of work: each with its noise, its file and all that its call needs."""

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ditmesh.batch.rows import BadRow, GoodRow

# Odd, so that it reaches all 2^32 seeds that the CPU's generator knows.
PER_ROW = 2246822519
PER_IMAGE = PER_ROW * 2654435769 % 2**32  # of the golden ratio: rows and images do not meet for millions of rows
ROWS_WAITING = 64  # how many batches' worth of pictures may wait for others of their kind
CALL = ("negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale")


@dataclass(frozen=True)
class Picture:
    """One picture to draw.

    Attributes:
        index, image: which row, and which of its images.
        line: where the row stands in its file.
        call: the arguments of the pipeline's call beside the prompt.
        seed: as the row or the command gives it; ``noise_seed`` is what follows from it for this picture.
        file: its name in the output folder.
    """

    index: int
    image: int
    line: int
    prompt: str
    call: Mapping[str, Any]
    seed: int
    file: str

    @property
    def noise_seed(self) -> int:
        return noise_seed(self.seed, self.index, self.image)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Pictures of one kind can be drawn by one call."""
        one_for_all = {name: value for name, value in self.call.items() if name != "negative_prompt"}
        return json.dumps(one_for_all, sort_keys=True), self.call.get("negative_prompt") is None

    @property
    def name(self) -> str:
        """What to call it before a reader."""
        return self.file


def noise_seed(seed: int, index: int, image: int) -> int:
    """The seed of a picture's own generator: of (seed, row, image) alone, and of the first picture the seed itself.

    For one seed no two pictures share a number, and so no noise, until there are millions of rows.
    """
    return (seed + index * PER_ROW + image * PER_IMAGE) % 2**32


@dataclass(frozen=True)
class Recipe:
    """What the command says about every row.

    Attributes:
        call: arguments of the pipeline's call, where a row says nothing.
        takes: the names of the arguments that the pipeline's call takes.
        title: of the pipeline.
        made_by: the model and its number format: a picture by another one is another picture.
        two_branches: whether every row has to have a second branch of guidance.
    """

    call: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    images: int = 1
    takes: Container[str] = CALL
    title: str = "pipeline"
    made_by: str = ""
    two_branches: bool = False

    def pictures(self, good: GoodRow) -> list[Picture]:
        """The pictures of a row.

        Raises:
            ValueError: the pipeline cannot do what the row asks for.
        """
        row = good.row
        asked = {name: value for name in CALL if (value := vars(row)[name]) is not None}
        for name in asked:
            if name not in self.takes:
                raise ValueError(f"a {self.title} takes no {name}")
        call = {**self.call, **asked}
        if self.two_branches:
            check_two_branches(call, self.takes, self.title)
        count = self.images if row.num_images_per_prompt is None else row.num_images_per_prompt
        seed = self.seed if row.seed is None else row.seed
        return [
            Picture(good.index, i, good.line, row.prompt, call, seed, file_name(good, i, count)) for i in range(count)
        ]

    def identity(self, picture: Picture) -> int:
        """A number of 64 bits that two pictures share only if they are the same, by the same model."""
        facts = [self.made_by, picture.index, picture.image, picture.prompt, picture.file, picture.noise_seed]
        text = json.dumps([*facts, picture.call], sort_keys=True)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


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


def file_name(good: GoodRow, image: int, count: int) -> str:
    """The name the row gives, or its index; with a number for each of several images."""
    name = good.row.output_name or f"{good.index:06d}.png"
    if count == 1:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_{image:02d}{dot}{suffix}"


def all_pictures(rows: Iterable[GoodRow | BadRow], recipe: Recipe) -> Iterator[Picture | BadRow]:
    """The pictures of every row, in order, and the rows that have none.

    A row whose pictures would take the place of another row's is refused; only names that rows give are remembered.
    """
    named: set[int] = set()
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            pictures = recipe.pictures(row)
            if row.row.output_name is not None:
                _check_names(pictures, named)
        except ValueError as error:
            yield BadRow(row.line, str(error))
        else:
            yield from pictures


def _check_names(pictures: Iterable[Picture], named: set[int]) -> None:
    """Refuse file names that are taken; rows without a name have numbers, which no name may look like."""
    names = {hash(picture.file): picture.file for picture in pictures}
    for taken in names.keys() & named:
        raise ValueError(f"output_name: a row before it makes a picture of the name {names[taken]!r}")
    named.update(names)


def batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Put pictures of one kind together, up to ``size``; the same batches for whoever asks.

    A picture waits for others of its kind until it is full, or too many wait: then those that wait longest go.
    """
    if size == 1:
        yield from ([picture] for picture in pictures)
        return
    waiting: dict[tuple[Any, ...], list[Picture]] = {}
    count = 0
    for picture in pictures:
        group = waiting.setdefault(picture.kind, [])
        group.append(picture)
        count += 1
        if len(group) == size or count > ROWS_WAITING * size:
            kind = picture.kind if len(group) == size else next(iter(waiting))
            full = waiting.pop(kind)
            count -= len(full)
            yield full
    yield from waiting.values()
