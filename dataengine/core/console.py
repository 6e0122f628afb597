"""The frame of both commands: version, printed results, and one line with an exit code for an error."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated, Any

import typer

from dataengine import __version__
from dataengine.core.errors import DataEngineError
from dataengine.core.failures import OUT_OF_MEMORY, in_one_line, kind_of


def application(name: str, about: str) -> typer.Typer:
    """A command, yet without subcommands."""
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
    """Print text as it is, anything else as one JSON object, to stdout."""
    typer.echo(value if isinstance(value, str) else json.dumps(value, indent=1, default=str, ensure_ascii=False))


HELPS = {OUT_OF_MEMORY: "; take less at a time, such as smaller batches, or a machine with more memory"}
"""What a user can do, by what `kind_of` says."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def execute(app: typer.Typer, name: str) -> None:
    """Run a command and exit: 1 after one line for errors of this package, 130 after Ctrl-C, 143 after SIGTERM."""
    terminated: list[int] = []
    own = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        """End as after Ctrl-C; batch systems ask for it when a job's time is over."""
        del frame
        if os.getpid() != own:  # a forked child ends as if it had no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_IGN)  # once is enough: what ends now must not be cut short
        terminated.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        with in_one_line():
            code = app(standalone_mode=False)
    except DataEngineError as error:
        typer.echo(f"{name}: {error}", err=True)
        code = 1
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # usage errors of typer, of a class of its version
            error.show()
            code = error.exit_code
        elif kind := kind_of(error):  # memory that is too small, a GPU that fails: the machine's, not ours
            typer.echo(f"{name}: {kind}: {_first_line(error)}{HELPS.get(kind, '')}", err=True)
            code = 1
        else:
            raise
    if code == 130:  # by its version, typer turns Ctrl-C into this code or leaves that to us
        typer.echo(f"{name}: interrupted; what was finished stays: run the same command again", err=True)
        code = 128 + terminated[0] if terminated else code
    sys.exit(code if isinstance(code, int) else 0)
