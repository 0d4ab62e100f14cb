"""One row of a prompt file, checked: what it asks for, or why it cannot be had."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from ditmesh.batch.files import RawRow
from ditmesh.batch.folder import OURS
from ditmesh.batch.writer import UNFINISHED
from ditmesh.job import numbers

PICTURES = (".png", ".jpg", ".jpeg")
NUMBERED = re.compile(r"\d+(_\d+)?\.\w+")
NEARLY = 0.8  # how alike a column's name is to one of ours before it counts as a slip of the pen
NO_NAME = 100  # letters; a column's name has fewer
LONGEST = 100_000  # letters of a prompt: no model reads so many, and tokenizers need minutes for millions


def _no_switch(value: object) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


def _text(value: object) -> Any:
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("it is no UTF-8")
    if isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(f"{len(value)} letters are more than the {LONGEST} that a text may have")
    return value


Whole = Annotated[int, BeforeValidator(_no_switch)]
Count = Annotated[Whole, AfterValidator(numbers.count)]
Scale = Annotated[float, BeforeValidator(_no_switch), AfterValidator(numbers.scale)]
Text = Annotated[str, BeforeValidator(_text)]


class Row(BaseModel):
    """What a row may say; None where it does not, and the command's own value holds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: Text
    index: Annotated[Whole, Field(ge=0, le=numbers.LARGEST)] | None = None
    negative_prompt: Text | None = None
    height: Count | None = None
    width: Count | None = None
    num_inference_steps: Count | None = None
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    seed: Annotated[Whole, AfterValidator(numbers.seed)] | None = None
    num_images_per_prompt: Annotated[Whole, AfterValidator(numbers.images)] | None = None
    output_name: Text | None = None

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("it is empty")
        return prompt

    @field_validator("output_name")
    @classmethod
    def _stays_inside(cls, name: str | None) -> str | None:
        return None if name is None else safe_name(name)


NAMES = tuple(Row.model_fields)


def safe_name(name: str) -> str:
    """A relative path of a picture: .png, .jpg and .jpeg are kept, to anything else .png is added.

    Raises:
        ValueError: it leads out of the output folder, or no file can have that name there.
    """
    path = PurePosixPath(name.strip())
    if not path.name or path.name == ".." or "\0" in name:
        raise ValueError(f"{name!r} is no file name")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the output folder; give a name inside it")
    if path.suffix.lower() not in PICTURES:
        path = path.with_name(f"{path.name}.png")
    numbers = str(path), *(part for part in path.parts[:-1] if part.endswith(PICTURES))
    ours = path.parts[0].casefold() in OURS or any(part.endswith(UNFINISHED) for part in path.parts)
    if ours or any(NUMBERED.fullmatch(name) for name in numbers):
        raise ValueError(f"{name!r} is a name that ditmesh gives files itself; choose another")
    if any(len(part.encode()) > 200 for part in path.parts):
        raise ValueError(f"{name[:40]!r}... is too long for a file name")
    return str(path)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be drawn, and why."""

    line: int
    why: str


@dataclass(frozen=True)
class GoodRow:
    """A row to draw; ``index`` is its own, or its place among the rows."""

    index: int
    line: int
    row: Row


def check_rows(raw_rows: Iterable[RawRow]) -> Iterator[GoodRow | BadRow]:
    """Every row, judged.

    The first row decides whether rows have an ``index`` of their own; one that comes twice is refused the second time.
    """
    seen: set[int] = set()
    indexed: bool | None = None
    for place, raw in enumerate(raw_rows):
        if raw.wrong:
            yield BadRow(raw.line, raw.wrong)
            continue
        try:
            row = _parse(raw.values)
            indexed = row.index is not None if indexed is None else indexed
            _check_unique(row, indexed, seen)
        except ValueError as error:
            yield BadRow(raw.line, str(error))
        else:
            yield GoodRow(place if row.index is None else row.index, raw.line, row)


def _parse(values: Mapping[str, object]) -> Row:
    for name in values:
        if name not in NAMES and (close := nearly(name)):
            raise ValueError(f"there is no column {name!r}; did you mean {close!r}?")
    try:
        return Row.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_told(part) for part in error.errors())) from error


def nearly(name: str) -> str | None:
    """The column that was probably meant by a name that is none."""
    if len(name) > NO_NAME:
        return None
    close = difflib.get_close_matches(str(name).strip().lower().replace(" ", "_"), NAMES, n=1, cutoff=NEARLY)
    return close[0] if close else None


def unused_columns(raw_rows: Iterable[RawRow]) -> list[str]:
    """The columns of the first row that say nothing to us."""
    first = next(iter(raw_rows), None)
    return [] if first is None else [name for name in first.values if name not in NAMES]


def _told(error: Any) -> str:
    name, given = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "missing":
        return f"it has no {name}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}" + ("" if name == "output_name" else f" ({str(given)[:60]!r})")


def _check_unique(row: Row, indexed: bool, seen: set[int]) -> None:
    if (row.index is not None) != indexed:
        raise ValueError(
            "it has no index, and the rows before it have; give every row one, or none"
            if indexed
            else "it has an index, and the rows before it have none; give every row one, or none"
        )
    if row.index is not None:
        if row.index in seen:
            raise ValueError(f"index {row.index} was given before")
        seen.add(row.index)
