"""The degrees of `ditmesh t2i`: flags, and under them the variables DG_XDIT_*, which nothing else reads."""

from collections.abc import Mapping
from math import prod
from typing import Any

from ditmesh import ParallelismConfig
from ditmesh.cli.flags import flag_of
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.config import AXES, suggest

PREFIX = "DG_XDIT_"
VARIABLES = {axis.variable: name for name, axis in AXES.items() if axis.variable}
DEBUG = "DG_DEBUG"
YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def is_on(environment: Mapping[str, str], name: str) -> bool:
    """A variable that is a switch; off where it is not set.

    Raises:
        ValueError: it is neither on nor off.
    """
    value = environment.get(name, NO[0])
    if value.strip().lower() not in (*YES, *NO):
        raise ValueError(f"{name}={value} is neither on nor off; set it to true or false, or unset it.")
    return value.strip().lower() in YES


def sizes_of(environment: Mapping[str, str]) -> dict[str, int]:
    """The degrees that the environment sets.

    Raises:
        ValueError: a variable that does not exist, or a value that is none.
    """
    for name in environment:
        if name.startswith(PREFIX) and name not in VARIABLES:
            raise ValueError(f"there is no variable {name}; {suggest(name, VARIABLES)}")
    sizes = {}
    for name, axis in VARIABLES.items():
        size = f"{axis}_size"
        if name not in environment:
            continue
        if AXES[axis].most == 2:
            sizes[size] = 2 if is_on(environment, name) else 1
        else:
            value = environment[name].strip()
            if not value.isascii() or not value.isdigit() or int(value) < 1:
                raise ValueError(f"{name}={environment[name]} is no degree; set it to 1 (off), 2 or more, or unset it.")
            sizes[size] = int(value)
    return sizes


def choose_degrees(
    flags: Mapping[str, int | None], environment: Mapping[str, str], ranks: int | None, others: Mapping[str, Any]
) -> ParallelismConfig:
    """The layout: a flag goes before its variable, and ranks that the degrees leave over become replicas.

    Args:
        flags: degrees by size (``dp_size`` ...), None where no flag was given.
        environment: the variables.
        ranks: how many there are to be; None for as many as the degrees need.
        others: the other fields of the layout that were given, such as ``num_pipeline_patch``.

    Raises:
        ValueError: the degrees do not fill the ranks.
    """
    sizes: dict[str, Any] = sizes_of(environment) | {
        size: degree for size, degree in flags.items() if degree is not None
    }
    product = prod(sizes.values())
    if ranks is not None and product != ranks:
        spread = {flag_of(BatchOptions, size): degree for size, degree in sizes.items() if degree > 1}
        told = " x ".join(f"{degree} ({flag})" for flag, degree in spread.items()) or "1"
        if "dp_size" in sizes or ranks % product:
            raise ValueError(
                f"the degrees {told} need {product} {'rank' if product == 1 else 'ranks'}, and there are to be {ranks} "
                f"(--num_gpus); leave --num_gpus out, or choose degrees whose product is {ranks}."
            )
        sizes["dp_size"] = ranks // product
    return ParallelismConfig(**sizes, **others)
