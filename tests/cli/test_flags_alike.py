"""Every flag of every verb takes dashes and underscores, and means the same by either."""

import pytest
from typer.main import get_command

from ditmesh.cli.app import app

COMMANDS = get_command(app).commands


def swapped(name: str) -> str:
    dashes = "-" * (len(name) - len(name.lstrip("-")))
    return dashes + name.lstrip("-").translate(str.maketrans("-_", "_-"))


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_flag_is_known_by_either_spelling_and_shown_by_one(verb):
    group = get_command(app)
    command = COMMANDS[verb]
    needed = [p.default or "x" for p in command.params if p.param_type_name == "argument" and p.required]
    flags = [p.opts[0] for p in command.params if p.param_type_name == "option" and p.required]
    needed += [word for flag in flags for word in (flag, "x")]
    shown = [name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")]
    assert len({name.replace("_", "-") for name in shown}) == len(shown)

    def parsed(name: str, value: list[str]) -> dict[str, object]:
        with group.make_context("ditmesh", [verb, *needed, name, *value]) as parent:
            return command.make_context(verb, [*needed, name, *value], parent=parent).params

    for parameter in command.params:
        if parameter.param_type_name == "argument" or parameter.is_eager:
            continue
        value = [] if parameter.is_flag else ["12"]
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name.startswith("--"):
                assert parsed(swapped(name), value) == parsed(name, value), name
                assert parsed(name.replace("-", "_").replace("__", "--", 1), value) == parsed(name, value), name
