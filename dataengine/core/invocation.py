"""How the user calls this program, for commands that messages show."""

from __future__ import annotations

import os


def command(rest: str, name: str = "dataengine") -> str:
    """A command to copy: with `uv run` in front where the program was started by it.

    Args:
        rest: subcommand and arguments.
        name: of the program.
    """
    return f"{'uv run ' if os.environ.get('UV_RUN_RECURSION_DEPTH') else ''}{name} {rest}"
