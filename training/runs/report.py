"""The report of an evaluation, and the clips that it is measured on."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from dataengine.core.errors import TrainingError
from dataengine.io.storage import check_place, write_durably
from training.config_tables import DataTable
from training.data.formats.joints import has_names, in_joints_of
from training.data.sampler import joined_labels
from training.data.types import SkeletonDataset, remark
from training.evaluate.result import Result, class_table, plain, table
from training.runs import splits
from training.runs.features import THREE_CROPS, Extracted, Rows, extract, workers_for
from training.runs.learnable import check_coordinates
from training.runs.run import Run

BATCH = 64
"""Clips per forward pass."""
MEASURED = "measured"
"""Folder of a run in which its figures on each data lie."""


@dataclass
class Report:
    """The figures of one evaluation.

    Attributes:
        evaluation: probe, zeroshot or retrieve.
        run: the network.
        test: the clips that are measured on.
        train: the clips that a probe learns from.
        results: the figures.
        plots: files of the plots.
    """

    evaluation: str
    run: Run
    test: Sequence[SkeletonDataset]
    train: Sequence[SkeletonDataset] = ()
    results: list[Result] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)

    @property
    def data(self) -> list[str]:
        """Names of the datasets."""
        return [dataset.name for dataset in (*self.train, *self.test)]

    @property
    def measured_on(self) -> Mapping[str, Any]:
        """See `training.runs.splits.facts`."""
        return splits.facts(self.test)

    @cached_property
    def folder(self) -> Path:
        """Where figures and plots of these data lie: NAME-FINGERPRINT in `measured_in` of the run."""
        own = blake3(splits.facts([*self.train, *self.test])["fingerprint"].encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(self.test[0].name.rstrip("/")).stem)[:40] or "data"
        return measured_in(self.run.folder) / f"{name}-{own}"

    @property
    def path(self) -> Path:
        """EVALUATION.json in `folder`."""
        return self.folder / f"{self.evaluation}.json"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "evaluation": self.evaluation,
            "run": str(self.run.folder),
            "step": self.run.step,
            "finished": self.run.done,
            "trained on": self.run.facts["data"],
            "data": self.data,
            "measured_on": dict(self.measured_on),
            "results": [result.as_dict() for result in self.results],
            "plots": [str(path) for path in self.plots],
        }

    def write(self) -> Path:
        """Write `path`. Figures of the same network on the same clips that were not measured anew stay there."""
        values = plain(self.to_dict())
        new = {(result["name"], result["metric"]) for result in values["results"]}
        values["results"] += [result for result in self._earlier() if (result["name"], result["metric"]) not in new]
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_durably(self.path, (text + "\n").encode())
        return self.path

    def _earlier(self) -> list[dict[str, Any]]:
        """Figures in the file that is there, if they are of this network."""
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            same = held["step"] == self.run.step and held["trained on"] == self.run.facts["data"]
            return list(held["results"]) if same else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def text(self) -> str:
        """Tables of the results and of classes, and the paths of the plots."""
        classes = class_table(self.results)
        return (
            table(self.results)
            + (f"\n{classes}" if classes else "")
            + "".join(f"\n{path}" for path in [*self.plots, self.path])
        )


def measured_in(folder: Path) -> Path:
    """Where figures of a run lie: `MEASURED` in its folder; of a run that is others' and may not be written to, in the
    working directory, under the run's name, with a note."""
    place = folder / MEASURED
    with contextlib.suppress(OSError):
        check_place(place / "x" / "x")
        return place
    where = folder.absolute()
    elsewhere = Path(MEASURED) / f"{where.name}-{blake3(str(where).encode()).hexdigest()[:8]}"
    remark(f"{folder} may not be written to: its figures are written to {elsewhere}")
    return elsewhere


def open_split_of(
    run: Run,
    data: Sequence[str],
    val: Sequence[str],
    which: Literal["train", "val"],
    split: str | None = None,
    features: Sequence[str] = (),
    keep_nobody: bool = False,
) -> list[SkeletonDataset]:
    """Clips to measure on, in the joints that the network of a run takes.

    Args:
        run: the network.
        data, val: paths. Default: those of the run.
        which: the clips to learn from, or the clips to measure on.
        split: "" for all clips. Default: train; or of val and test the one that exists.
        features: stored features to read.
        keep_nobody: whether clips that show nobody are kept by formats that leave them out.

    Raises:
        TrainingError, DatasetError: nothing is named, or it cannot be opened.
    """
    source = own = run.config.data
    if data or val:
        where = None if data else own.where
        source = DataTable(
            train=list(data) or own.train, val=list(val), options=own.options, where=where, format=own.format
        )
    clips = _opened(source, which, split, features, run.needs.without, keep_nobody)
    if own.layout is not None and source is not own and not all(has_names(part.skeleton) for part in clips):
        source = source.model_copy(update={"layout": own.layout})
        clips = _opened(source, which, split, features, run.needs.without, keep_nobody)
    clips = [in_joints_of(part, run.skeleton) for part in clips]
    check_coordinates(clips, run.preprocess, run.data_channels)
    return clips


def _opened(
    source: DataTable,
    which: Literal["train", "val"],
    split: str | None,
    features: Sequence[str],
    without: str,
    keep_nobody: bool,
) -> list[SkeletonDataset]:
    if which == "train" or split is not None:
        return splits.open_split(source, which, features, split, without, keep_nobody)
    validation = splits.open_validation(source, features, without)
    if validation is None:
        raise TrainingError(
            f"{', '.join(source.train)}: there are no clips of a split val or test; "
            "give --val PATH, or --val-split (--split) NAME"
        )
    return validation[0]


def classes_of(*parts: Sequence[SkeletonDataset]) -> tuple[str, ...]:
    """The classes of several splits together.

    Raises:
        TrainingError: a split has no labelled clip.
    """
    names = joined_labels([dataset for part in parts for dataset in part])[0]
    for part in parts:
        if not (splits.label_ids(names, part) >= 0).any():
            raise TrainingError(f"{splits.names_of(part)}: no clip has a label, and this is measured by labels")
    return names


def features_of(
    run: Run,
    function: Any,
    split: Sequence[SkeletonDataset],
    device: Any,
    advance: Callable[[int], None] | None = None,
) -> Rows:
    """(N, D) float32 of a function of the run's network, see `extract_of`."""
    return extract_of(run, function, split, device, advance).rows


def extract_of(
    run: Run,
    function: Any,
    split: Sequence[SkeletonDataset],
    device: Any,
    advance: Callable[[int], None] | None = None,
) -> Extracted:
    """A function of the run's network, the mean over three fixed crops of a clip.

    Args:
        run: the run.
        function: of its network, see `training.runs.features.extract`.
        split: the clips.
        device: where the network runs.
        advance: is given how many clips are done.
    """
    workers = workers_for(split, run.config.run.workers, device)
    return extract(
        function,
        split,
        run.preprocess,
        run.frames,
        THREE_CROPS,
        BATCH,
        workers,
        device,
        advance=advance,
        cache=run.cache,
    )
