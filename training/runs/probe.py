"""What a trained network knows: probes of a finished run, beside the baselines that figures need.

Each function gives results, and leaves plots in the folder of the report.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from dataengine.core.progress import Progress
from training.data.formats.joints import in_joints_of
from training.data.rgb import is_pictures
from training.data.subsets import check_amounts, random_subset
from training.data.types import Array, SkeletonDataset
from training.evaluate import logistic
from training.evaluate.figures import figures
from training.evaluate.joints import draw_attention
from training.evaluate.plots import confusion_matrix, embedding
from training.evaluate.probes import LabelledFeatures, classification_result, few_shot, knn
from training.evaluate.result import Result
from training.runs import splits
from training.runs.evaluation import evaluate_classifier, per_class
from training.runs.features import joint_weights
from training.runs.floors import Floors
from training.runs.fuse import Clips, fuse
from training.runs.learnable import tell_of_unseen
from training.runs.overlap import tell_of_overlap
from training.runs.report import Report, classes_of, features_of
from training.runs.run import Run
from training.transforms.preprocess import Preprocess

STRENGTH = 0.3
"""C of the linear probe, fixed in advance."""
POSED = 16
"""Clips whose mean pose says what is up."""
MAX_CLIPS = 2000
"""Most clips in a plot of features."""


Labelled: TypeAlias = tuple[LabelledFeatures, LabelledFeatures]
"""Features of what is learnt from and of what is measured on."""


def probe(
    run: Run,
    train: Sequence[SkeletonDataset],
    test: Sequence[SkeletonDataset],
    fractions: Sequence[float] = (),
    seeds: int = 5,
    neighbours: bool = False,
    device: str = "cpu",
    second: Run | None = None,
    progress: Progress | None = None,
    floors: bool = True,
    blocks: bool = False,
) -> Report:
    """A linear probe of frozen features, beside its floors.

    Args:
        run: the network.
        train, test: the two splits.
        fractions: of the training labels; each is probed on `seeds` subsets.
        seeds: how many subsets.
        neighbours: whether nearest neighbours are measured too.
        device: where the network runs.
        second: another classifier of the same classes, for example one on bones, whose probabilities are added.
        progress: what tells how far the work is. Default: nothing does.
        floors: whether figures are given beside `training.runs.floors`.
        blocks: whether features of several blocks (see `training.backbones.base.Backbone.block_features`) are probed
            beside the plain ones.

    Raises:
        TrainingError: a fraction out of its range, a split without labels, clips that the network does not take, or a
            second run of other classes.
    """
    check_amounts(fractions)
    names = classes_of(train, test)
    tell_of_overlap(train, test, "the clips that are measured on")
    tell_of_unseen(train, test, "the clips that are measured on")
    report = Report("probe", run, test, train)
    report.folder.mkdir(parents=True, exist_ok=True)
    run.method.to(device)
    progress = progress or Progress()
    own = floors_of(run, names, train, test, device, progress) if floors else None

    def learnt_by(function: Any) -> Labelled:
        total = sum(len(dataset) for dataset in (*train, *test))
        with progress.step("features", total, "clips") as advance:
            rows = [features_of(run, function, split, device, advance) for split in (train, test)]
        ids, groups = zip(*((splits.label_ids(names, split), splits.groups_of(split)) for split in (train, test)))
        return LabelledFeatures(rows[0], ids[0], groups[0]), LabelledFeatures(rows[1], ids[1], groups[1])

    learnt = learnt_by(run.method.embed)
    amounts = (tuple(fractions), range(seeds))
    results, scores = _probes(run, learnt, names, neighbours, amounts, own, False)
    report.results += results
    if blocks:
        report.results += _probes(run, learnt_by(run.backbone.block_features), names, neighbours, amounts, own, True)[0]
    if run.config.classifies and (splits.label_ids(run.labels, test) >= 0).any():
        figure, plot = evaluate_classifier(
            run.backbone, run.preprocess, run.config, run.labels, test, report.folder, device, run.cache
        )
        # of classes that the run knows: floors of the probe's classes are its own only where these are the same
        report.results.append(own.beside(figure) if own is not None and names == tuple(run.labels) else figure)
        report.plots.append(plot)
    if second is not None:
        clips = Clips([test, [in_joints_of(part, second.skeleton) for part in test]])
        both = fuse([run, second], clips, device=device)[0].results[-1]
        report.results.append(own.beside(both) if own is not None and names == tuple(run.labels) else both)
    report.plots.append(figures(report.results, report.folder / "figures.png", run.config.run.name))
    _draw_plots(report, learnt[1], scores.argmax(1), names, test)
    return report


def _probes(
    run: Run,
    learnt: Labelled,
    names: Sequence[str],
    neighbours: bool,
    few: tuple[Sequence[float], Sequence[int]],
    own: Floors | None,
    blocks: bool,
) -> tuple[list[Result], Array]:
    """The probes of one kind of features, and the scores (N, K) of that with all labels.

    Args:
        run, names, neighbours: as `probe`.
        learnt: features of both splits.
        few: fractions of the labels, and the seeds of their subsets.
        own: the floors.
        blocks: whether the features are those of several blocks, which the names of the results say.
    """
    result, scores = _linear(*learnt, len(names))
    details = {**result.details, "per class": per_class(scores.argmax(1), learnt[1].labels, names)}
    result = dataclasses.replace(result, details=details)
    found = [result if own is None else own.beside(result, blocks=blocks)]
    if neighbours:
        result = knn(*learnt, len(names))
        found.append(result if own is None else own.beside(result, "knn", blocks))
    if few[0]:
        some = few_shot(*learnt, len(names), *few)
        found += _told_of_labels(run, some if own is None else own.beside_few(some, *few, blocks), few[0])
    if blocks:
        found = [dataclasses.replace(result, name=f"{result.name}, several blocks") for result in found]
    return found, scores


def _draw_plots(
    report: Report, test: LabelledFeatures, predictions: Array, names: Sequence[str], split: Sequence[SkeletonDataset]
) -> None:
    """Confusion matrix, features in the plane, and the joints that decide."""
    run, folder = report.run, report.folder
    name = "probe_confusion.png" if run.config.classifies else "confusion.png"
    report.plots.append(confusion_matrix(predictions, test.labels, names, folder / name, "linear probe"))
    if len(test.labels) >= 5:
        report.plots.append(embedding(test.features, test.labels, names, folder / "tsne.png", most=MAX_CLIPS))
    if is_pictures(run.skeleton):
        return
    weights = joint_weights(run.backbone, split, run.preprocess, run.frames, seen=run.method.seen)
    heights = mean_heights(run.preprocess, split)
    report.plots.append(
        draw_attention(weights, run.skeleton, folder / "joints.png", "which joints decide", heights=heights)
    )


def _told_of_labels(run: Run, results: Sequence[Result], fractions: Sequence[float]) -> list[Result]:
    """Results of few labels; where the network itself learnt from more, their names and a warning say so."""
    own = run.config.data.label_fraction or 1.0
    if not run.needs.labels or own <= min(fractions):
        return list(results)
    shown = f"{100 * own:g} %"
    warnings.warn(
        f"{run.folder} was trained with the labels of {'all' if own == 1 else shown} of its clips: a probe of "
        f"{100 * min(fractions):g} % of the labels on it is no figure of few labels; train with data.label_fraction, "
        "or without labels",
        stacklevel=3,
    )
    return [dataclasses.replace(result, name=f"{result.name}, network with {shown}") for result in results]


def mean_heights(preprocess: Preprocess, split: Sequence[SkeletonDataset]) -> Array:
    """(V,) mean height of each joint over some clips: up the picture, or along the upright axis in space."""
    clips = [clip for part in random_subset(split, POSED) for clip in part.read(range(len(part)))]
    poses = [preprocess.joints(clip)[0] for clip in clips]
    axes = poses[0].shape[-1] - preprocess.score
    axis, sign = (1, -1.0) if axes < 3 else ("xyz".index(preprocess.up), 1.0)
    heights: Array = sign * np.mean([pose[..., axis].mean(0) for pose in poses], axis=0)
    return heights


def _linear(train: LabelledFeatures, test: LabelledFeatures, classes: int) -> tuple[Result, Array]:
    """The linear probe and its scores (N, K)."""
    scores = logistic.fit(train.features, train.labels, classes, STRENGTH).scores(test.features)
    details = {"strength": STRENGTH, "training clips": len(train.labels)}
    largest = float((test.labels == np.bincount(train.labels).argmax()).mean())
    result = classification_result("linear probe", scores, test.labels, groups=test.groups, **details)
    return result.with_baselines(largest_class=largest), scores


def floors_of(
    run: Run,
    names: Sequence[str],
    train: Sequence[SkeletonDataset],
    test: Sequence[SkeletonDataset],
    device: Any = "cpu",
    progress: Progress | None = None,
) -> Floors:
    """The floors of figures of a run's network on two splits, `names` of the classes."""
    return Floors(run.config, run.preprocess, names, train, test, device, run.cache, progress=progress)
