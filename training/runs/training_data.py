"""What a run learns from and is measured on, opened and compared before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.config import Config
from training.data.formats.joints import in_joints_of
from training.data.loader import DataLoader
from training.data.spans import joined_span_labels
from training.data.subsets import label_subset, with_spans
from training.data.types import SkeletonDataset
from training.methods.base import Needs
from training.runs import splits
from training.runs.learnable import check_learnable, tell_of_unseen
from training.runs.overlap import tell_of_overlap
from training.runs.run import skeleton_of, start_file, type_of
from training.transforms import prepared
from training.transforms.preprocess import Preprocess


@dataclass(frozen=True)
class TrainingData:
    """Data of a run, all in the same joints.

    Attributes:
        learnt: what is learnt from, at least one.
        val: what is measured on; empty where there is nothing.
        val_split: the split that `val` was taken from.
        labels: names of the classes that are learnt: of clips, or of spans where frames are told apart.
        start: the file whose weights the run begins with.
    """

    learnt: Sequence[SkeletonDataset]
    val: Sequence[SkeletonDataset]
    val_split: str
    labels: Sequence[str]
    start: Path | None

    def prepared(self, preprocess: Preprocess, cache: prepared.ClipCache | None) -> TrainingData:
        """The same data, each clip preprocessed once."""
        learnt, val = (prepared.prepared(part, preprocess, cache) for part in (self.learnt, self.val))
        return dataclasses.replace(self, learnt=learnt, val=val)


def open_data(config: Config, needs: Needs, texts: Sequence[str] = ()) -> TrainingData:
    """The data of a configuration.

    Args:
        config: the configuration.
        needs: of its method.
        texts: stored features that are read with each clip beside those that the method needs.

    Raises:
        TrainingError: the data cannot be learnt from, or their joints are not those of the weights to begin with.
        DataEngineError: they cannot be opened.
    """
    learnt = splits.open_split(config.data, "train", (*needs.features, *texts), without=needs.without)
    if config.data.label_fraction is not None:
        learnt = label_subset(learnt, config.data.label_fraction, config.run.seed)
    shown = needs.features if "measures" in type_of(config).probes else ()
    validation = splits.open_validation(config.data, shown, needs.without)
    val, val_split = validation or ([], config.data.val_split)
    start = None if config.run.start is None else start_file(config.run.start)
    joints = (None if start is None else skeleton_of(start)) or learnt[0].skeleton
    if start is not None:
        learnt = [in_joints_of(dataset, joints) for dataset in learnt]
    val = [in_joints_of(dataset, joints) for dataset in val]
    learnt = with_spans(learnt) if needs.spans else learnt
    spans = joined_span_labels(learnt) if needs.spans else ()
    check_learnable(learnt, needs.labels, config.method.name)
    tell_of_overlap(learnt, val, f"split {val_split!r}")
    if not needs.spans:
        tell_of_unseen(learnt, val, f"split {val_split!r}")
    return TrainingData(learnt, val, val_split, spans or DataLoader(learnt, shuffle=False).labels, start)
