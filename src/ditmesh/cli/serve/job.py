"""Turn the flags of `ditmesh serve` into a job, settings and a number of replicas, before anything is loaded."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ditmesh.cli.auto import AUTO, ranks_there_are
from ditmesh.cli.examples import EXAMPLES, example_of
from ditmesh.cli.generate.job import describe_model
from ditmesh.cli.generate.options import Options
from ditmesh.cli.generate.verb import with_layout
from ditmesh.cli.serve.options import SHARED, ServeOptions
from ditmesh.config import suggest
from ditmesh.job.checks import check_place
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import HUB_ID, read_pipeline
from ditmesh.replicas.engines import check_engine, read_replicas
from ditmesh.runtime.world import World
from ditmesh.serve.settings import MIB, Settings, check_settings, find_loras


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
    options: ServeOptions


def describe_service(options: ServeOptions) -> Service:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    check_engine(options.engine, options.ray_address)
    replicas = read_replicas(options.replicas or "1")
    settings = settings_of(options)
    example, model = find_model(options.model)
    given = asdict(options)
    shared = Options(example=example.name, model_path=model, **{name: given[name] for name, _, _ in SHARED})
    if shared.parallel == AUTO and shared.nproc is None and replicas.start > 1:
        shared = replace(shared, nproc=max(1, ranks_there_are(None, "--nproc") // replicas.start))
    job = describe_model(with_layout(shared, World(), describe_model), World())
    if HUB_ID.fullmatch(job.model):
        settings = replace(settings, aliases=(job.model, job.model.rpartition("/")[2]))
    return Service(replace(job, example=with_edits(job.example)), settings, replicas, options)


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
    if (example := example_of(kind, name)) is not None:
        return replace(example, lora=None), name
    known = ", ".join(dict.fromkeys(example.pipeline for example in EXAMPLES.values()))
    raise ValueError(f"{name} is a {kind}, which no example calls; use one of {known}.")


def with_edits(example: Example) -> Example:
    """The example, with the images that its pipeline may be given, if another example gives it some."""
    if example.images is not None:
        return example
    of_kind = [other.images for other in EXAMPLES.values() if other.pipeline == example.pipeline and other.images]
    return replace(example, images=replace(of_kind[0], needed=False)) if of_kind else example
