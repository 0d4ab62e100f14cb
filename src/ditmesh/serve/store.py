"""Jobs, batches and files where a restart finds them: a SQLite file, and a folder with the contents."""

import fcntl
import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import IO, Any

NAME, FILES, LOCK = "jobs.sqlite", "files", "lock"
ID = re.compile(r"[a-z]+[-_][0-9a-f]{24}")
DONE = ("completed", "failed", "cancelled")
TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, facts TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_time ON jobs (kind, created, id);
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, purpose TEXT NOT NULL, media_type TEXT NOT NULL, bytes INTEGER NOT NULL,
    created REAL NOT NULL, owner TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_owner ON files (owner);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class File:
    """A content that is kept; ``owner`` is the job or batch that it goes with."""

    id: str
    name: str
    purpose: str
    media_type: str
    bytes: int
    created: float
    owner: str | None = None


@dataclass(frozen=True)
class Job:
    """What somebody asked for, and what became of it.

    Attributes:
        kind: image, edit, video or batch.
        facts: all else, as JSON holds it.
    """

    id: str
    kind: str
    status: str
    created: float
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_done(self) -> bool:
        return self.status in DONE

    def with_facts(self, status: str | None = None, **facts: Any) -> "Job":
        return replace(self, status=status or self.status, facts={**self.facts, **facts})


def new_id(kind: str) -> str:
    """A name that nobody can guess."""
    return f"{kind}{secrets.token_hex(12)}"


class Store:
    """Any thread may use it; one process at a time."""

    def __init__(self, folder: Path):
        """
        Raises:
            ValueError: another server keeps its jobs there.
        """
        self.files = folder / FILES
        self.files.mkdir(parents=True, exist_ok=True)
        self._held: IO[str] = (folder / LOCK).open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._held.close()
            raise ValueError(
                f"--data-dir {folder}: another server keeps its jobs there; give this one a folder of its own."
            ) from error
        self._lock = RLock()
        self._base = sqlite3.connect(folder / NAME, check_same_thread=False, isolation_level=None)
        self._base.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + TABLES)

    def close(self) -> None:
        with self._lock:
            self._base.close()
        self._held.close()

    def secret(self) -> bytes:
        """What links to files are signed with; the same after a restart."""
        self._do("INSERT OR IGNORE INTO secrets VALUES ('links', ?)", secrets.token_bytes(32))
        return self._do("SELECT value FROM secrets WHERE name = 'links'")[0][0]

    def keep_job(self, job: Job) -> None:
        """Write a job down as it now is."""
        row = (job.id, job.kind, job.status, job.created, json.dumps(job.facts))
        self._do("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)", *row)

    def job(self, id: str, *kinds: str) -> Job | None:
        """The job of that name, if it is of one of these kinds."""
        found = [_job(row) for row in self._do("SELECT * FROM jobs WHERE id = ?", id)]
        return found[0] if found and (not kinds or found[0].kind in kinds) else None

    def jobs(self, kinds: Sequence[str], limit: int, after: str | None = None, newest_first: bool = True) -> list[Job]:
        """A page of them, in the order in which they came."""
        last = after and self.job(after)
        compare, order = ("<", "DESC") if newest_first else (">", "ASC")
        where = f"kind IN ({', '.join('?' * len(kinds))})" + (f" AND (created, id) {compare} (?, ?)" if last else "")
        place = (last.created, last.id) if last else ()
        query = f"SELECT * FROM jobs WHERE {where} ORDER BY created {order}, id {order} LIMIT ?"
        return [_job(row) for row in self._do(query, *kinds, *place, limit)]

    def unfinished(self) -> list[Job]:
        """Jobs that a server before this one did not end, first come first."""
        query = f"SELECT * FROM jobs WHERE status NOT IN ({', '.join('?' * len(DONE))}) ORDER BY created, id"
        return [_job(row) for row in self._do(query, *DONE)]

    def drop_job(self, id: str) -> None:
        """Forget a job and all its files."""
        for file in self.files_of(id):
            self.drop_file(file.id)
        self._do("DELETE FROM jobs WHERE id = ?", id)

    def keep_file(
        self, content: bytes, name: str, purpose: str, media_type: str, owner: str | None = None, id: str | None = None
    ) -> File:
        """Write a content down, whole or not at all; it has a name of ours, whatever ``name`` says."""
        file = File(id or new_id("file-"), name, purpose, media_type, len(content), time.time(), owner)
        half = self.files / f"{file.id}.part"
        half.write_bytes(content)
        os.replace(half, self.files / file.id)
        self._do("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", *asdict(file).values())
        return file

    def keep_lines(self, id: str, name: str, owner: str) -> File:
        """Enter a file that was written line by line to its ``path``."""
        file = File(id, name, "batch_output", "application/jsonl", self.path(id).stat().st_size, time.time(), owner)
        self._do("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", *asdict(file).values())
        return file

    def path(self, id: str) -> Path:
        """Where a content lies; its name is one that we made."""
        assert ID.fullmatch(id)
        return self.files / id

    def file(self, id: str) -> File | None:
        found = self._do("SELECT * FROM files WHERE id = ?", id) if ID.fullmatch(id) else []
        return File(*found[0]) if found else None

    def files_of(self, owner: str | None, purpose: str = "%") -> list[File]:
        """The files that go with a job, or those that clients brought."""
        query = "SELECT * FROM files WHERE owner IS ? AND purpose LIKE ? ORDER BY created, id"
        return [File(*row) for row in self._do(query, owner, purpose)]

    def shared_files(self) -> list[File]:
        """The files that clients know by name: those they brought, and what became of their batches."""
        query = "SELECT * FROM files WHERE purpose LIKE 'batch%' ORDER BY created DESC, id DESC"
        return [File(*row) for row in self._do(query)]

    def drop_file(self, id: str) -> None:
        self._do("DELETE FROM files WHERE id = ?", id)
        self.path(id).unlink(missing_ok=True)

    def drop_older(self, moment: float) -> Iterator[str]:
        """Forget what ended before a moment, and files that nobody used since; the names of the jobs."""
        done = ", ".join("?" * len(DONE))
        for (id,) in self._do(f"SELECT id FROM jobs WHERE created < ? AND status IN ({done})", moment, *DONE):
            self.drop_job(id)
            yield id
        for (id,) in self._do("SELECT id FROM files WHERE created < ? AND owner IS NULL", moment):
            self.drop_file(id)

    def _do(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._base.execute(query, values).fetchall()


def _job(row: Sequence[Any]) -> Job:
    return Job(*row[:4], facts=json.loads(row[4]))
