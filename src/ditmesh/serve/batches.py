"""Batches: a file of requests in, a file of answers out, row by row behind those who wait for theirs."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Query, Request

from ditmesh.serve.asked import read_json, taken_apart
from ditmesh.serve.errors import Refusal, not_found
from ditmesh.serve.images import answer
from ditmesh.serve.inputs import brought
from ditmesh.serve.server import Server
from ditmesh.serve.store import Job, new_id

ENDPOINTS = {"/v1/images/generations": "image", "/v1/images/edits": "edit"}
WINDOW, MOST_ROWS, MOST_LETTERS = "24h", 50_000, 1 << 20
BEHIND = -1  # the priority of rows
ENDS = ("output", "errors")


def routes(server: Server, batches: "Batches") -> APIRouter:
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    @router.post("")
    async def create(request: Request) -> dict[str, Any]:
        """Begin a batch: `input_file_id`, `endpoint`, `completion_window` 24h, `metadata`."""
        return told(await batches.begin(await read_json(request)))

    @router.get("")
    async def all_of_them(
        after: str | None = Query(None, max_length=80), limit: int = Query(20, ge=1, le=100)
    ) -> dict[str, Any]:
        found = await server.desk.write(server.store.jobs, ["batch"], limit + 1, after)
        data = [told(batches.latest(job)) for job in found[:limit]]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return {"object": "list", "data": data, "has_more": len(found) > limit, **ends}

    @router.get("/{id}")
    async def one(id: str) -> dict[str, Any]:
        return told(batches.latest(await server.job(id, "batch")))

    @router.post("/{id}/cancel")
    async def cancel(id: str) -> dict[str, Any]:
        """Let the rows be that are not drawn yet."""
        job = batches.latest(await server.job(id, "batch"))
        if job.is_done:
            raise Refusal(409, f"The batch is {job.status} already.", code="already_ended")
        return told(batches.cancel(job))

    return router


class Batches:
    """The batches of a server; ``at_once`` rows of them are in work at a time."""

    def __init__(self, server: Server, at_once: int):
        self.server, self._free = server, asyncio.Semaphore(at_once)
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def latest(self, job: Job) -> Job:
        """A batch as it now is."""
        return self._jobs.get(job.id, job)

    async def begin(self, fields: Mapping[str, Any]) -> Job:
        """Check what is asked for, and start.

        Raises:
            Refusal: there is no such file, or nothing here does it.
        """
        server, endpoint, input_file = self.server, fields.get("endpoint"), fields.get("input_file_id")
        if unknown := fields.keys() - {"input_file_id", "endpoint", "completion_window", "metadata"}:
            name = min(unknown)
            raise Refusal(400, f"{name[:80]}: a batch has no such field.", name[:80], "unknown_parameter")
        if endpoint not in ENDPOINTS or ENDPOINTS[endpoint] not in server.orders.kinds:
            ways = [path for path, kind in ENDPOINTS.items() if kind in server.orders.kinds]
            message = f"endpoint: this model takes batches of {' or '.join(ways) or 'nothing'}."
            raise Refusal(400, message, "endpoint", "invalid_value")
        if fields.get("completion_window") != WINDOW:
            raise Refusal(400, f"completion_window: there is {WINDOW} alone.", "completion_window", "invalid_value")
        file = await server.desk.write(server.store.file, str(input_file))
        if file is None or file.purpose != "batch":
            raise not_found("file", str(input_file)[:80])
        count = await asyncio.to_thread(lambda: sum(1 for _ in self._rows(file.id)))
        if not 0 < count <= MOST_ROWS:
            message = f"input_file_id: it has {count} rows; send 1 to {MOST_ROWS}."
            raise Refusal(400, message, "input_file_id", "invalid_value")
        facts = {name: new_id("file-") for name in ENDS} | {"started": time.time(), "total": count, "input": file.id}
        facts |= {"endpoint": endpoint, "metadata": fields.get("metadata"), "completed": 0, "failed": 0}
        job = Job(new_id("batch_"), "batch", "in_progress", time.time(), facts)
        await server.desk.write(server.store.keep_job, job)
        self._start(job)
        return job

    def begin_again(self) -> None:
        """Go on with what a server before this one left."""
        for job in self.server.store.unfinished():
            if job.kind == "batch":
                self._start(job)

    def cancel(self, job: Job) -> Job:
        if task := self._tasks.get(job.id):
            self._jobs[job.id] = job.with_facts("cancelling")
            task.cancel()
        return self.latest(job)

    def stop(self) -> None:
        """Let every batch be where it is."""
        for task in self._tasks.values():
            task.cancel()

    def _start(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._tasks[job.id] = asyncio.get_running_loop().create_task(self._run(job.id))

    async def _run(self, id: str) -> None:
        job, rows = self._jobs[id], set[asyncio.Task[None]]()
        try:
            done = await asyncio.to_thread(self._done, job)
            self._jobs[id] = job.with_facts(completed=len(done["completed"]), failed=len(done["failed"]))
            names: set[str] = set()
            for line, text in self._rows(job.facts["input"]):
                row = parsed(text, job.facts["endpoint"], names)
                if any(line in found for found in done.values()):
                    continue
                await self._free.acquire()
                rows.add(task := asyncio.get_running_loop().create_task(self._row(id, line, row)))
                task.add_done_callback(rows.discard)
                task.add_done_callback(lambda _: self._free.release())
                if self.server.desk.is_stopping:
                    break
            await asyncio.gather(*rows)
            status = "completed"
        except asyncio.CancelledError:
            status = "cancelled"
        except OSError as error:
            status = "failed"
            self._jobs[id] = self._jobs[id].with_facts(why=str(error.strerror))
        for task in rows:
            task.cancel()
        await asyncio.gather(*rows, return_exceptions=True)
        self._tasks.pop(id)
        job = self._jobs.pop(id)
        is_whole = job.facts["completed"] + job.facts["failed"] == job.facts["total"]
        if (is_whole or status != "completed") and not self.server.desk.is_stopping:  # else the next server goes on
            await self.server.desk.write(self._close, job.with_facts(status, finished=time.time()))

    async def _row(self, id: str, line: int, row: "Row") -> None:
        """Draw a row, and write its answer down."""
        job, live = self._jobs[id], None
        try:
            if row.why:
                raise Refusal(400, row.why, code="invalid_row")
            body = await brought(taken_apart(dict(row.body)), self.server.settings)
            if body.asked.stream or body.asked.response_format == "url":
                raise Refusal(
                    400, "A row of a batch holds its pictures itself: no stream, no url.", code="invalid_value"
                )
            order = await self.server.checked(ENDPOINTS[job.facts["endpoint"]], body, BEHIND)
            live = await self.server.desk.take(order, "batch")
            await asyncio.shield(live.ended)
            end, status, told = "output", 200, answer(live, str)
        except Refusal as refusal:
            if refusal.status == 503:  # the row's turn comes again with the next server
                return
            end, status, told = "errors", refusal.status, refusal.body
        finally:
            if live is not None and not live.ended.done():
                self.server.desk.cancel(live.order.id)
        response = {"status_code": status, "request_id": new_id("row_"), "body": told}
        answered = {"id": new_id("row_"), "custom_id": row.name, "line": line, "response": response, "error": None}
        await self.server.desk.write(self._write, job.facts[end], json.dumps(answered))
        facts = dict(self._jobs[id].facts)
        facts["completed" if end == "output" else "failed"] += 1
        self._jobs[id] = replace(self._jobs[id], facts=facts)

    def _rows(self, file: str) -> Iterator[tuple[int, str]]:
        """The rows of a file that are not empty, with their numbers."""
        with self.server.store.path(file).open("rb") as lines:
            for line, text in enumerate(lines, 1):
                if text.strip():
                    yield line, text.decode(errors="replace")

    def _write(self, file: str, text: str) -> None:
        with self.server.store.path(file).open("a", encoding="utf-8") as lines:
            lines.write(text + "\n")

    def _done(self, job: Job) -> dict[str, set[int]]:
        """The numbers of the rows that have an answer; half an answer, of a server that was killed, is cut off."""
        found: dict[str, set[int]] = {}
        for name, end in (("completed", "output"), ("failed", "errors")):
            found[name], whole, path = set(), 0, self.server.store.path(job.facts[end])
            if not path.exists():
                continue
            with path.open("rb+") as lines:
                for text in lines:
                    if text.endswith(b"\n"):
                        found[name].add(json.loads(text)["line"])
                        whole += len(text)
                lines.truncate(whole)
        return found

    def _close(self, job: Job) -> None:
        for end in ENDS:
            if self.server.store.path(job.facts[end]).exists():
                self.server.store.keep_lines(job.facts[end], f"{job.id}_{end}.jsonl", job.id)
        self.server.store.keep_job(job)


class Row:
    """A row as it was read: its name, what it asks for, or why it cannot be."""

    def __init__(self, name: str | None, body: Mapping[str, Any], why: str = ""):
        self.name, self.body, self.why = name, body, why


def parsed(text: str, endpoint: str, names: set[str]) -> Row:
    """A row of a batch; ``names`` are those of the rows before, and get its own."""
    try:
        if len(text) > MOST_LETTERS:
            raise ValueError(f"the row has more than {MOST_LETTERS} letters")
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Row(None, {}, f"The row is no JSON: {error}.")
    if not isinstance(row, dict) or not isinstance(row.get("body"), dict):
        return Row(None, {}, "The row is no object with a body.")
    name, body = row.get("custom_id"), row["body"]
    if not isinstance(name, str) or not 0 < len(name) <= 512:
        return Row(None, body, "custom_id: a row has to have a name of its own.")
    if name in names:
        return Row(name, body, f"custom_id: a row before has the name {name!r}.")
    names.add(name)
    if row.get("method", "POST") != "POST" or row.get("url") != endpoint:
        return Row(name, body, f"The row is no POST to {endpoint}, which the batch is of.")
    return Row(name, body)


def told(job: Job) -> dict[str, Any]:
    """A batch in the words of clients."""
    facts, moment = job.facts, int(job.facts["finished"]) if "finished" in job.facts else None
    ends = {f"{status}_at": moment if job.status == status else None for status in ("completed", "failed", "cancelled")}
    errors = {"object": "list", "data": [{"code": "failed", "message": facts["why"]}]} if "why" in facts else None
    counts = {name: facts[name] for name in ("total", "completed", "failed")}
    files = {
        "output_file_id": facts["output"] if job.is_done and facts["completed"] else None,
        "error_file_id": facts["errors"] if job.is_done and facts["failed"] else None,
    }
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": facts["endpoint"],
        "errors": errors,
        "input_file_id": facts["input"],
        "completion_window": WINDOW,
        "status": job.status,
        **files,
        "created_at": int(job.created),
        "in_progress_at": int(facts["started"]),
        **ends,
        "request_counts": counts,
        "metadata": facts["metadata"],
    }
