"""How a scheduler, which may be somebody else's, treats the tasks of a build, and how it did before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

QUESTIONS = ("dataengine-handshake", "dataengine-admission")
"""Names of the plugins of Dask's workers that ask what a build must know of them."""

OURS = {"failures": 0, "saturation": 1.0, "stealing": False}
"""How a scheduler treats our units: one that loses its worker comes back to the driver at once, which knows better, and
none moves between workers."""


def settle(client: Any, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have a scheduler treat tasks as `wanted`; how it did before.

    Dask reads these settings in the scheduler's process, where our configuration does not reach.
    """

    # It travels by value: a scheduler needs no dataengine.
    async def settle(wanted: Mapping[str, Any], dask_scheduler: Any) -> dict[str, Any]:
        stealing = dask_scheduler.extensions.get("stealing")
        before = {
            "failures": dask_scheduler.allowed_failures,
            "saturation": dask_scheduler.WORKER_SATURATION,
            "stealing": "stealing" in dask_scheduler.periodic_callbacks,
        }
        dask_scheduler.allowed_failures = wanted["failures"]
        dask_scheduler.WORKER_SATURATION = wanted["saturation"]
        if stealing is not None and wanted["stealing"] != before["stealing"]:
            await (stealing.start() if wanted["stealing"] else stealing.stop())
        return before

    return dict(client.run_on_scheduler(settle, dict(wanted)))


def dismiss(client: Any) -> None:
    """Take questions of a build back from a scheduler that goes on without it."""
    for name in QUESTIONS:
        with suppress(Exception):
            if client.status == "running":
                client.unregister_worker_plugin(name)


def python_of_scheduler(client: Any) -> str:
    """The version of Python of a scheduler in its first two numbers; '' where it does not say it."""
    with suppress(Exception):
        return ".".join(str(client.get_versions()["scheduler"]["host"]["python"]).split(".")[:2])
    return ""
