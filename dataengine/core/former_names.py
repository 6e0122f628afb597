"""Names that are called otherwise now: keys of recipes and configurations, components, their options, index columns.

`dataengine.core.errors.suggestion` asks this table, so that every error about an unknown name answers a former name
with the new one. To rename something: add one line here.
"""

from __future__ import annotations

from collections.abc import Container

FORMER_NAMES: dict[str, tuple[str, ...]] = {
    # keys of recipes
    "people": ("max_people",),
    "trust": ("expert_weights",),
    "near_share": ("near_duplicate_threshold",),
    "lanes": ("clips_in_flight",),
    "ahead_mb": ("prefetch_mb",),
    # components
    "lite_detector": ("synthetic_detector",),
    "lite_topdown": ("synthetic_topdown",),
    "lite_bottomup": ("synthetic_bottomup",),
    "lite_regression": ("synthetic_regression",),
    "path": ("viterbi_path",),
    "mode": ("mean_shift",),
    # options of components
    "hold": ("max_gap",),
    "power": ("score_power",),
    "gate": ("max_step",),
    # columns of the index, passes
    "expert_agreement": ("expert_disagreement",),
    "share_lite_topdown": ("share_synthetic_topdown",),
    "share_lite_bottomup": ("share_synthetic_bottomup",),
    "share_lite_regression": ("share_synthetic_regression",),
    "fetch": ("probe", "download"),
    "agree": ("label_check",),
    # configurations of training
    "share": ("label_fraction",),
    "decay": ("weight_decay",),
    "clip": ("grad_clip",),
    "broken": ("negative",),
    "changed": ("vary_speed",),
    "spliced": ("loop_at_speed_1",),
}
"""former name -> what it may be called now. A new name counts where it is allowed, so that one word may have had two
meanings."""


def new_name(former: str, allowed: Container[str]) -> str | None:
    """What `former` is called now, of the names that are allowed; None where it was never the name of one of them."""
    return next((name for name in FORMER_NAMES.get(former, ()) if name in allowed), None)
