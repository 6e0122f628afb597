"""Admission: what every worker of a cluster is asked before its first task, whenever it joins.

The questions travel as a plugin of Dask's workers. A worker sets its plugins up before it listens to the scheduler, so
one that is refused has run nothing. It says why, and ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOPIC = "dataengine-admission"
"""Dask's topic of events under which workers say why they are refused."""


def admission(asked: Mapping[str, Any] | None = None, own: Mapping[str, Any] | None = None) -> Any:
    """The plugin that admits a worker with one thread, a nanny and this package; with a question, one that agrees.

    A worker that sees a GPU then offers the resource GPU, and no worker pauses or spills by its memory.

    Args:
        asked: a question of `dataengine.pipeline.handshake`.
        own: what the driver answers to it.
    """
    from distributed import WorkerPlugin

    topic = TOPIC

    # This class travels by value, since a worker that is to be refused may have no package, or another version of it.
    class Admission(WorkerPlugin):  # type: ignore[misc]
        async def setup(self, worker: Any) -> None:
            import asyncio
            import socket

            from distributed.core import Status

            manager = worker.memory_manager
            manager.memory_target_fraction = manager.memory_spill_fraction = manager.memory_pause_fraction = False
            problems = []
            if worker.state.nthreads != 1:
                problems = [f"it runs {worker.state.nthreads} tasks at once; start it with --nthreads 1"]
            elif worker.nanny is None:
                problems = ["nothing restarts it when it dies; start it without --no-nanny"]
            else:
                try:
                    problems = await asyncio.to_thread(self.problems, worker)
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
            await worker.scheduler.log_event(topic=topic, msg={**told, "problems": problems})
            self.closing = asyncio.create_task(worker.close(reason=f"refused: {'; '.join(problems)}"))

        gpus = 0

        def problems(self, worker: Any) -> list[str]:
            """In a thread of the worker: imports may take seconds."""
            try:
                from dataengine.core import devices
                from dataengine.pipeline import handshake
            except ImportError as error:
                return [f"it lacks this package, or has another version of it: {error}"]

            self.gpus = devices.count() if devices.able() else 0
            if asked is None or own is None:
                return []
            answer = handshake.answer(dict(asked), worker)
            return [found.what for found in handshake.differences(dict(own), {worker.address: answer})]

    return Admission()
