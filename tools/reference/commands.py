"""The command line: every command, argument and option of both programs."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import typer.main

from tools.reference.markdown import Pages, cell, code, join, table

EXIT_CODES = """Results go to stdout. Progress and messages go to stderr. `--json` prints one JSON object.

| exit code | meaning |
|---|---|
| 0 | complete |
| 1 | an error, said in one line |
| 2 | wrong usage |
| 3 | finished, but some clips failed for reasons that may pass: run the same command again |
| 130 | interrupted: run the same command again to go on |"""


def programs() -> dict[str, Any]:
    """The command groups by the name of their program."""
    from dataengine.cli import app
    from training.cli import app as train_app

    return {"dataengine": typer.main.get_command(app), "dataengine-train": typer.main.get_command(train_app)}


def pages() -> Pages:
    """One page per program."""
    return {
        f"reference/{program}.md": (f"Commands/{program}", page(program, group))
        for program, group in programs().items()
    }


def page(program: str, group: Any) -> str:
    """The page of one program."""
    parts = [f"# {program}", cell(group.help or ""), EXIT_CODES]
    for name, command in group.commands.items():
        hints = typing.get_type_hints(command.callback)
        parts += [f"## {program} {name}", cell(command.help or ""), f"```text\n{usage(program, name, command)}\n```"]
        parts.append(
            table(("argument or option", "value", "default", "meaning"), [_row(p, hints) for p in command.params])
        )
    return join(*parts)


def usage(program: str, name: str, command: Any) -> str:
    """The line of usage of a command."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    required = [f"--{p.name.replace('_', '-')} VALUE" for p in command.params if p not in arguments and p.required]
    shown = [_argument(p) if p.required else f"[{_argument(p)}]" for p in arguments]
    return " ".join([program, name, *shown, *required, "[OPTIONS]"])


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper()).strip("[].")
    return f"{name}..." if parameter.multiple or parameter.nargs == -1 else name


def _value(annotation: Any) -> str:
    """What an option takes, as the usage of commands writes it."""
    parts, waiting = [], [annotation]
    while waiting:
        part = waiting.pop()
        parts.append(part)
        waiting += typing.get_args(part)
    return next((word for made, word in ((Path, "PATH"), (int, "INTEGER"), (float, "NUMBER")) if made in parts), "TEXT")


def _row(parameter: Any, hints: dict[str, Any]) -> tuple[str, str, str, str]:
    is_option = parameter.param_type_name == "option"
    name = ", ".join(code(flag) for flag in [*parameter.opts, *parameter.secondary_opts]) if is_option else ""
    shown = name or code(_argument(parameter))
    value = "" if not is_option or parameter.is_flag else code(parameter.metavar or _value(hints.get(parameter.name)))
    default = parameter.default if isinstance(parameter.default, str | int | float) else None
    hidden = default is None or isinstance(default, bool) or default == ""
    required = "required" if parameter.required else ""
    environment = f" Also the environment variable `{parameter.envvar}`." if parameter.envvar else ""
    return shown, value, required if hidden else code(default), cell(parameter.help or "") + environment
