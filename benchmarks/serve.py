"""What a server costs: pictures a second and latency beside a plain loop of diffusers, its overhead, its memory.

    python -m benchmarks.serve
    python -m benchmarks.serve --requests 200 --clients 8 --replicas 1 --steps 4

Starts `ditmesh serve demo`, and asks it from so many clients at once, each for one picture after the other. Then one
client asks alone: the overhead of a picture is what it waits, less what its rank says it took to draw and encode it.
On a machine that others use as well, the server's processor time tells more.
Memory is what each process holds in RAM, looked at after every twentieth of the requests; in the end the mean of the
last tenth is set against that of the second. The plain loop is one process with the bare pipeline and as many threads
as a rank has, before and after the server.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

LOOP = """
import sys, time, torch, ditmesh
from io import BytesIO
from pathlib import Path
from diffusers import FluxPipeline
torch.set_num_threads(int(sys.argv[1]))
pipe = FluxPipeline.from_pretrained(Path(ditmesh.__file__).parent / "demo_model")
pipe.set_progress_bar_config(disable=True)
def draw(seed):
    noise = torch.Generator().manual_seed(seed)
    call = dict(height=128, width=128, num_inference_steps=int(sys.argv[2]), true_cfg_scale=3.0, negative_prompt="")
    pipe("a red circle", generator=noise, max_sequence_length=32, **call).images[0].save(BytesIO(), "PNG")
draw(0)
count = int(sys.argv[3])
began = time.perf_counter()
for seed in range(count):
    draw(seed)
print((time.perf_counter() - began) / count)
"""
PATH = "/v1/images/generations"


def plain(threads: int, steps: int, count: int) -> float:
    """Seconds for a picture in a loop of diffusers."""
    command = [sys.executable, "-c", LOOP, str(threads), str(steps), str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(pid: int) -> float:
    """MiB that a process holds in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def start(folder: str, replicas: int, threads: int) -> tuple[subprocess.Popen[str], str]:
    flags = ["--replicas", str(replicas), "--port", "0", "--data-dir", folder]
    command = [sys.executable, "-m", "ditmesh", "serve", "demo", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    url = [process.stdout.readline() for _ in range(2)][1].split()[-1]
    while not all(one["state"] == "idle" for one in httpx.get(f"{url}/v1/server").json()["replicas"]):
        time.sleep(0.2)
    return process, url


def ask(client: httpx.Client, steps: int, seed: int) -> tuple[float, str]:
    """Seconds that a client waits for a picture, and its job."""
    began = time.perf_counter()
    answer = client.post(PATH, json={"prompt": "a red circle", "num_inference_steps": steps, "seed": seed})
    answer.raise_for_status()
    return time.perf_counter() - began, answer.headers["x-request-id"]


def crowd(url: str, clients: int, requests: int, steps: int, look: "Look") -> list[float]:
    """Seconds that each of the requests took, from so many clients at once."""
    held = threading.local()

    def one(seed: int) -> float:
        if "client" not in vars(held):
            held.client = httpx.Client(base_url=url, timeout=None)
        seconds, _ = ask(held.client, steps, seed)
        look.count()
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, range(requests)))


class Look:
    """The memory of processes, after every so many requests."""

    def __init__(self, pids: dict[str, int], every: int):
        self.pids, self.every, self.done, self.lock = pids, every, 0, threading.Lock()
        self.seen: dict[str, list[float]] = {name: [] for name in pids}

    def count(self) -> None:
        with self.lock:
            self.done += 1
            if self.done % self.every == 0:
                for name, pid in self.pids.items():
                    self.seen[name].append(memory(pid))


def processor(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def overhead(url: str, pid: int, steps: int, count: int) -> tuple[float, float, float]:
    """Seconds that one client waits, of them those that are not the rank's, and the server's processor time."""
    asked, before = [], processor(pid)
    with httpx.Client(base_url=url, timeout=None) as client:
        for seed in range(count):
            asked.append(ask(client, steps, seed))
        spent = (processor(pid) - before) / count
        extra = []
        for wait, id in asked:
            stages = client.get(f"/v1/jobs/{id}").json()["seconds"]
            extra.append(wait - sum(seconds for stage, seconds in stages.items() if stage != "queued"))
    return statistics.median(wait for wait, _ in asked), statistics.median(extra), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("requests", 1000), ("clients", 32), ("replicas", 2), ("steps", 4), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    before = plain(asked.threads, asked.steps, 40)
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(folder, asked.replicas, asked.threads)
        ranks = [
            (one["number"], rank) for one in httpx.get(f"{url}/v1/server").json()["replicas"] for rank in one["ranks"]
        ]
        pids = {"server": process.pid} | {f"replica {i}, rank {rank['rank']}": rank["pid"] for i, rank in ranks}
        look = Look(pids, max(1, asked.requests // 20))
        began = time.perf_counter()
        seconds = sorted(crowd(url, asked.clients, asked.requests, asked.steps, look))
        spent = time.perf_counter() - began
        wait, extra, processing = overhead(url, process.pid, asked.steps, 100)
        process.terminate()
        process.wait()
    after = plain(asked.threads, asked.steps, 40)
    p50, p95, p99 = (seconds[min(len(seconds) - 1, int(len(seconds) * share))] for share in (0.5, 0.95, 0.99))
    print(f"{len(seconds)} pictures of {asked.steps} steps for {asked.clients} clients on {asked.replicas} replicas:")
    print(f"  {len(seconds) / spent:.1f} a second; p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s")
    print(f"  a plain loop of diffusers: {1 / before:.1f} a second before, {1 / after:.1f} after")
    print(f"one client: {1e3 * wait:.1f} ms a picture, of which {1e3 * extra:.1f} ms are not its rank's")
    print(f"  the server had {1e3 * processing:.1f} ms of processor time a picture")
    for name, seen in look.seen.items():
        early, late = statistics.mean(seen[2:4]), statistics.mean(seen[-2:])
        print(f"memory of {name}: {early:.1f} MiB in the second tenth, {late:.1f} in the last ({late - early:+.1f})")


if __name__ == "__main__":
    main()
