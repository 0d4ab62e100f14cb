"""The logs of a job: what it does, and what its ranks write, in files and on the terminal."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO


@contextmanager
def kept_logs(folder: Path | None, aloud: bool) -> Iterator[Callable[[int, bytes], None]]:
    """Keep logs in a folder, if there is one, and on the terminal if ``aloud``; it gives where ranks write."""
    with ExitStack() as closing:

        @cache
        def file_of(rank: int) -> BinaryIO | None:
            return folder and closing.enter_context((folder / f"rank{rank}.log").open("ab", buffering=0))

        def written(rank: int, some: bytes) -> None:
            if (file := file_of(rank)) is not None:
                file.write(some)
            if aloud:
                sys.stderr.buffer.write(b"".join(b"rank %d: %s" % (rank, line) for line in some.splitlines(True)))
                sys.stderr.flush()

        handlers: list[logging.Handler] = [logging.StreamHandler()] if aloud else []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(folder / "t2i.log"))
        logger = logging.getLogger("ditmesh")
        for handler in handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
            logger.addHandler(handler)
            closing.callback(handler.close)
            closing.callback(logger.removeHandler, handler)
        if handlers:
            closing.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.DEBUG if aloud else logging.INFO)
        yield written
