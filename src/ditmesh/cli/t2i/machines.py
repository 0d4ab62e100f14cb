"""What several machines have to agree on before they draw one batch."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from ditmesh.cli.t2i.job import Batch

PACKAGES = ("ditmesh", "torch", "diffusers", "transformers")
OWN = ("node_rank", "output_dir", "prompts_file", "model_name", "log_dir", "num_gpus", "nnodes")
SAMPLE = 1 << 16  # bytes read in the middle of a file of weights


def batch_facts(batch: Batch) -> dict[str, str]:
    """What has to be the same on every machine, by names for a reader; files by what is in them."""
    job, file = batch.job, batch.options.prompts_file
    options = {f"--{name}": str(value) for name, value in asdict(batch.options).items() if name not in OWN}
    facts = {**options, "the layout": str(job.layout), "the call": str(sorted(job.call.items()))}
    facts |= {"the model": f"{job.example.pipeline} {fingerprint(job.model)}", "the prompt": str(batch.prompt)}
    if file is not None:
        with file.open("rb") as prompts:
            facts["the prompts file"] = hashlib.file_digest(prompts, "blake2b").hexdigest()[:16]
    return facts | {name: version(name) for name in PACKAGES}


def fingerprint(model: str) -> str:
    """A hub id as it is; of a folder a number that other files would hardly share, without reading all of them."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    found = hashlib.blake2b(digest_size=8)
    for part in _samples(folder):
        found.update(part)
    return found.hexdigest()


def _samples(folder: Path) -> Iterator[bytes]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        size = path.stat().st_size
        yield f"{path.relative_to(folder)} {size}\n".encode()
        with path.open("rb") as file:
            file.seek(max(0, size // 2 - SAMPLE // 2))
            yield file.read(SAMPLE)
