"""What runs in a worker that is asked for admission. The text of this file travels (`dataengine.pipeline.admission`).

A worker that is to be refused may have no package, another version of it, or another version of Python, which could not
read compiled code. So nothing of this package is imported before Python was compared.
"""

from __future__ import annotations

import sys
from typing import Any

from distributed import WorkerPlugin


class Admission(WorkerPlugin):  # type: ignore[misc]
    """Admits a worker with one thread, a nanny, the driver's Python and this package; with a question, one that agrees.

    Args:
        topic: of Dask's events, under which a worker says why it is refused.
        python: first two numbers of the driver's version.
        asked: a question of `dataengine.pipeline.handshake`. own: what the driver answers to it.
    """

    def __init__(self, topic: str, python: tuple[int, int], asked: Any = None, own: Any = None) -> None:
        self.topic, self.python, self.asked, self.own = topic, tuple(python), asked, own
        self.gpus = 0

    async def setup(self, worker: Any) -> None:
        """Called by Dask before the worker listens to the scheduler."""
        import asyncio
        import socket

        from distributed.core import Status

        manager = worker.memory_manager
        manager.memory_target_fraction = manager.memory_spill_fraction = manager.memory_pause_fraction = False
        problems = self.of_the_process(worker)
        if not problems:
            try:
                problems = await asyncio.to_thread(self.of_the_package, worker)
            except Exception as error:
                problems = [" ".join(f"{type(error).__name__}: {error}".split())]
        if not problems:
            if self.gpus and not worker.state.total_resources.get("GPU"):
                await worker.set_resources(GPU=1)
                worker.status = Status.paused  # so that the scheduler looks again for tasks that wait for a GPU
                worker.status = Status.running
            return
        worker.status = Status.paused
        told = {"name": str(worker.name), "address": worker.address, "host": socket.gethostname()}
        await worker.scheduler.log_event(topic=self.topic, msg={**told, "problems": problems})
        self.closing = asyncio.create_task(worker.close(reason=f"refused: {'; '.join(problems)}"))

    def of_the_process(self, worker: Any) -> list[str]:
        """What speaks against the process, whatever is installed."""
        if sys.version_info[:2] != self.python:
            own, other = (".".join(map(str, version)) for version in (sys.version_info[:2], self.python))
            return [f"it runs Python {own}, the driver {other}; start it with the driver's version"]
        if worker.state.nthreads != 1:
            return [f"it runs {worker.state.nthreads} tasks at once; start it with --nthreads 1"]
        if worker.nanny is None:
            return ["nothing restarts it when it dies; start it without --no-nanny"]
        return []

    def of_the_package(self, worker: Any) -> list[str]:
        """What differs from the driver; in a thread of the worker, since imports may take seconds."""
        try:
            from dataengine.core import devices
            from dataengine.pipeline import handshake
        except ImportError as error:
            return [f"it lacks this package, or has another version of it: {error}"]

        self.gpus = devices.count() if devices.able() else 0
        if self.asked is None or self.own is None:
            return []
        answer = handshake.answer(dict(self.asked), worker)
        return [found.what for found in handshake.differences(dict(self.own), {worker.address: answer})]
