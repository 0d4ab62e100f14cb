"""What the server is told beside its job: where it listens, who may ask, and for how much."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
PACKAGES |= {"python_multipart": "python-multipart"}
MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Told once, when the server starts.

    Attributes:
        name: of the model, as clients ask for it; ``aliases`` are its other names.
        folder: where jobs and files are kept.
        api_key: what clients have to know; None where nobody has to know anything.
        insecure: whether others may ask without a key.
        url_inputs: whether pictures that go in may be fetched from public addresses.
        most_queued: pictures that may wait; who asks for more is told when to come back.
        most_pixels: of one picture, of those that go in as well.
        most_bytes: of the body of one request, but for files of batches.
        keep_hours: how long finished jobs and their files are kept.
        patience: seconds that a stopping server gives to what is being drawn.
        loras: LoRA weights that a request may name.
    """

    name: str
    folder: Path
    aliases: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    url_inputs: bool = False
    most_queued: int = 256
    most_pixels: int = 4096 * 4096
    most_bytes: int = 64 * MIB
    keep_hours: int = 168
    patience: int = 30
    loras: Mapping[str, Path] = field(default_factory=dict[str, Path])


def check_settings(settings: Settings) -> Settings:
    """The settings as they are.

    Raises:
        ValueError: others could ask and nobody would be asked for a key, or a package is missing.
    """
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        raise ValueError(
            f"ditmesh serve needs {', '.join(missing)}, which is not installed; run: pip install 'ditmesh[serve]'"
        )
    if settings.api_key is not None and not (settings.api_key.isascii() and settings.api_key.isprintable()):
        raise ValueError("--api-key: only printable ASCII fits into a header; choose another key.")
    if settings.api_key is not None and not settings.api_key.strip():
        raise ValueError("--api-key is empty; give a key, or leave it out.")
    if not is_loopback(settings.host) and settings.api_key is None and not settings.insecure:
        raise ValueError(
            f"--host {settings.host} lets others ask, and nobody would be asked for a key; add --api-key KEY, or "
            f"--insecure if whoever reaches this machine may use it."
        )
    return settings


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def find_loras(folder: Path | None) -> dict[str, Path]:
    """The LoRA weights of a folder, by the names that requests use.

    Raises:
        ValueError: there is no such folder, or it has none.
    """
    if folder is None:
        return {}
    if not folder.expanduser().is_dir():
        raise ValueError(f"--lora-dir {folder}: there is no such folder; check the path.")
    found = {file.stem: file for file in sorted(folder.expanduser().glob("*.safetensors"))}
    if not found:
        raise ValueError(f"--lora-dir {folder}: it holds no *.safetensors; check the folder.")
    return found
