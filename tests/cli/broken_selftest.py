"""A self-test in which ring attention is wrong and rank 1 falls silent under tensor parallelism.

Run with arguments it is `ditmesh selftest` with a few cases; its ranks run it too.
"""

import os
import sys
import time
from typing import Any

CASES = [("ring2", "sd3"), ("tp2", "wan"), ("ulysses2", "qwen_image")]  # wrong, silent, right


def be_a_broken_rank() -> None:
    from ditmesh.cli.selftest import compare, rank
    from ditmesh.parallel.context import ring

    ring.merge = lambda out, lse, *_: (out, lse)
    draw = compare.draw

    def fall_silent(pipe: Any, name: str, seed: int) -> Any:
        if name == "wan" and os.environ["RANK"] == "1" and ditmesh_holds(pipe):
            time.sleep(600)
        return draw(pipe, name, seed)

    compare.draw = fall_silent
    rank.main()


def ditmesh_holds(pipe: Any) -> bool:
    from ditmesh.flow import STATE

    return STATE in vars(pipe.transformer)


def main() -> None:
    from ditmesh.cli import main as ditmesh
    from ditmesh.cli.selftest import gangs, verb
    from ditmesh.cli.selftest.cases import Case

    gangs.RANK = "tests.cli.broken_selftest"
    verb.ONCE, verb.SHARE = ("machine", "messages"), 20
    verb.cases = lambda *_: [Case(pipeline, layout) for layout, pipeline in CASES]
    ditmesh(["selftest", *sys.argv[1:]])


if __name__ == "__main__":
    be_a_broken_rank() if "RANK" in os.environ else main()
