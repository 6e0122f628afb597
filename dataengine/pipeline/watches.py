"""What schedulers run to notice that the driver of a build is gone, also one that was killed.

The functions travel by value: a scheduler needs no dataengine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ALONE = 60.0
"""Seconds without a client after which a scheduler that we started over SSH ends, and its workers with it."""


def ending_with_its_driver() -> Callable[..., Any]:
    """What a scheduler on another host runs, so that it does not outlive a driver that was killed."""

    async def watch(alone: float, dask_scheduler: Any) -> None:
        import asyncio

        async def watching() -> None:
            left = 0.0
            while left < alone:
                await asyncio.sleep(1.0)
                left = 0.0 if set(dask_scheduler.clients) - {"fire-and-forget"} else left + 1.0
            await dask_scheduler.close(reason="the driver is gone")

        dask_scheduler.watching = asyncio.create_task(watching())

    return watch


def without_its_driver() -> Callable[..., Any]:
    """What a scheduler of somebody else does when our driver is gone, also one that was killed: it asks workers that
    join no more questions of that driver, and has its own settings again."""

    async def watch(driver: str, questions: tuple[str, ...], before: dict[str, Any], dask_scheduler: Any) -> None:
        import asyncio

        async def watching() -> None:
            away = 0
            while away < 3:  # a connection may break for a moment
                await asyncio.sleep(1.0)
                away = 0 if driver in dask_scheduler.clients else away + 1
                if dask_scheduler.dataengine_driver != driver:
                    return  # another build has begun
            for name in set(questions) & set(dask_scheduler.worker_plugins):
                await dask_scheduler.unregister_worker_plugin(comm=None, name=name)
            stealing = dask_scheduler.extensions.get("stealing")
            dask_scheduler.allowed_failures = before.get("failures", dask_scheduler.allowed_failures)
            dask_scheduler.WORKER_SATURATION = before.get("saturation", dask_scheduler.WORKER_SATURATION)
            if stealing is not None and before.get("stealing"):
                await stealing.start()

        dask_scheduler.dataengine_driver = driver
        dask_scheduler.dataengine_watching = asyncio.create_task(watching())

    return watch
