"""What happens when in the clips of a built dataset: seconds in its index and its samples, frames in training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataengine.labels.clip_table import ANNOTATOR
from training.data.spans import SpanTable
from training.data.types import SkeletonSequence

SPAN = pl.Struct({"label": pl.String(), "start": pl.Float64(), "end": pl.Float64(), "label_from": pl.String()})
"""What is read of a span."""


class StoredSpans:
    """The spans of the clips of a dataset.

    Args:
        name: of the dataset, for messages.
        stored: one list of `SPAN` a clip; null where nobody said what happens when.
        labels: names of the classes, whatever is chosen of the dataset.

    Attributes:
        labels: names of the classes.
        known: (N,) bool, of which clips somebody said what happens when.
        proposed: (N,) bool, of which clips an annotator did.
    """

    def __init__(self, name: str, stored: pl.Series, labels: Sequence[str]) -> None:
        self._name, self._stored = name, stored
        self.labels = tuple(labels)
        self._numbers = {label: number for number, label in enumerate(self.labels)}
        self.known: NDArray[np.bool_] = stored.is_not_null().to_numpy()
        by_annotator = pl.element().struct.field("label_from").eq(ANNOTATOR).fill_null(False).any()
        self.proposed: NDArray[np.bool_] = stored.list.eval(by_annotator).list.first().fill_null(False).to_numpy()

    def given_to(self, clips: Sequence[SkeletonSequence], rows: Sequence[int]) -> list[SkeletonSequence]:
        """Clips with their spans.

        Args:
            clips: of the dataset.
            rows: their numbers in it.

        Raises:
            TrainingError: a clip with spans does not say its frame rate.
        """
        said = self._stored[list(rows)].to_list() if len(rows) else []
        return [clip if spans is None else self._of(clip, spans) for clip, spans in zip(clips, said)]

    def _of(self, clip: SkeletonSequence, spans: Sequence[Mapping[str, Any]]) -> SkeletonSequence:
        rows = [(self._numbers[span["label"]], span["start"], span["end"]) for span in spans]
        table = SpanTable(self._name, self.labels, {clip.key: rows}, "seconds")
        return dataclasses.replace(clip, spans=table.of(clip.key, clip.keypoints.shape[1], clip.fps))


def labels_of(stored: pl.Series) -> list[str]:
    """Names of the classes of lists of spans, in alphabetical order."""
    return stored.explode().struct.field("label").drop_nulls().unique().sort().to_list()


def of_text(texts: pl.Series) -> pl.Series:
    """Lists of `SPAN` of the JSON that `checked_text` gave."""
    decoded = [None if text is None else json.loads(text) for text in texts.to_list()]
    return pl.Series(decoded, dtype=pl.List(SPAN))


def checked_text(spans: Any) -> str | None:
    """The spans of the JSON of a sample as a text with what is read of them; None where it has none.

    Raises:
        ValueError: they are no spans.
    """
    if spans is None:
        return None
    rows = spans if isinstance(spans, list) else [spans]
    for span in rows:
        if not _is_span(span):
            raise ValueError(f"its spans hold {str(span)[:80]}; allowed: label, and 0 <= start < end in seconds")
    return json.dumps([{key: span.get(key) for key in ("label", "start", "end", "label_from")} for span in rows])


def _is_span(span: Any) -> bool:
    if not isinstance(span, dict) or not isinstance(span.get("label"), str):
        return False
    if not isinstance(span.get("label_from"), str | None):
        return False
    given = (span.get("start"), span.get("end"))
    times = [float(time) for time in given if isinstance(time, int | float) and math.isfinite(time)]
    return len(times) == 2 and 0 <= times[0] < times[1]
