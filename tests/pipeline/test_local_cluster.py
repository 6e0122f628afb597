"""A cluster of this machine whose workers never come ends in one line, and does not wait for ever."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.comm import CommClosedError

from dataengine.core.errors import DataEngineError
from dataengine.pipeline import cluster
from dataengine.pipeline.cluster import Cluster


class Client:
    """A client whose scheduler knows no worker."""

    status = "running"

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {}}


def waits(local: bool) -> None:
    waiting = Cluster(Client(), "this machine", kind="local" if local else "scheduler")
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        waiting.workers()
        time.sleep(0.02)


def test_a_build_whose_own_workers_never_start_stops_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where the process that starts the workers was killed before it started any."""
    monkeypatch.setattr(cluster, "FRESH", 0.01)
    monkeypatch.setattr(cluster, "PATIENCE_HERE", 0.2)
    with pytest.raises(DataEngineError, match="no worker process has run on this machine") as error:
        waits(local=True)
    assert "\n" not in str(error.value)
    waits(local=False)  # workers of others may come whenever they like


@pytest.mark.parametrize(
    "error", [OSError("reset"), CommClosedError("closed"), asyncio.CancelledError(), KeyError("u")]
)
def test_whatever_fails_because_the_scheduler_is_gone_is_one_line(error: BaseException) -> None:
    gone = Cluster(SimpleNamespace(status="closed"), "tcp://host:1")
    with pytest.raises(DataEngineError, match="the scheduler of tcp://host:1 is gone"), gone.connected():
        raise error
    with pytest.raises(DataEngineError, match="is gone"), gone.connected():
        pass
    there = Cluster(SimpleNamespace(status="running"), "tcp://host:1")
    with pytest.raises(KeyError), there.connected():
        raise KeyError("a mistake of ours stays one")
