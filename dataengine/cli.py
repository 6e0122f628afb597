"""The `dataengine` command. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from dataengine.core.console import execute
from dataengine.verbs import build, check, manage, setup
from dataengine.verbs.options import app

__all__ = ["app", "build", "check", "main", "manage", "setup"]


def main() -> None:
    """Entry point; see `dataengine.core.console.execute`."""
    execute(app, "dataengine")


if __name__ == "__main__":
    main()
