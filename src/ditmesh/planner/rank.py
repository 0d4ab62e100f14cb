"""A process that rehearses ranks of jobs, one after the other: ``python -m ditmesh.planner.rank FILES``."""

import logging
import pickle
import sys
from pathlib import Path

from ditmesh.planner.rehearsal import rehearse
from ditmesh.planner.workload import Workload


def main() -> None:
    """Read what is asked from FILES.asked, and write what was found to FILES.found."""
    files = Path(sys.argv[1])
    logging.disable(logging.WARNING)
    found: list[Workload | ValueError] = []
    for job, rank in pickle.loads(files.with_suffix(".asked").read_bytes()):
        try:
            found.append(rehearse(job, rank))
        except ValueError as error:
            found.append(ValueError(str(error)))
    files.with_suffix(".found").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
