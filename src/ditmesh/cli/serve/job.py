"""Turn the flags of `ditmesh serve` into a job, settings and a number of replicas, before anything is loaded."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ditmesh.cli.examples import EXAMPLES
from ditmesh.cli.generate.job import describe_model
from ditmesh.cli.generate.options import Options
from ditmesh.cli.serve.options import ENGINES, SHARED, ServeOptions
from ditmesh.config import suggest
from ditmesh.job.checks import check_place
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import HUB_ID, read_pipeline
from ditmesh.runtime.world import World
from ditmesh.serve.settings import MIB, Settings, check_settings, find_loras

REPLICAS = re.compile(r"([1-9]\d{0,3})(?:\.\.([1-9]\d{0,3}))?")


@dataclass(frozen=True)
class Service:
    """What a server is started with.

    Attributes:
        job: of each replica.
        replicas: how many there may be.
    """

    job: Job
    settings: Settings
    replicas: range
    engine: str


def describe_service(options: ServeOptions) -> Service:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    if options.engine not in ENGINES:
        raise ValueError(f"--engine {options.engine}: {suggest(options.engine, ENGINES)}")
    replicas = read_replicas(options.replicas)
    settings = settings_of(options)
    example, model = find_model(options.model)
    given = asdict(options)
    shared = Options(example=example.name, model_path=model, **{name: given[name] for name, _, _ in SHARED})
    job = describe_model(shared, World())
    if HUB_ID.fullmatch(job.model):
        settings = replace(settings, aliases=(job.model, job.model.rpartition("/")[2]))
    return Service(replace(job, example=with_edits(job.example)), settings, replicas, options.engine)


def settings_of(options: ServeOptions) -> Settings:
    """What the server is told beside its job."""
    check_place("--data-dir", options.data_dir, options.data_dir)
    return check_settings(
        Settings(
            name=name_of(options.model),
            folder=options.data_dir,
            host=options.host,
            port=options.port,
            api_key=read_key(options.api_key, options.api_key_file),
            insecure=options.insecure,
            url_inputs=options.allow_url_inputs,
            most_queued=options.max_queue,
            most_pixels=options.max_pixels,
            most_bytes=options.max_body * MIB,
            keep_hours=options.keep_hours,
            patience=options.patience,
            loras=find_loras(options.lora_dir),
        )
    )


def read_key(key: str | None, file: Path | None) -> str | None:
    """The key that clients have to know.

    Raises:
        ValueError: there are two, or its file cannot be read.
    """
    if file is None:
        return key
    if key is not None:
        raise ValueError("--api-key gives one and --api-key-file another; use one of them.")
    try:
        return file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--api-key-file {file} cannot be read: {error}") from error


def read_replicas(text: str | None) -> range:
    """How many replicas there may be.

    Raises:
        ValueError: it is neither a number nor two.
    """
    found = REPLICAS.fullmatch(text or "1")
    if found is None:
        raise ValueError(f"--replicas {text} is no number; write 2, or 2..4 for two at least and four at most.")
    least, most = int(found[1]), int(found[2] or found[1])
    if least > most:
        raise ValueError(f"--replicas {text}: the first number is the smaller one; write {most}..{least}.")
    return range(least, most + 1)


def name_of(model: str) -> str:
    """What clients call the model: never where it lies on this machine."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() and model not in EXAMPLES else model


def find_model(name: str) -> tuple[Example, str | None]:
    """The example that knows how to call a model, and where the model is if that is not the example's own.

    Raises:
        ValueError: there is none.
    """
    own = [example for example in EXAMPLES.values() if name in (example.name, example.model)]
    if own:
        return own[0], None
    if not Path(name).expanduser().is_dir() and not HUB_ID.fullmatch(name):
        raise ValueError(f"{name!r} is no example, folder or hub id; {suggest(name, EXAMPLES)}")
    kind = read_pipeline(name, flag="MODEL").class_name
    for example in sorted(EXAMPLES.values(), key=lambda example: example.lora is not None):
        if kind in (example.pipeline, *example.saved_as):
            return replace(example, lora=None), name
    known = ", ".join(dict.fromkeys(example.pipeline for example in EXAMPLES.values()))
    raise ValueError(f"{name} is a {kind}, which no example calls; use one of {known}.")


def with_edits(example: Example) -> Example:
    """The example, with the images that its pipeline may be given, if another example gives it some."""
    if example.images is not None:
        return example
    of_kind = [other.images for other in EXAMPLES.values() if other.pipeline == example.pipeline and other.images]
    return replace(example, images=replace(of_kind[0], needed=False)) if of_kind else example
