"""Prompt files as streams of raw rows: JSONL, JSON, CSV, TXT and Parquet, a few kilobytes in memory at a time."""

import csv
import json
import math
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 16  # characters of a JSON file read at once
PARQUET_ROWS = 1024
SPACE = " \t\r\n"
HEAD = 1 << 12  # bytes that tell what a file is
GZIP = b"\x1f\x8b"
STANDARD_INPUT = Path("-")


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
    """Refuse a file that is not there, is none of its kind, or holds no row at all, by reading its beginning."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the prompt file in it.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file, but what can be read only once; write --prompts_file - < {path}")
    if path.is_file() and path.suffix.lower() != ".parquet":
        with path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith(GZIP):
            raise ValueError(f"the prompt file {path} is compressed by gzip; unpack it first: gunzip.")
        if b"\0" in head:
            raise ValueError(f"the prompt file {path} is no text in UTF-8; save it as one.")
    if next(read_rows(path), None) is None:
        raise ValueError(f"the prompt file {path} holds no prompts.")


@contextmanager
def spooled(stream: BinaryIO) -> Iterator[Path]:
    """A file of what comes in, which can be read more than once; its name ends in the kind that it begins like."""
    with tempfile.TemporaryDirectory(prefix="ditmesh-") as folder:
        path = Path(folder) / "standard_input"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        with path.open("rb") as file:
            kind = _kind_of(file.read(HEAD).decode("utf-8-sig", "replace").lstrip(SPACE))
        yield path.rename(path.with_suffix(kind))


def _kind_of(head: str) -> str:
    """How the name of a file ends that begins like this."""
    if head[:1] in ("{", '"'):
        return ".jsonl"
    cells = [cell.strip(' "') for cell in head.split("\n", 1)[0].strip(SPACE).split(",")]
    return ".json" if head[:1] == "[" else ".csv" if "prompt" in cells else ".txt"


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
            raise ValueError(f"{path} holds no array of rows; name it .jsonl if it has a row a line.")
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
        lines = Lines(file)
        reader = csv.reader(lines, skipinitialspace=True, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise ValueError(f"the first line of {path} names no columns: it is no CSV ({error}).") from error
        if not names:
            return
        if "prompt" not in names:
            raise ValueError(f"{path} has no column 'prompt'; its first line names {', '.join(map(repr, names))}.")
        while True:
            line = lines.begin_row()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # A quote that nobody closes takes all that follows into its cell.
                lines.back_to_second()
                yield RawRow(line, {}, f"it is no CSV ({error}); close its quotes, and write a quote in them twice")
                continue
            if len(cells) > len(names):
                yield RawRow(line, {}, "it has more cells than the first line names; quote a prompt with commas")
            elif cells:
                yield RawRow(line, {name: cell for name, cell in zip(names, cells, strict=False) if cell})


class Lines:
    """The lines of a text, of which those that a row took can be read again."""

    def __init__(self, text: Iterator[str]):
        self._text, self._again, self._row = text, deque[str](), list[str]()
        self._line = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._row.append(self._again.popleft() if self._again else next(self._text))
        return self._row[-1]

    def begin_row(self) -> int:
        """The number of the next line, where a row begins."""
        self._line += len(self._row)
        self._row.clear()
        return self._line

    def back_to_second(self) -> None:
        """Go back to the second line of the row that was read."""
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]


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
