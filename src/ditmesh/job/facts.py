"""What a saved pipeline says of itself in its JSON files, read before any weight is."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
INDEX, VAE = "model_index.json", "vae/config.json"


@dataclass(frozen=True)
class TransformerFacts:
    """One transformer of a pipeline: its class and its config.json."""

    class_name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class PipelineFacts:
    """The pipeline's class, its components' classes by name, its transformers by component name, its VAE's config."""

    class_name: str
    components: Mapping[str, str]
    transformers: Mapping[str, TransformerFacts]
    vae: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def smallest_side(self) -> int:
        """The pixels that become one token, or fewer: a picture cannot be smaller. 1 where the files do not tell."""
        blocks = self.vae.get("block_out_channels", ())
        sides = [self.vae.get("scale_factor_spatial"), self.vae.get("spatial_compression_ratio")]
        sides = [side for side in sides if isinstance(side, int)] or [2 ** (len(blocks) - 1) if blocks else 1]
        latent = self.vae.get("latent_channels", self.vae.get("z_dim"))
        return min(sides) * min(_patch(part.config, latent) for part in self.transformers.values())


def read_pipeline(model: str, transformer: TransformerFacts | None = None, flag: str = "--model-path") -> PipelineFacts:
    """Read the index and the transformers' configurations of a local folder, or of a hub id.

    Args:
        model: the folder or hub id.
        transformer: what goes in place of the model's own.
        flag: what the user names the model by.

    Raises:
        ValueError: the model is not there, or is no pipeline with a transformer.
    """
    index = read_json(model, INDEX, flag)
    components = {name: kind for name, value in index.items() if (kind := _component(value))}
    given = {"transformer": transformer} if transformer and "transformer" in components else {}
    transformers = {
        component: given.get(component) or TransformerFacts(name, read_json(model, f"{component}/config.json", flag))
        for component, name in components.items()
        if component.startswith("transformer")
    }
    if "_class_name" not in index or not transformers:
        raise ValueError(
            f"{INDEX} of {model} names no pipeline with a transformer; ditmesh runs diffusion transformers."
        )
    vae = read_json(model, VAE, flag) if _is_there(model, VAE, components) else {}
    return PipelineFacts(index["_class_name"], components, transformers, vae)


def _component(value: object) -> str | None:
    """The class of a component, which stands beside its library; lists of other things are settings of the pipeline."""
    match value:
        case [str(), str(class_name)]:
            return class_name
        case _:
            return None


def _patch(config: Mapping[str, Any], latent_channels: Any) -> int:
    """The latent pixels in a side of one token of a transformer."""
    match config.get("patch_size"):
        case int(patch) | [*_, int(patch)] if patch > 1:  # of time, height and width
            return patch
        case _:  # its pipeline may pack squares of 2 x 2 into the channels
            return 2 if latent_channels and config.get("in_channels") == 4 * latent_channels else 1


def _is_there(model: str, name: str, components: Mapping[str, str]) -> bool:
    folder = Path(model).expanduser()
    return Path(name).parent.name in components and (not folder.is_dir() or (folder / name).is_file())


def read_json(model: str, name: str, flag: str = "--model-path", what: str = "pipeline") -> dict[str, Any]:
    """A JSON file of a local folder or hub id; a ValueError if it is not there."""
    path = find_file(
        model, name, flag, f"so it is no complete diffusers {what}; use the folder that save_pretrained wrote"
    )
    try:
        read: object = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); save or download the pipeline again.") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds no names and values; save or download the pipeline again.")
    return cast("dict[str, Any]", read)


def find_file(model: str, name: str, flag: str, otherwise: str) -> Path:
    """Where a file of a local folder or hub id is on this machine, fetched if need be.

    Raises:
        ValueError: it cannot be had; the message names the flag that can help, and ``otherwise`` says what is wrong.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise ValueError(f"{model} has no {name}, {otherwise}.")
        return folder / name
    if HUB_ID.fullmatch(model):
        return _fetch(model, name, flag, otherwise)
    raise ValueError(
        f"there is no folder {model}; {flag} takes a folder that save_pretrained wrote, "
        "or a hub id, which is ORGANISATION/MODEL."
    )


def _fetch(hub_id: str, name: str, flag: str, otherwise: str) -> Path:
    from huggingface_hub import constants, hf_hub_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    no_network = f"{hub_id} is no folder here and not in the hub's cache, and {constants.ENDPOINT} cannot be reached"
    try:
        return Path(hf_hub_download(hub_id, name, local_files_only=True))
    except LocalEntryNotFoundError as error:
        # The hub's client would try for half a minute.
        if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
            raise ValueError(f"{no_network}; give a local copy by {flag}.") from error
    try:
        return Path(hf_hub_download(hub_id, name))
    except LocalEntryNotFoundError as error:
        raise ValueError(f"{no_network}; give a local copy by {flag}.") from error
    except GatedRepoError as error:
        why = "is gated: accept its terms on huggingface.co and log in by `hf auth login`"
        raise ValueError(f"{hub_id} {why}, or give a local copy by {flag}.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"{hub_id} is neither a folder here nor a model on the hub; check {flag}.") from error
    except EntryNotFoundError as error:
        raise ValueError(f"{hub_id} has no {name}, {otherwise}.") from error
    except HfHubHTTPError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"the hub refused {hub_id}: {why}; give a local copy by {flag}.") from error


def _reachable(url: str) -> bool:
    import socket
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # Anything else (a certificate, say) the hub's own client may know how to treat.
        return not isinstance(error.reason, (socket.gaierror, ConnectionError, TimeoutError))
    return True
