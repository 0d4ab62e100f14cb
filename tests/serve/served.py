"""A server as a user starts it: a process of its own, asked over HTTP."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai

KEY = "a key of the tests"
SECONDS = 240  # a busy machine is no failure; what hangs is


class Served:
    """`ditmesh serve`, from its start until a replica is ready; its log is in the folder."""

    def __init__(self, folder: Path, *arguments: str, key: str | None = KEY):
        self.folder, self.key = folder, key
        keyed = ["--api-key", key] if key else []
        place = ["--port", "0", "--data-dir", str(folder / "data"), "--patience", "0"]
        command = [sys.executable, "-m", "ditmesh", "serve", *arguments, *place, *keyed]
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(2)]
        assert lines[1].startswith("page and API: "), self.log.read_text()
        self.url = lines[1].split()[-1]
        self.http = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=SECONDS)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def ready(self) -> "Served":
        self.until(lambda: self.http.get("/ready").status_code == 200)
        return self

    def until(self, is_so: Any) -> Any:
        """Wait for something to become true."""
        end = time.monotonic() + SECONDS
        while not (found := is_so()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        return found

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, **options)

    def job(self, id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/jobs/{id}").json()

    def ended(self, id: str) -> dict[str, Any]:
        """A job at its end."""
        return self.until(lambda: (job := self.job(id))["status"] in ("completed", "failed", "cancelled") and job)

    def ranks(self) -> list[int]:
        """The processes of the replicas."""
        return [rank["pid"] for one in self.http.get("/v1/server").json()["replicas"] for rank in one["ranks"]]

    def kill(self) -> None:
        """As a machine would that fails."""
        self.process.kill()
        self.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(SECONDS)
        self.close()
        return code

    def close(self) -> None:
        self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.http.close()


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def rows(*bodies: Any, endpoint: str = "/v1/images/generations") -> bytes:
    """A file of a batch, with a row for each body."""
    lines = [
        {"custom_id": f"row-{i}", "method": "POST", "url": endpoint, "body": body} for i, body in enumerate(bodies)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
