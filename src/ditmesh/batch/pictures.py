"""From rows to pictures, the units of work: each with its noise, its file and all that its call needs."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ditmesh.batch.rows import BadRow, GoodRow
from ditmesh.job.call import check_two_branches, noise_seed
from ditmesh.job.numbers import check_numbers

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
        one_for_all = sorted((name, value) for name, value in self.call.items() if name != "negative_prompt")
        return repr(one_for_all), self.call.get("negative_prompt") is None, PurePosixPath(self.file).suffix.lower()

    @property
    def place(self) -> Mapping[str, object]:
        """Which picture it is, for the books."""
        return {"index": self.index, "image": self.image, "line": self.line, "file": self.file}


@dataclass(frozen=True)
class Recipe:
    """What the command says about every row.

    Attributes:
        call: arguments of the pipeline's call, where a row says nothing.
        takes: the arguments that the pipeline's call takes, and what they are where nobody says anything.
        title: of the pipeline.
        made_by: the model and its number format: a picture by another one is another picture.
        two_branches: whether every row has to have a second branch of guidance.
        smallest_side: the pixels that become one token of the model.
    """

    call: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    images: int = 1
    takes: Mapping[str, Any] = field(default_factory=lambda: dict.fromkeys(CALL))
    title: str = "pipeline"
    made_by: str = ""
    two_branches: bool = False
    smallest_side: int = 1

    def pictures(self, good: GoodRow) -> list[Picture]:
        """The pictures of a row.

        Raises:
            ValueError: the pipeline cannot do what the row asks for.
        """
        row = good.row
        asked = row.model_dump(include={*CALL}, exclude_none=True)
        for name in asked:
            if name not in self.takes:
                raise ValueError(f"a {self.title} takes no {name}")
        call = {**self.call, **asked}
        check_numbers(call, self.smallest_side)
        if self.two_branches:
            check_two_branches({**self.takes, **call}, self.takes, self.title)
        count = self.images if row.num_images_per_prompt is None else row.num_images_per_prompt
        seed = self.seed if row.seed is None else row.seed
        return [
            Picture(good.index, i, good.line, row.prompt, call, seed, file_name(good, i, count)) for i in range(count)
        ]

    def identity(self, picture: Picture) -> int:
        """A number of 64 bits that two pictures share only if they are the same, by the same model."""
        facts = [self.made_by, picture.index, picture.image, picture.prompt, picture.file, picture.noise_seed]
        text = repr([*facts, sorted(picture.call.items())])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


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
    named, folders = set[int](), set[int]()
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            pictures = recipe.pictures(row)
            if row.row.output_name is not None:
                _check_names(pictures, named, folders)
        except ValueError as error:
            yield BadRow(row.line, str(error))
        else:
            yield from pictures


def _check_names(pictures: Iterable[Picture], named: set[int], folders: set[int]) -> None:
    """Refuse file names that are taken; rows without a name have numbers, which no name may look like."""
    files = [PurePosixPath(picture.file) for picture in pictures]
    above = {str(folder) for file in files for folder in file.parents[:-1]}
    for name in map(str, files):
        if hash(name) in named:
            raise ValueError(f"output_name: a row before it makes a picture of the name {name!r}")
        if hash(name) in folders:
            raise ValueError(f"output_name: a row before it puts a picture into a folder of the name {name!r}")
    for name in above:
        if hash(name) in named:
            raise ValueError(f"output_name: {name!r} is a picture of a row before it, and no folder")
    named.update(hash(str(file)) for file in files)
    folders.update(map(hash, above))


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
