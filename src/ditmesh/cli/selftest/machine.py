"""What a bug report has to say of a machine: versions, devices, how they are joined."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import diffusers
import torch
import transformers
from torch.cuda import nccl

import ditmesh
from ditmesh.runtime.launch import cores

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SECONDS = 10  # for another program to answer


def facts(device: torch.device) -> dict[str, str]:
    """By name, a line or several."""
    told = {
        "ditmesh": ditmesh.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, HIP {torch.version.hip}",
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "CPU": f"{cpu_name()}, {cores()} cores for this process, {memory() / 2**30:.0f} GiB",
    }
    if device.type == "cuda":
        told |= of_gpus()
    return told


def of_gpus() -> dict[str, str]:
    count = range(torch.cuda.device_count())
    named = [torch.cuda.get_device_properties(number) for number in count]
    return {
        "NCCL": ".".join(map(str, nccl.version())),
        "cuDNN": str(torch.backends.cudnn.version()),
        "driver": answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0],
        "devices": "\n".join(
            f"{number}: {one.name}, {one.total_memory / 2**30:.1f} GiB, compute {one.major}.{one.minor}"
            for number, one in enumerate(named)
        ),
        "peer access": "\n".join(
            f"{a}: " + " ".join("-" if a == b else "01"[torch.cuda.can_device_access_peer(a, b)] for b in count)
            for a in count
        ),
        "topology": answer("nvidia-smi", "topo", "-m"),
    }


def answer(*command: str) -> str:
    """What a program says, or why it says nothing."""
    if shutil.which(command[0]) is None:
        return f"there is no {command[0]}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)} did not answer in {SECONDS} seconds"
    told = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return COLOUR.sub("", told).rstrip()


def cpu_name() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
