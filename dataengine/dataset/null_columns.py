"""Columns of the index that may be null in every row, and the check of all others.

A column without a single value is mostly a defect: the pass that fills the column did not run, or wrote its value
under another name. `verify` names such a column unless `MAY_BE_NULL` says why a dataset can lack all its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from dataengine.core.skeletons import BODY12

Tables = Mapping[str, pl.DataFrame]


def always(tables: Tables) -> bool:
    """The dataset may lack every value, whatever else it holds."""
    return True


def one_expert(tables: Tables) -> bool:
    """The poses are those of one expert, which has nobody to disagree with."""
    return "tracks" not in tables or sum(name.startswith("share_") for name in tables["tracks"].columns) <= 1


def no_features(tables: Tables) -> bool:
    """No sample holds a feature of its video."""
    if "clips" not in tables:
        return True
    names = tables["clips"]["entries"].explode().drop_nulls().struct.field("name")
    return not names.str.ends_with("_video.npy").any()


def no_labels(tables: Tables) -> bool:
    """No sample holds a feature, or no clip has a label to compare it with."""
    return no_features(tables) or tables["clips"]["label"].n_unique() - bool(tables["clips"]["label"].null_count()) < 1


def one_label(tables: Tables) -> bool:
    """No sample holds a feature, or there are no two labels to choose between."""
    return no_features(tables) or tables["clips"]["label"].n_unique() - bool(tables["clips"]["label"].null_count()) < 2


def no_body(tables: Tables) -> bool:
    """No joint of trunk or limbs is seen, or nobody in `MEASURED_FRAMES` frames."""
    if "tracks" not in tables or "joints" not in tables:
        return True
    seen = tables["joints"].filter(pl.col("joint").is_in(BODY12) & (pl.col("visible") > 0))
    return not len(seen) or not (tables["tracks"]["num_frames"] >= MEASURED_FRAMES).any()


def no_sure_body(tables: Tables) -> bool:
    """As `no_body`, or no joint of trunk or limbs is seen with a score that lifters ask for."""
    if no_body(tables):
        return True
    body = tables["joints"].filter(pl.col("joint").is_in(BODY12) & (pl.col("visible") > 0))
    return not (body["score_mean"] >= SURE).any()


SURE = 0.1
"""Mean score of a joint from which poses can be lifted (`dataengine.lift.base.NetworkLifter.min_score`, and some)."""
MEASURED_FRAMES = 8
"""Frames with a pose from which every measure over time has a value
(`dataengine.filters.bone_variation.MIN_FRAMES`)."""


@dataclass(frozen=True)
class MayBeNull:
    """Why a column may be null in every row.

    Attributes:
        why: one sentence for the reference of the index.
        when: whether it may in the dataset of these tables.
    """

    why: str
    when: Callable[[Tables], bool] = always


_NO_LABEL = MayBeNull("Sources may give no labels, and a label map may leave all of them out.")
_NO_SOURCE_LABEL = MayBeNull("Sources may give no labels.")
_WHOLE_FILE = MayBeNull("A source may offer whole files, without a span in the original video.")
_NOT_STATED = MayBeNull("Sources may not state it.")
_FEATURES = "Only datasets with features compare clips with labels."
_NO_BODY = MayBeNull("The measure needs a person whose body is seen in enough frames.", no_body)
_NOT_LIFTED = MayBeNull("A lifter needs a person whose body is seen, and not merely guessed.", no_sure_body)
_ONE_EXPERT = MayBeNull("One expert alone has nobody to disagree with.", one_expert)
_NO_VALUE = MayBeNull("Many reasons compare no value with a threshold.")

MAY_BE_NULL: dict[str, dict[str, MayBeNull]] = {
    "clips": {
        "start": _WHOLE_FILE,
        "end": _WHOLE_FILE,
        "label": _NO_LABEL,
        "label_id": _NO_LABEL,
        "source_label": _NO_SOURCE_LABEL,
        "text": _NO_LABEL,
        "licence": _NOT_STATED,
        "consent": _NOT_STATED,
        "url": _NOT_STATED,
        "subject": _NOT_STATED,
        "expert_disagreement": _ONE_EXPERT,
        "jitter": _NO_BODY,
        "motion": _NO_BODY,
        "truncation": _NO_BODY,
        "bone_variation": _NO_BODY,
        "lift_reprojection": _NOT_LIFTED,
        "label_cosine": MayBeNull(_FEATURES, no_labels),
        "label_margin": MayBeNull(_FEATURES, one_label),
        "label_rank": MayBeNull(_FEATURES, no_labels),
        "duplicate_of": MayBeNull("A dataset may hold no duplicates, and a recipe may reject all of them."),
    },
    "tracks": {
        "jitter": _NO_BODY,
        "motion": _NO_BODY,
        "bone_variation": _NO_BODY,
        "lift_reprojection": _NOT_LIFTED,
    },
    "joints": {"disagreement": _ONE_EXPERT},
    "rejects": {
        "value": _NO_VALUE,
        "threshold": _NO_VALUE,
        "detail": MayBeNull("The reason may say all there is to say."),
    },
    "accuracy": {"condition": MayBeNull("A rendered source may name no condition of its scenes.")},
    "review": {
        "label": MayBeNull("Clips without a label can get a proposal, too."),
        "margin": MayBeNull("A clip without a label has no cosine that the proposal could lead."),
    },
}
"""table -> column -> why it may be null in every row. Columns that are not named here may not."""


def null_columns(tables: Tables) -> Iterator[tuple[str, str]]:
    """(table, column) of every column that is null in each of one or more rows, and may not be."""
    for name, table in tables.items():
        allowed = MAY_BE_NULL.get(name, {})
        for column in table.columns:
            if not len(table) or table[column].null_count() < len(table):
                continue
            if column not in allowed or not allowed[column].when(tables):
                yield name, column
