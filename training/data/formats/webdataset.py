"""Plain WebDataset shards, local or over a network: their tar headers are read once, samples then by place.

EntryReader are those of our datasets: KEY.keypoints.npy (M, T, V, C), KEY.scores.npy, KEY.json with label, label_id,
split, fps, width, height, skeleton, joints, spans, and any others; KEY.cls holds a label's number where json has none.
What the headers say is kept in the cache folder and read from there as long as the shards stay as they are.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from dataengine.core.errors import DatasetError, TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton
from dataengine.io.remote import file_state
from training.data.formats.base import Format, at_least_one, checked_ids, choose, digest, joints_text, names_of
from training.data.formats.built import POSES, EntryReader, clips_of
from training.data.formats.joints import Layout, layout_of
from training.data.formats.ranges import Ranges, cache_folder, is_url
from training.data.formats.shard_index import FACTS, index, rate_of, tag_of
from training.data.formats.stored_spans import StoredSpans, labels_of, of_text
from training.data.types import Numbers, SkeletonSequence, remark


def expand(pattern: str) -> list[str]:
    """The names of a pattern: {000..012} counts with leading zeros, {a,b} lists, '::' joins patterns.

    Raises:
        TrainingError: a brace is not closed or holds neither.
    """
    if "::" in pattern:
        return [name for part in pattern.split("::") for name in expand(part)]
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        if set(pattern) & {"{", "}"}:
            raise TrainingError(
                f"{pattern}: its braces do not close; write train-{{000000..000012}}.tar or {{train,val}}.tar"
            )
        return [pattern]
    inner = match.group(1)
    if counted := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        first, last = counted.groups()
        words = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        words = inner.split(",")
    if len(words) < 1 or (len(words) == 1 and not counted):
        raise TrainingError(f"{pattern}: {{{inner}}} names nothing; write {{000000..000012}} or {{train,val}}")
    return [name for word in words for name in expand(pattern[: match.start()] + word + pattern[match.end() :])]


class WebDataset(Format):
    """Samples of plain WebDataset shards.

    Args:
        shards: paths or urls of tar files, patterns such as train-{000000..000012}.tar among them.
        split, where: choose by the split in json, and by an SQL condition over `FACTS` and key.
        entries: what to read of each sample besides the pose; all but scores and poses become its features.
        pose: the entry that is the clip's keypoints.
        layout: the joints' layout, where json does not say it.
        labels: class names by label_id, where json does not say them.
        cache, cache_gb: where the index and pieces of remote shards are kept.
        keep_nobody: whether samples that show nobody are kept, not left out.

    Raises:
        TrainingError: nothing is chosen, or the layout is wrong.
        DatasetError: a shard is absent or torn, or there is no such entry.
    """

    default_entries = ("keypoints", "scores")

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A tar file, a pattern or a list of them, or a folder of tar files."""
        if "{" in path or "::" in path or path.endswith(".tar"):
            return True
        return not is_url(path) and Path(path).is_dir() and next(Path(path).glob("*.tar"), None) is not None

    @classmethod
    def location(cls, path: str) -> list[str]:
        """The shards of a path, sorted."""
        if not is_url(path) and Path(path).is_dir():
            return sorted(map(str, Path(path).glob("*.tar")))
        return [path]

    def __init__(
        self,
        shards: Iterable[str],
        split: str | None = None,
        where: str | None = None,
        entries: Sequence[str] = ("keypoints", "scores"),
        pose: str = "keypoints",
        layout: Layout = None,
        labels: Sequence[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        cache_gb: float = 20.0,
        keep_nobody: bool = False,
    ) -> None:
        files = [file for pattern in shards for file in expand(os.fspath(pattern))]
        if not files:
            raise TrainingError("no shards were given; name at least one tar file")
        if pose not in POSES:
            raise TrainingError(f"{files[0]}: pose={pose!r}; allowed: {', '.join(POSES)}")
        self.name = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self._pose = pose
        states = [file_state(file) for file in files]
        ranges = Ranges(files, [size for size, _ in states], tag_of(files, states), cache, cache_gb)
        facts = index(ranges, states, Path(cache) if cache else cache_folder())
        optional = {"scores"} if tuple(entries) == ("keypoints", "scores") else set()
        self._columns = self._stored(facts, (pose, *entries), optional)
        facts = facts if keep_nobody else self._with_somebody(facts)
        facts, self.labels = self._labelled(facts, labels)
        said = of_text(facts["spans"])
        rows = choose(self.name, facts.select("key", *FACTS), split, where)
        facts = facts[rows]
        self.keys: Sequence[str] = facts["key"].to_list()
        self.label_ids: Numbers = facts["label_id"].fill_null(-1).to_numpy().astype(np.int64)
        self.columns = {name: facts[name].to_list() for name in FACTS}
        nobody = said.null_count() == len(said)
        self._spans = None if nobody else StoredSpans(self.name, said[rows], labels_of(said))
        if self._spans is not None:
            self.span_labels = self._spans.labels
            self.spans_known, self.spans_proposed = self._spans.known, self._spans.proposed
        self._fps = np.array([rate_of(fps) if fps else np.nan for fps in facts["fps"].to_list()])
        self._size = facts.select(pl.col("width", "height").fill_null(-1)).to_numpy().astype(np.int64)
        places = {
            entry: (
                name,
                facts[f"offset:{name}"].fill_null(-1).to_numpy(),
                facts[f"size:{name}"].fill_null(-1).to_numpy(),
            )
            for entry, name in self._columns.items()
        }
        self._entries = EntryReader(ranges, facts["shard"].to_numpy(), places, self.keys)
        self.skeleton = self._layout(facts, layout)
        self.fingerprint = digest(
            "\n".join(self.keys),
            facts["shard"].to_numpy(),
            joints_text(self.skeleton),
            *facts["content"].unique(maintain_order=True).to_list(),
            *(p for _, *both in places.values() for p in both),
            self.label_ids,
        )

    def _stored(self, facts: pl.DataFrame, entries: Iterable[str], optional: set[str]) -> dict[str, str]:
        """Entry -> its name in the shards."""
        stored = {
            name.removeprefix("offset:").removesuffix(".npy"): name.removeprefix("offset:")
            for name in facts.columns
            if ":" in name
        }
        stored = {entry: name for entry, name in stored.items() if not entry.startswith(("size:", "shape:"))}
        names = {}
        for entry in dict.fromkeys(entries):
            if entry in stored:
                names[entry] = stored[entry]
            elif entry not in optional and not (entry in POSES and entry != self._pose):
                raise DatasetError(f"{self.name}: no sample has the entry {entry!r}{suggestion(entry, stored)}")
        return names

    def _with_somebody(self, facts: pl.DataFrame) -> pl.DataFrame:
        """The table without samples whose poses have no person or no frame."""
        column = f"shape:{self._columns[self._pose]}"
        if column not in facts.columns:
            return facts
        empty = pl.col(column).str.split(",").list.contains("0").fill_null(False)
        nobody, shown = facts.filter(empty), facts.filter(~empty)
        if len(nobody):
            remark(
                f"{self.name}: {len(nobody)} of {len(facts)} samples show nobody and are left out, for example "
                f"{nobody['key'][0]!r}"
            )
        return shown

    def _labelled(self, facts: pl.DataFrame, labels: Sequence[str] | None) -> tuple[pl.DataFrame, tuple[str, ...]]:
        """The table with label and label_id made complete from each other, and the class names."""
        if facts["label_id"].null_count() == len(facts) and facts["label"].null_count() < len(facts):
            names = sorted(set(facts["label"].drop_nulls().to_list())) if labels is None else list(labels)
            if unknown := sorted(set(facts["label"].drop_nulls().to_list()) - set(names)):
                raise TrainingError(f"{self.name}: unknown label {unknown[0]!r}{suggestion(unknown[0], names)}")
            ids = {name: number for number, name in enumerate(names)}
            column = pl.Series("label_id", [ids.get(name) for name in facts["label"].to_list()], dtype=pl.Int64)
            return facts.with_columns(column), tuple(names)
        pairs = dict(facts.select("label_id", "label").drop_nulls().unique().sort("label_id", "label").rows())
        keys = facts["key"].to_list()
        checked_ids(facts["label_id"].fill_null(-1).to_list(), lambda k: f"{self.name}: label_id of {keys[k]}")
        highest = facts["label_id"].max()
        count = 0 if highest is None else int(highest) + 1  # type: ignore[arg-type]
        return facts, names_of(count, labels or [pairs.get(k, str(k)) for k in range(count)], self.name)

    def _layout(self, facts: pl.DataFrame, layout: Layout) -> Skeleton:
        """`layout`, or else the joints or the layout that the samples name; all samples are of the same joints."""
        self._check_alike(facts)
        number = self._entries.read(np.zeros(1, np.int64))[self._pose][0].shape[2]
        joints = (facts["joints"].drop_nulls().head(1).to_list() or [""])[0].split("\n")
        named: str | None = (facts["skeleton"].drop_nulls().head(1).to_list() or [None])[0]
        by_name = joints != [""] and (named not in SKELETONS or SKELETONS[named].joints != tuple(joints))
        return layout_of(layout or (None if by_name else named), number, self.name, joints if by_name else ())

    def _check_alike(self, facts: pl.DataFrame) -> None:
        """Raises TrainingError where samples differ in what their joints are, or in joints or coordinates of poses."""
        for column, what in (("skeleton", "skeletons"), ("joints", "joints or orders of joints")):
            found = facts.select("key", column).drop_nulls().unique(column, maintain_order=True)
            if len(found) > 1:
                hint = f" = '{found[column][0]}'" if column == "skeleton" else " = ..."
                raise TrainingError(
                    f"{self.name}: samples of different {what}, such as {found['key'][0]!r} and {found['key'][1]!r}; "
                    f'choose those of one with where="skeleton{hint}", or keep each kind in shards of its own'
                )
        column = f"shape:{self._columns[self._pose]}"
        shapes = facts.select("key", column).drop_nulls() if column in facts.columns else facts.clear().select("key")
        axes_of = [shape.split(",") for shape in shapes[column].to_list()] if len(shapes) else []
        for key, axes in zip(shapes["key"], axes_of):
            if len(axes) != 4:
                raise TrainingError(
                    f"{self.name}: {self._pose} of {key!r} is of shape ({', '.join(axes)}); allowed: (M, T, V, C), "
                    "people, frames, joints, coordinates"
                )
        last = [axes[-2:] for axes in axes_of]
        if other := next((n for n, axes in enumerate(last) if axes != last[0]), None):
            raise TrainingError(
                f"{self.name}: {shapes['key'][0]!r} has {' joints of '.join(last[0])} coordinates, "
                f"{shapes['key'][other]!r} {' joints of '.join(last[other])}; keep each kind in shards of its own"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order; arrays are read-only.

        Raises:
            DatasetError: a shard is torn or damaged, or cannot be reached.
        """
        rows = np.asarray(indices, np.int64)
        values = self._entries.read(rows)
        clips = clips_of(values, self._pose, rows, self.keys, self.label_ids, self._size, self._fps)
        clips = [clip if all(clip.keypoints.shape[:2]) else _of_nobody(clip) for clip in clips]
        return clips if self._spans is None else self._spans.given_to(clips, rows.tolist())


def _of_nobody(clip: SkeletonSequence) -> SkeletonSequence:
    """A clip without people or frames as one of one person who is not seen."""
    scores = None if clip.scores is None else at_least_one(clip.scores, 0.0)
    return dataclasses.replace(clip, keypoints=at_least_one(clip.keypoints), scores=scores)
