"""What was finished is found after a restart, and what was queued begins again, with the same bytes."""

import json
from typing import Any

import httpx
import pytest

from tests.serve.served import Served, alive, rows

pytestmark = pytest.mark.slow

ASKED = {"prompt": "a red <b>circle</b>\x1b[31m", "num_inference_steps": 2, "height": 64, "width": 64, "seed": 1}
ROWS = 30


def ask(served: Served, **more: Any) -> str:
    return served.http.post("/v1/jobs", json=ASKED | more).json()["id"]


def begin_batch(served: Served) -> str:
    file = {"file": ("b", rows(*[ASKED | {"seed": seed} for seed in range(ROWS)]))}
    input_file = served.http.post("/v1/files", data={"purpose": "batch"}, files=file).json()["id"]
    fields = {"input_file_id": input_file, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    batch = served.http.post("/v1/batches", json=fields).json()["id"]
    served.until(lambda: served.http.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"] > 2)
    return batch


def test_kill_9_loses_nothing_that_was_taken(tmp_path, generate):
    with Served(tmp_path, "demo", key=None) as first:
        first.ready()
        done = first.ended(ask(first))
        picture = first.http.get(done["results"][0]["url"]).content
        batch = begin_batch(first)
        with pytest.raises(httpx.ReadTimeout):  # a client that leaves: nobody waits for this one after a restart
            first.http.post("/v1/images/generations", json=ASKED | {"num_inference_steps": 400}, timeout=0.5)
        running = ask(first, num_inference_steps=100)
        queued = [ask(first, seed=seed, n=2) for seed in (1, 4)]
        first.until(lambda: first.job(running)["status"] == "in_progress")
        ranks = first.ranks()
        first.kill()

    with Served(tmp_path, "demo", key=None) as second:
        second.until(lambda: not any(map(alive, ranks)))
        again = second.job(done["id"])
        assert (again["status"], again["results"][0]["seed"]) == ("completed", 1)
        assert second.http.get(again["results"][0]["url"]).content == picture
        results = [second.ended(id)["results"] for id in (*queued, running)]
        assert [len(one) for one in results] == [2, 2, 1]
        assert second.http.get(results[0][0]["url"]).content == picture
        second.until(lambda: second.http.get(f"/v1/batches/{batch}").json()["status"] == "completed")
        told = second.http.get(f"/v1/batches/{batch}").json()
        assert told["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}
        lines = second.http.get(f"/v1/files/{told['output_file_id']}/content").text.splitlines()
        assert sorted(json.loads(line)["custom_id"] for line in lines) == sorted(f"row-{i}" for i in range(ROWS))
        jobs = second.http.get("/v1/jobs?limit=100").json()["data"]
        assert sorted(job["status"] for job in jobs) == ["cancelled", *["completed"] * 4]
        assert second.stop() == 0
    # What clients write stands in the log as it was written, not as what it does to a terminal.
    log = second.log.read_text()
    assert r"a red <b>circle</b>\x1b[31m" in log
    assert "\x1b" not in log

    flags = ["--prompt", ASKED["prompt"], "--steps", 2, "--height", 64, "--width", 64, "--seed", 1]
    assert generate("demo", *flags, "--save-path", "x.png")[0] == 0
    assert picture == (tmp_path / "x.png").read_bytes()
