"""`python -m tests.tiny OUTDIR [NAME ...]`: write tiny pipelines, all of them unless some are named."""

import argparse
from pathlib import Path

from . import TINY, tiny_path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tiny", description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(TINY)}")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(TINY))
    if unknown:
        parser.error(f"no tiny pipeline is called {', '.join(unknown)}; choose from {', '.join(TINY)}")
    for name in arguments.names or TINY:
        print(tiny_path(name, arguments.outdir))


if __name__ == "__main__":
    main()
