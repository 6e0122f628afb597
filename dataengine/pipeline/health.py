"""How the hosts of a build do: who failed for what, whom to set aside, and when to stop.

- A host that fails `host_failures` times in a row is set aside for the rest of the build; its tasks go to the others.
  Failures of one and the same unit count only where the host has finished nothing yet, since a unit may carry its
  trouble with it.
- Where it is known which GPU failed, its failures are counted by themselves, so that one bad GPU is set aside and the
  others of its host go on. The host is set aside with its last GPU.
- The build stops when no host is left, or when failures of one kind are more than `failure_share` of all attempts
  and at least `ENOUGH`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dataengine.core.errors import DataEngineError
from dataengine.core.failures import ENVIRONMENT
from dataengine.pipeline.attempts import Place, Trouble
from dataengine.pipeline.cluster_kinds import leave_out

ENOUGH = 10
"""Failures of one kind before their share can stop a build."""

AGAIN = "run the same command again once that is mended: finished units are kept"


class Stopped(DataEngineError):
    """The build stops: too much of it fails for one reason, which is not the clips'."""


@dataclass
class Health:
    """What is known of the hosts of one build.

    Attributes:
        host_failures: failures in a row after which a host is set aside.
        failure_share: share of attempts that may fail for one kind.
        kind: of the cluster; what to do about a host depends on it.
        aside: hosts set aside -> why.
        gpus_aside: name of a host and name of a GPU there that is set aside -> why.
        counts: (kind, host) -> failures.
    """

    host_failures: int = 3
    failure_share: float = 0.5
    kind: str = "local"
    aside: dict[str, str] = field(default_factory=dict)
    gpus_aside: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _row: dict[str, list[str]] = field(default_factory=dict)
    _succeeded: dict[str, int] = field(default_factory=dict)
    _ended: int = 0

    def succeeded(self, place: Place) -> None:
        """A task ended well."""
        self._ended += 1
        for one in (place.host, place.seat):
            self._row.pop(one, None)
            self._succeeded[one] = self._ended

    def failed(self, place: Place, trouble: Trouble, key: str, of_the_host: bool = True) -> bool:
        """A task met trouble; whether the host is set aside by that.

        Args:
            of_the_host: whether it counts in the host's row; not where a clip is to blame.

        Raises:
            Stopped: too many attempts fail for this kind.
        """
        self._ended += 1
        self.counts[trouble.kind, place.host] += 1
        total = sum(count for (kind, _), count in self.counts.items() if kind == trouble.kind)
        if total >= ENOUGH and total > self.failure_share * self._ended:
            raise Stopped(
                f"stopped: {total} of {self._ended} attempts failed ({trouble.kind}: {trouble.detail}, "
                f"last on {place.name}); {AGAIN}",
            )
        if not of_the_host or trouble.kind not in ENVIRONMENT or place.host in self.aside:
            return False
        to_blame = self.to_blame(place, trouble)
        row = self._row.setdefault(to_blame, [])
        row.append(key)
        if len(row) < self.host_failures or (len(set(row)) == 1 and to_blame in self._succeeded):
            return False
        why = f"failed {len(row)} times in a row ({trouble.kind}: {trouble.detail})"
        if to_blame != place.host:
            self.gpus_aside.setdefault((place.name, place.gpu), f"GPU {place.gpu} of {place.name} {why}")
            if sum(name == place.name for name, _ in self.gpus_aside) < place.gpus:
                return False
        self.aside[place.host] = f"{place.name} {why}"
        return True

    @staticmethod
    def to_blame(place: Place, trouble: Trouble) -> str:
        """What trouble counts against: a GPU where it is known which one failed, else the host."""
        return place.seat if trouble.kind == "gpu_failed" else place.host

    def moment(self) -> int:
        """A number that grows with each attempt that ends."""
        return self._ended

    def succeeded_since(self, where: str, moment: int) -> bool:
        """Whether a host, or a GPU there (`Place.seat`), has finished a task since `moment`."""
        return self._succeeded.get(where, -1) > moment

    def advice(self, place: Place) -> str:
        """What to do about a host that is set aside, as the end of a line."""
        if self.kind == "local":
            return ""
        return f"; others do its work; mend it, or {leave_out(self.kind, place.name)}"

    def no_host_left(self) -> Stopped:
        """The error for a cluster whose every host is set aside."""
        return Stopped(f"stopped: {'; '.join(self.aside.values())}, and no other host is left; {AGAIN}")
