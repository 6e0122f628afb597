"""What both commands do at the edge: say their version, print a result, end with one line and a code where something failed."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from dataengine import __version__
from dataengine.core.errors import DataEngineError


def application(name: str, about: str) -> typer.Typer:
    """A command without verbs yet."""
    app = typer.Typer(
        help=about, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )

    @app.callback(invoke_without_command=True)
    def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
        if version:
            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    return app


def show(value: Any) -> None:
    """Text as it is, anything else as one JSON object, to stdout."""
    typer.echo(value if isinstance(value, str) else json.dumps(value, indent=1, default=str, ensure_ascii=False))


def execute(app: typer.Typer, name: str) -> None:
    """Run a command and exit: our errors are one line and exit 1; Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
    except DataEngineError as error:
        typer.echo(f"{name}: {error}", err=True)
        code = 1
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:  # typer's own usage errors: their class depends on its version
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()
        code = error.exit_code
    if code == 130:  # typer makes this of Ctrl-C itself, or leaves it to us, by its version
        typer.echo(f"{name}: interrupted; run the same command again to go on", err=True)
    sys.exit(code if isinstance(code, int) else 0)
