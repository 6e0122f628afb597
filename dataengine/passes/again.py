"""Which clips that failed are run again: `dataengine build --retry REASON --release CLIP_ID`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataengine.core.errors import RecipeError, suggestion
from dataengine.core.reasons import DECISIONS, REASONS
from dataengine.core.types import Fail, Keep, Outcome
from dataengine.passes.base import passes_of
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from dataengine.passes.progress import BuildState


@dataclass(frozen=True)
class Again:
    """Which outcomes of finished units make the unit run again.

    Attributes:
        retryable: failures that are worth another try.
        reasons: what was left out for these reasons, whether it is worth another try or not.
        clips: failures of these clips, such as those in quarantine.
    """

    retryable: bool = True
    reasons: frozenset[str] = frozenset()
    clips: frozenset[str] = frozenset()

    def wants(self, outcome: Outcome) -> bool:
        """Whether the clip of an outcome is to run again."""
        if isinstance(outcome, Keep):
            return False
        if not isinstance(outcome, Fail):
            return outcome.reason in self.reasons
        return (self.retryable and outcome.retryable) or outcome.kind in self.reasons or outcome.clip_id in self.clips

    def wants_unit(self, commit: Commit) -> bool:
        """Whether a finished unit is to run again."""
        return any(self.wants(outcome) for outcome in commit.outcomes)


RETRYABLE = Again()
"""What is worth another try runs again, as in each build."""

NEVER_AGAIN = Again(retryable=False)
"""Nothing that is finished runs again."""


def check_reasons(recipe: Recipe, reasons: Collection[str]) -> None:
    """Refuse reasons of `--retry` that nothing is run again for.

    Raises:
        RecipeError: an unknown reason, or one that is decided anew in each build.
    """
    own = {reason for p in passes_of(recipe) if p.scope == "unit" for reason in p.own_reasons(recipe)}
    allowed = (REASONS.keys() - DECISIONS) | own
    for reason in reasons:
        if reason in DECISIONS and reason not in own:
            raise RecipeError(
                f"--retry {reason!r} is a decision of the recipe, not a failure: each build decides anew, so change "
                f"the recipe instead; reasons that can be tried again: {', '.join(sorted(allowed))}"
            )
        if reason not in allowed:
            raise RecipeError(f"--retry {reason!r}{suggestion(reason, allowed)}")


def check_clips(build: BuildState, clips: Collection[str]) -> None:
    """Refuse clips of `--release` that did not fail.

    Raises:
        RecipeError: a clip that is not in the plan, or that no pass failed.
    """
    if not clips:
        return
    failed = {o.clip_id: o for p in build.passes if p.scope == "unit" for o in build.out(p.name).values()}
    failed = {clip_id: o for clip_id, o in failed.items() if isinstance(o, Fail)}
    for clip_id in clips:
        if clip_id in failed:
            continue
        known = build.plan.clip(clip_id) is not None
        what = "did not fail" if known else "is no clip of the plan"
        hint = "; no clip of this build has failed so far"
        if failed:
            hint = suggestion(clip_id, failed) if len(failed) <= 20 else "; `dataengine audit OUT rejects` lists clips"
        raise RecipeError(f"--release {clip_id!r} {what}{hint}")
