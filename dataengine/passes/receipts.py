"""What the driver makes of a receipt: the record of a key that has run, wherever it ran.

The receipt carries the record as it was written, so the driver reads nothing back, and it does not matter when its file
system shows a file of another machine. Only a pass that gives no record in its receipts is asked of its ledger, with
patience.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataengine.core.errors import LedgerError
from dataengine.passes.base import Pass
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.patience import awaited
from dataengine.pipeline.task import Receipt, Task

if TYPE_CHECKING:
    from dataengine.passes.progress import BuildState


def received(p: Pass, build: BuildState, task: Task, receipt: Receipt | None) -> Commit:
    """The record of a task that has run.

    Raises:
        LedgerError: there is none, or it is of other inputs; one line that names the file and the host.
    """
    ledger = build.job.ledger(p.name)
    host = "this machine" if receipt is None or not receipt.host else f"{receipt.host} (process {receipt.pid})"
    if receipt is not None and receipt.record:
        record = Commit.from_json(receipt.record)
        if record.inputs != task.inputs:
            raise LedgerError(
                f"pass {p.name}: {host} ran {task.key} for other inputs than it was given; does it run another version "
                "of dataengine?"
            )
        if build.drives:
            ledger.settle(record)
        return p.commit_of(build, task.key, task.inputs, record) or record

    def look() -> Commit | None:
        found = build.find(p.name, task.key, task.inputs)
        expected = receipt is None or not receipt.digest or (found is not None and found.digest == receipt.digest)
        return found if expected else None

    found = awaited(look, (ledger.folder / "commits", ledger.folder / "data"))
    if found is None:
        raise LedgerError(
            f"pass {p.name}: {task.key} ran on {host}, but its record {ledger.folder / 'commits' / task.key}.json is "
            "not to be seen here, or is of other inputs; do all machines share the folder of the build? Build again"
        )
    return p.commit_of(build, task.key, task.inputs, found) or found
