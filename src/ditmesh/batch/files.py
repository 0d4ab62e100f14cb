"""Prompt files as streams of raw rows: JSONL, JSON, CSV, TXT and Parquet, a few kilobytes in memory at a time."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 1 << 16  # characters of a JSON file read at once
PARQUET_ROWS = 1024
SPACE = " \t\r\n"


@dataclass(frozen=True)
class RawRow:
    """What a file says at one place.

    Attributes:
        line: where it begins, counted from 1; of a Parquet file the row.
        values: by column.
        wrong: why it is no row, or nothing.
    """

    line: int
    values: Mapping[str, Any]
    wrong: str = ""


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a file, in order; what cannot be read is a row that is wrong.

    Raises:
        ValueError: the file cannot be opened, or is none of the kinds there are.
    """
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path} is no prompt file; its name has to end in one of {', '.join(READERS)}.")
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise ValueError(f"the prompt file {path} cannot be read: {error.strerror or error}.") from error


def check_file(path: Path) -> None:
    """Refuse a file that is not there or holds no row at all, by reading its beginning."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the prompt file in it.")
    if next(read_rows(path), None) is None:
        raise ValueError(f"the prompt file {path} holds no prompts.")


def _text_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Lines that are not blank, with their numbers; None where one is no UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(SPACE)
            except UnicodeDecodeError:
                yield number, None
                continue
            if text:
                yield number, text


NO_TEXT = "it is no UTF-8"


def _read_txt(path: Path) -> Iterator[RawRow]:
    for number, text in _text_lines(path):
        yield RawRow(number, {}, NO_TEXT) if text is None else RawRow(number, {"prompt": text})


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    for number, text in _text_lines(path):
        if text is None:
            yield RawRow(number, {}, NO_TEXT)
            continue
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            yield RawRow(number, {}, f"it is no JSON ({_place(error)})")
        else:
            yield _as_row(number, value)


def _as_row(number: int, value: object) -> RawRow:
    if isinstance(value, str):
        return RawRow(number, {"prompt": value})
    if isinstance(value, dict):
        return RawRow(number, {name: x for name, x in value.items() if x is not None})
    return RawRow(number, {}, f"it is a {type(value).__name__}, and a row is an object with a prompt, or a string")


def _read_json(path: Path) -> Iterator[RawRow]:
    """The elements of an array, of which never more than one is in memory, and the chunk it ends in."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        text = JsonText(file.read)
        if text.peek() != "[":
            yield RawRow(text.line, {}, "a .json file holds an array of rows; name it .jsonl if it has a row a line")
            return
        text.skip()
        while text.peek() != "]":
            line = text.line
            try:
                value = text.value()
            except ValueError as error:
                yield RawRow(line, {}, f"{error}, and nothing behind it can be read")
                return
            yield _as_row(line, value)
            if text.peek() == ",":
                text.skip()
            elif text.peek() != "]":
                yield RawRow(text.line, {}, "a comma or ] is missing here, and nothing behind it can be read")
                return


class JsonText:
    """A JSON text of any length, value by value."""

    def __init__(self, read: Callable[[int], str]):
        self._read, self._buffer, self._at = read, "", 0
        self._ended, self._chunk = False, CHUNK
        self.line = 1
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in SPACE:
                self.skip()
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def skip(self) -> None:
        """Go past one character."""
        self.line += self._buffer[self._at] == "\n"
        self._at += 1

    def value(self) -> Any:
        """Go past one value.

        Raises:
            ValueError: there is none.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more():
                    raise ValueError(f"it is no JSON ({_place(error)})") from error
                continue
            if end == len(self._buffer) and self._more():
                continue  # a number might go on
            self.line += self._buffer.count("\n", self._at, end)
            self._at, self._chunk = end, CHUNK
            return value

    def _more(self) -> bool:
        """Read on, twice as much each time that was not enough, so that a long value costs no more than its length."""
        piece = "" if self._ended else self._read(self._chunk)
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        self._chunk *= 2
        self._ended = not piece
        return not self._ended


def _place(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} at its column {error.colno}"
    return "nested too deeply"


def _read_csv(path: Path) -> Iterator[RawRow]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        names = reader.fieldnames
        if not names:
            return
        if "prompt" not in [name.strip() for name in names]:
            raise ValueError(f"{path} has no column 'prompt'; its first line names {', '.join(map(repr, names))}.")
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RawRow(line, {}, f"it is no CSV ({error})")
                continue
            if None in cells:
                yield RawRow(line, {}, "it has more cells than the first line names; quote a prompt with commas")
            else:
                yield RawRow(line, {name.strip(): cell for name, cell in cells.items() if cell not in (None, "")})


def _read_parquet(path: Path) -> Iterator[RawRow]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs the package pyarrow; run: pip install pyarrow") from error
    try:
        with path.open("rb") as source, parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if "prompt" not in names:
                raise ValueError(f"{path} has no column 'prompt'; it has {', '.join(map(repr, names))}.")
            number = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    # pandas writes what is missing among numbers as NaN.
                    yield RawRow(number, {name: x for name, x in values.items() if x is not None and not _is_nan(x)})
    except ArrowException as error:
        raise ValueError(f"{path} is no Parquet file that can be read: {' '.join(str(error).split())}") from error


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}
