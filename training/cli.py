"""The `dataengine-train` command. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from dataengine.core.console import execute
from training.verbs import learn, measure, tables
from training.verbs.options import app

__all__ = ["app", "learn", "main", "measure", "tables"]


def main() -> None:
    """Entry point; see `dataengine.core.console.execute`."""
    execute(app, "dataengine-train")


if __name__ == "__main__":
    main()
