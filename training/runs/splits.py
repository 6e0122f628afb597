"""The two sides of a run's data: what is learnt from and what is measured on, opened as its configuration says, classes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from blake3 import blake3

from dataengine.core.errors import DataEngineError, TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from training.config import DataTable
from training.data.formats import format_of
from training.data.formats.ranges import is_url
from training.data.loader import open_sources
from training.data.sampler import joined_labels
from training.data.types import Clip, Numbers, Source
from training.evaluate.probes import subsets

USUAL: dict[str, tuple[str, ...]] = {"built": ("keypoints", "scores"), "webdataset": ("keypoints", "scores"), "npz": ()}
"""Formats that can give features beside poses, and what they give unless entries are named."""
LOOKED = 64
"""Clips in which a stored feature is looked for."""


def absolute(path: str) -> str:
    """A local path from the root, so that it can be found from anywhere; urls as they are."""
    return path if is_url(path) or "::" in path else str(Path(path).absolute())


def open_side(
    table: DataTable, side: Literal["train", "val"], features: Sequence[str] = (), split: str | None = None
) -> list[Source]:
    """One side's sources.

    Args:
        table: [data].
        side: which; without paths of its own, val is a split of train's.
        features: stored features that are read beside the poses.
        split: in place of the table's; "" for all clips.

    Raises:
        TrainingError, DatasetError: nothing is named, one cannot be opened, or has no such split or feature; the message says what helps.
    """
    paths = table.train if side == "train" else table.val or table.train
    if not paths:
        raise TrainingError("no data is named: give --data PATH, or [data] train in the configuration")
    named = (table.split if side == "train" else table.val_split) if split is None else split
    tars = all(path.endswith(".tar") for path in paths)
    places: list[Any] = [list(paths)] if tars else list(paths)
    return [source for place in places for source in _opened(place, table, named, tuple(features), side)]


def open_val(table: DataTable, features: Sequence[str] = ()) -> tuple[list[Source], str] | None:
    """The side that is measured on and its split; None where the training data has none and nothing else is named.

    Raises:
        TrainingError, DatasetError: see `open_side`.
    """
    usual = ("val", "test")
    wanted = [table.val_split, *(split for split in usual if table.val_split in usual and split != table.val_split)]
    first: DataEngineError | None = None
    for split in wanted:
        try:
            return open_side(table, "val", features, split), split
        except DataEngineError as error:
            first = first or error
    assert first is not None
    if table.val or len(wanted) == 1 or not _openable(lambda: open_side(table, "val", features, "")):
        raise first
    return None


def _opened(place: Any, table: DataTable, split: str, features: tuple[str, ...], side: str) -> list[Source]:
    def attempt(split: str, features: tuple[str, ...]) -> list[Source]:
        options = dict(table.options)
        if features:
            kind = "webdataset" if isinstance(place, list) else format_of(place)
            if kind not in USUAL:
                raise TrainingError(
                    f"{place}: a {kind} file holds no features beside poses, and {features[0]} is asked for"
                )
            options["entries"] = list(dict.fromkeys((*options.get("entries", USUAL[kind]), *features)))
        return open_sources(
            [place] if isinstance(place, str) else place, split or None, table.where, skeleton=table.skeleton, **options
        )

    try:
        return attempt(split, features)
    except DataEngineError as error:
        if features and _openable(lambda: attempt(split, ())):
            raise TrainingError(
                f"{error}; build the dataset with [embed] features, or do without: --set 'method.video=\"\"' for a method that takes it"
            ) from error
        if split and _openable(lambda: attempt("", features)):
            key = "data.split" if side == "train" else "data.val_split"
            raise TrainingError(f'{error}; choose with --set {key}=\'"NAME"\', where "" takes all clips') from error
        raise


def _openable(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except DataEngineError:
        return False
    return True


def known_layout(skeleton: Skeleton) -> str | None:
    """The name under which other data can be converted to a skeleton; None for joints of somebody's own."""
    return skeleton.name if SKELETONS.get(skeleton.name) == skeleton else None


def label_ids(names: Sequence[str], sources: Sequence[Source]) -> Numbers:
    """(N,) each clip's place in `names`, which may be another dataset's; -1 for no label or one that is not among them."""
    own, ids = joined_labels(sources)
    places = {name: number for number, name in enumerate(names)}
    table = np.array([*(places.get(name, -1) for name in own), -1], np.int64)
    return np.asarray(table[ids], np.int64)


def named(sources: Sequence[Source]) -> str:
    """The sources as a message calls them."""
    return ", ".join(source.name for source in sources)


def facts(sources: Sequence[Source]) -> dict[str, Any]:
    """What a figure was measured on: `names`, `clips`, and the `fingerprint` that two figures must share to be compared."""
    fingerprint = " ".join(source.fingerprint for source in sources)
    return {"names": [source.name for source in sources], "clips": sum(map(len, sources)), "fingerprint": fingerprint}


def looked_at(sources: Sequence[Source], most: int = LOOKED) -> list[Clip]:
    """Some clips from all over the sources."""
    clips: list[Clip] = []
    for part in thinned(sources, most):
        clips += part.read(range(len(part)))
    return clips


def feature_width(sources: Sequence[Source], feature: str) -> int:
    """How many numbers a stored feature has.

    Raises:
        TrainingError: none of the clips that were looked at has it.
    """
    for clip in looked_at(sources):
        if feature in clip.features:
            return int(np.shape(clip.features[feature])[-1])
    raise TrainingError(
        f"{named(sources)}: no clip has the feature {feature!r}; build the dataset with [embed] features"
    )


def thinned(sources: Sequence[Source], most: int, seed: int = 0) -> list[Source]:
    """At most so many clips of all sources together, drawn at random, in their order."""
    count = sum(map(len, sources))
    if count <= most:
        return list(sources)
    return _parts(sources, np.sort(np.random.default_rng(seed).choice(count, most, replace=False)))


def few(sources: Sequence[Source], share: float, seed: int) -> list[Source]:
    """That share of every class's clips, those of `evaluate.probes.subsets`; none without a label.

    Raises:
        TrainingError: no clip has a label.
    """
    _, ids = joined_labels(sources)
    if not (ids >= 0).any():
        raise TrainingError(f"{named(sources)}: data.share is one of every class's clips, and no clip has a label")
    return _parts(sources, subsets(ids, (share,), seed)[share])


def _parts(sources: Sequence[Source], chosen: Numbers) -> list[Source]:
    """Clips at these ascending places of all sources together."""
    sizes = [len(source) for source in sources]
    ends = np.cumsum(sizes)
    parts = [chosen[(chosen >= end - size) & (chosen < end)] - (end - size) for size, end in zip(sizes, ends)]
    return [_Part(source, places) for source, places in zip(sources, parts) if len(places)]


class _Part:
    """Some clips of a source."""

    def __init__(self, source: Source, places: Numbers) -> None:
        self._source, self._places = source, places
        self.name, self.skeleton, self.labels = source.name, source.skeleton, source.labels
        self.fingerprint = blake3(f"{source.fingerprint} {places.tolist()}".encode()).hexdigest()
        self.keys: Sequence[str] = [source.keys[place] for place in places.tolist()]
        self.label_ids: Numbers = np.asarray(source.label_ids, np.int64)[places]

    def __len__(self) -> int:
        return len(self._places)

    def read(self, indices: Sequence[int]) -> list[Clip]:
        """The clips at these places of the part."""
        return self._source.read(self._places[np.asarray(indices, np.int64)].tolist())
