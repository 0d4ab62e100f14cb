"""A hub of models on this machine's loopback, and a program for ranks that load from it.

The hub answers what huggingface_hub asks: about a model, its list of files, and files, also from a byte on.
"""

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

MODEL = "anybody/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIMIT = 20_000  # bytes that a file may have where the disk is full


class Hub(ThreadingHTTPServer):
    """Serves one folder, and writes down which of its files were sent."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            sizes = {name: file.stat().st_size for name, file in self.server.files.items()}
            self._say([{"type": "file", "oid": _etag(x), "size": sizes[x], "path": x} for x in sizes])
        elif path.startswith(f"/api/models/{MODEL}"):
            self._say({"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.server.files]})
        else:
            name = path.partition("/resolve/")[2].partition("/")[2]
            if name in self.server.files:
                self._send(name)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

    def _say(self, what: Any) -> None:
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, name: str) -> None:
        body = self.server.files[name].read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(name)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            self.server.sent.append(name)
            self.wfile.write(body[start:])


def _etag(name: str) -> str:
    return sha1(name.encode()).hexdigest()


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    server = Hub(folder)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main(folder: Path) -> None:
    """Be a rank: load into a cache of one's own, into one that cannot be written, and onto a full disk."""
    import torch.distributed as dist

    import ditmesh
    from ditmesh import ParallelismConfig

    def load(cache: Path) -> str:
        try:
            pipe = ditmesh.from_pretrained(
                MODEL, cache_dir=cache, parallelism_config=ParallelismConfig(tp_size=2), device="cpu"
            )
        except ValueError as error:
            return str(error)
        ditmesh.disable_cache(pipe)
        return ""

    told = {"good": load(folder / "good")}
    (folder / "file").touch()
    told["not writable"] = load(folder / "file" / "cache")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, limits[1]))  # a disk is as full for whoever may write anything
    told["full"] = load(folder / "small")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told["no longer full"] = load(folder / "small")
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
