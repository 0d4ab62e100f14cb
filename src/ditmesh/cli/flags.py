"""Give a verb the flags of a record, and show them in sections."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

BOUNDS = re.compile(r"\s*\[x>=\d\]$")  # what is too small is refused, and need not be told to everyone


def takes(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The fields of a dataclass become the parameters of a verb, which Typer reads by its signature."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        keyword = inspect.Parameter.KEYWORD_ONLY
        context = inspect.Parameter("context", keyword, annotation=typer.Context)
        fields = [field.replace(kind=keyword) for field in inspect.signature(options).parameters.values()]
        vars(verb)["__signature__"] = inspect.Signature([context, *fields])
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in (context, *fields)}
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
