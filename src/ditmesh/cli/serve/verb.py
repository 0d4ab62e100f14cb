"""`ditmesh serve`: answer clients of OpenAI's API, and show a page, with one model on many devices."""

from typing import Any

import typer

from ditmesh.cli.flags import takes
from ditmesh.cli.ranks import check_launch, check_rank, refusals
from ditmesh.cli.serve.job import describe_service
from ditmesh.cli.serve.options import ServeOptions
from ditmesh.runtime.world import World


@takes(ServeOptions)
def serve(context: typer.Context, **flags: Any) -> None:
    """Serve a model over HTTP: OpenAI's paths for images, videos and batches, and a page at /.

    \b
      ditmesh serve demo --replicas 2
      ditmesh serve flux --parallel ulysses4 --host 0.0.0.0 --api-key-file key
    """
    options = ServeOptions(**flags)
    with refusals(World()):
        service = describe_service(options)
    ranks = service.job.layout.world_size * service.replicas.start
    if service.engine == "local":
        check_launch(service.job, ranks, options.oversubscribe)
    job = check_rank(service.job, World())
    with refusals(World()):
        ...
