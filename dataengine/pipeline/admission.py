"""Admission: what every worker of a cluster is asked before its first task, whenever it joins.

The questions travel as a plugin of Dask's workers. A worker sets its plugins up before it listens to the scheduler, so
one that is refused has run nothing. It says why, and ends.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOPIC = "dataengine-admission"
"""Dask's topic of events under which workers say why they are refused."""

_TEXT = Path(__file__).with_name("admission_plugin.py")

_READ = "(lambda space: (exec(compile(text, name, 'exec'), space), space['Admission'](*given))[1])({'__name__': name})"
"""What a worker evaluates to have the plugin."""


def admission(asked: Mapping[str, Any] | None = None, own: Mapping[str, Any] | None = None) -> Any:
    """The plugin that admits a worker with one thread, a nanny and this package; with a question, one that agrees.

    A worker that sees a GPU then offers the resource GPU, and no worker pauses or spills by its memory.

    Args:
        asked: a question of `dataengine.pipeline.handshake`.
        own: what the driver answers to it.
    """
    from distributed import WorkerPlugin

    given = (TOPIC, tuple(sys.version_info[:2]), asked and dict(asked), own and dict(own))

    class Travelling(WorkerPlugin):  # type: ignore[misc]
        """The text of the plugin with what it is given. Unlike compiled code, every version of Python reads it."""

        def __reduce__(self) -> tuple[Any, ...]:
            names = {"text": _TEXT.read_text(encoding="utf-8"), "name": "dataengine_admission", "given": given}
            return eval, (_READ, names)

    return Travelling()
