"""`ditmesh serve`: answer clients of OpenAI's API, and show a page, with one model on many devices."""

import logging
import sys
from typing import Any

import typer

from ditmesh.cli.flags import takes
from ditmesh.cli.ranks import check_launch, check_rank, failures, refusals
from ditmesh.cli.serve.job import Service, describe_service
from ditmesh.cli.serve.options import ServeOptions
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World


@takes(ServeOptions)
def serve(context: typer.Context, **flags: Any) -> None:
    """Serve a model over HTTP: OpenAI's paths for images, videos and batches, and a page at /.

    \b
      ditmesh serve demo --replicas 2
      ditmesh serve flux --parallel ulysses4 --host 0.0.0.0 --api-key-file key
    """
    with refusals(World()):
        service = describe_service(ServeOptions(**flags))
    if service.engine == "local":
        ranks = service.job.layout.world_size * service.replicas.start
        check_launch(service.job, ranks, flags["oversubscribe"])
    job = check_rank(service.job, World())
    # Imported here: `--help` has no use for it.
    from ditmesh.replicas.local import LocalEngine
    from ditmesh.serve.run import run

    keep_log()
    with failures(World()):
        run(
            job,
            service.settings,
            LocalEngine(service.replicas.stop - 1),
            service.replicas,
            lambda url: tell(service, url),
        )


def keep_log() -> None:
    """A line on stderr for each request that ends, and for whatever goes wrong."""
    logger, handler = logging.getLogger("ditmesh"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def tell(service: Service, url: str) -> None:
    """Where it listens, and with what."""
    job, most = service.job, service.replicas.stop - 1
    of = f"{most} replicas of {job.layout}" if most > 1 else str(job.layout)
    print(f"{job.example.pipeline} of {shown(service.settings.name)} on {of}")
    print(f"page and API: {url}", flush=True)
    if service.settings.api_key is None and service.settings.insecure:
        print("warning: whoever reaches this address may use it; --api-key asks for a key", file=sys.stderr)
