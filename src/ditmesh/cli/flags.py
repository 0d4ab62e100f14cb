"""Flags as the fields of a frozen record: one line each, with its section of the help, its text and its names."""

import inspect
import re
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import asdict, field, fields, make_dataclass
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

# A dash and an underscore are one letter in every flag and verb; the help shows the spelling they were declared with.
ALIKE: dict[str, Any] = {"token_normalize_func": lambda word: word.replace("_", "-")}
BOUNDS = re.compile(r"\s*\[x>=-?\d+\]$")  # what is too small is refused, and need not be told to everyone


def option(
    panel: str, help: str, shown: str, low: int | None = None, default: object = None, hidden: bool = False
) -> Any:
    """A field of a record that a flag fills; ``shown`` are its names and what it takes, as the help shows them."""
    *names, last = shown.split(", ")
    last, _, value = last.partition(" ")
    names = (*names, last)
    told: dict[str, Any] = {"help": help, "metavar": value or None, "rich_help_panel": panel, "show_default": False}
    flag = typer.Option(*names, min=low, hidden=hidden, **told)
    return field(default=default, metadata={"flag": flag, "names": names})


def argument(help: str, value: str) -> Any:
    """A field of a record that a word without a flag fills."""
    return field(metadata={"flag": typer.Argument(metavar=value, help=help, show_default=False)})


count = partial(option, low=1)
switch = partial(option, default=False)


def flag_of(options: Any, name: str) -> str:
    """The flag that fills a field, by the first of its names."""
    return next(f.metadata["names"][0] for f in fields(options) if f.name == name)


def given_flags(options: Any, *names: str) -> list[str]:
    """The flags of these fields that were given."""
    values = asdict(options)
    return [flag_of(options, name) for name in names if values[name] is not None and values[name] is not False]


def record(name: str, rows: Iterable[tuple[str, Any, Any]]) -> type[object]:
    """A record of flags that are described elsewhere, for another to have beside its own: name, type and field."""
    return make_dataclass(name, rows, frozen=True, kw_only=True)


def same(kind: type, name: str, panel: str) -> Any:
    """A field that another verb has too, in a section of its own here."""
    (own,) = [f for f in fields(kind) if f.name == name]
    flag = copy(own.metadata["flag"])
    flag.rich_help_panel = panel
    return field(default=own.default, metadata={**own.metadata, "flag": flag})


def takes(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The fields of a record become the parameters of a verb, which Typer reads by its signature."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        keyword = inspect.Parameter.KEYWORD_ONLY
        context = inspect.Parameter("context", keyword, annotation=typer.Context)
        metadata = {f.name: (f.type, f.metadata["flag"]) for f in fields(options)}
        flags = [
            parameter.replace(kind=keyword, annotation=Annotated[metadata[name]])
            for name, parameter in inspect.signature(options).parameters.items()
        ]
        verb.__signature__ = inspect.Signature([context, *flags])
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in (context, *flags)}
        return verb

    return decorate


class Sections(TyperCommand):
    """A command whose help groups its flags by the section each was given."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, told = record
                given: Any = vars(parameter).get("rich_help_panel")
                title = given or ("Arguments" if parameter.param_type_name == "argument" else "Help")
                sections.setdefault(title, []).append((name, BOUNDS.sub("", told)))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
