"""The exceptions a caller can meet.

::

    DataEngineError            every error of ours; its message is one line a user can act on
    |-- RecipeError            a recipe, an overlay or a --set is wrong
    |-- ComponentError         an unknown component, or an unknown or wrong option of one
    |-- MissingExtraError      an optional dependency is needed; names the extra to add
    |-- SourceError            annotations or media of a source cannot be used at all
    |-- MediaError             one file or stream cannot be used; becomes a typed row
    |-- WeightsError           a weight file is missing or is not the one that was promised
    |-- ExpertError            an expert failed on given frames (crash, hang, bad answer)
    |-- EnvironmentFailure     a host failed (mount, disk, GPU), whatever clip it had; nothing is committed
    |-- LedgerError            the intermediates of a build are not what their records say
    |   `-- DamagedArtifact    a file of one unit changed after it was written; the unit is to be run again
    |-- LeaseError             somebody else works on the same build
    |-- DatasetError           a dataset is incomplete, torn or of another format
    `-- TrainingError          a run's configuration, its data or its checkpoint cannot be used

A message says what was given, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable

from dataengine.core.former_names import new_name


class DataEngineError(Exception):
    """Base of all errors of this package; the command line prints the message and exits 1."""


class RecipeError(DataEngineError):
    """A recipe, an overlay or an override is not valid."""


class ComponentError(DataEngineError):
    """A component name or option does not exist or has a wrong value."""


class MissingExtraError(DataEngineError):
    """An optional dependency is absent.

    Attributes:
        what: what needs it. extras: that bring it. hint: another way, in one sentence, or ''.
    """

    def __init__(self, what: str, *extras: str, hint: str = "") -> None:
        named = ", ".join(repr(extra) for extra in extras)
        options = " ".join(f"--extra {extra}" for extra in extras)
        needs = f"needs the extra {named}" if len(extras) == 1 else f"need the extras {named}"
        super().__init__(
            f"{what} {needs}: add with  uv sync {options}  or  pip install 'dataengine[{','.join(extras)}]'"
            + (f"; {hint}" if hint else "")
        )
        self.what = what
        self.extras = extras
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[..., MissingExtraError], tuple[str, ...]]:
        return functools.partial(type(self), hint=self.hint), (self.what, *self.extras)


class SourceError(DataEngineError):
    """The annotations or media of a source cannot be read."""


class MediaError(DataEngineError):
    """One media file or stream cannot be used.

    Attributes:
        kind: a reason of `dataengine.core.reasons.REASONS`.
        retryable: whether trying again later may succeed.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        retryable: bool = False,
        value: float | None = None,
        threshold: float | None = None,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retryable = retryable
        self.value = value
        self.threshold = threshold

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, bool, float | None, float | None]]:
        return type(self), (self.kind, self.detail, self.retryable, self.value, self.threshold)


class WeightsError(DataEngineError):
    """A weight file is missing or does not have the promised hash."""


class ExpertError(DataEngineError):
    """An expert gave no valid answer for some frames.

    Attributes:
        kind: a reason of `dataengine.core.reasons.REASONS` (`expert_crashed`, `expert_timeout`, `expert_failed`).
    """

    def __init__(self, kind: str, detail: str, retryable: bool = True) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retryable = retryable

    def __reduce__(self) -> tuple[type[ExpertError], tuple[str, str, bool]]:
        return type(self), (self.kind, self.detail, self.retryable)


class EnvironmentFailure(DataEngineError):
    """A host failed, not a clip: nothing is committed, and the work runs again, elsewhere if possible.

    Attributes:
        kind: a kind of `dataengine.core.failures.ENVIRONMENT`.
        detail: what failed, for people.
        clip_id: the clip that was under way; None where the failure has nothing to do with it.
    """

    def __init__(self, kind: str, detail: str, clip_id: str | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.clip_id = clip_id

    def __reduce__(self) -> tuple[type[EnvironmentFailure], tuple[str, str, str | None]]:
        return type(self), (self.kind, self.detail, self.clip_id)


class LedgerError(DataEngineError):
    """Intermediates of a build disagree with their commit records."""


class DamagedArtifact(LedgerError):
    """What a pass made of one unit is not what its record says. The record was dropped, so the unit counts as not done.

    Attributes:
        pass_name, unit: what has to be run again. what: the file, and what is wrong with it.
    """

    def __init__(self, pass_name: str, unit: str, what: str) -> None:
        super().__init__(f"pass {pass_name}: {what}; build again, which makes it anew")
        self.pass_name = pass_name
        self.unit = unit
        self.what = what

    def __reduce__(self) -> tuple[type[DamagedArtifact], tuple[str, str, str]]:
        return type(self), (self.pass_name, self.unit, self.what)


class LeaseError(DataEngineError):
    """Another process works on the same build, or took it over from this one."""


class DatasetError(DataEngineError):
    """A dataset is missing, incomplete, torn, or of an unknown format."""


class TrainingError(DataEngineError):
    """A training run's configuration, data or checkpoint cannot be used."""


def suggestion(given: str, allowed: Iterable[str]) -> str:
    """What is allowed in place of `given`: ' (did you mean ...?); allowed: ...'.

    A former name is answered with the new one, a misspelt name with the nearest.
    """
    names = sorted(allowed)
    now = new_name(given, names)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" (it is called {now!r} now)" if now else f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; allowed: {', '.join(names) if names else 'none'}"
