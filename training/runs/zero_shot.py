"""Zero-shot and retrieval of a finished run: motions named by texts of new classes, and found by texts and videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers, SkeletonDataset
from training.evaluate.logistic import unit
from training.evaluate.metrics import labelled
from training.evaluate.plots import confusion_matrix
from training.evaluate.result import Result
from training.evaluate.retrieval import (
    ExtraScores,
    conse,
    multiple_choice,
    retrieval,
    similarities,
    zero_shot,
)
from training.runs import splits
from training.runs.class_text import ClassText, stored_rows, stored_vectors
from training.runs.measures import configurations_with_texts
from training.runs.report import Report, classes_of, features_of
from training.runs.run import Run


def class_text(run: Run, text: str | None, prompts: str | None) -> ClassText:
    """The encoder and prompts of class texts: those of the training, unless others are named.

    Raises:
        TrainingError: the run has no space that texts share, or an unknown name.
    """
    reads = run.method.reads_texts
    trained_with = next(iter((run.needs.text_networks if reads else run.needs.texts).values()), None)
    if "text" not in run.method.modalities or trained_with is None:
        raise TrainingError(
            f"{run.folder} ({run.config.method.name}) learnt beside no texts and cannot tell which one a motion is "
            "near; "
            f"train a method that does: dataengine-train pretrain NAME of {', '.join(configurations_with_texts())}"
        )
    own = ClassText.of(trained_with, trained=reads)
    if reads and text not in (None, own.encoder):
        raise TrainingError(
            f"{run.folder} learnt its own text encoder, from {own.encoder}, and reads texts with no other: leave out "
            "--text"
        )
    options = own.options if text in (None, own.encoder) else {}
    return ClassText(text or own.encoder, prompts or own.prompts, options)


def _classes(run: Run, names: Sequence[str], test: Sequence[SkeletonDataset], texts: ClassText, device: Any) -> Array:
    """(K, D) of classes in the space of motions: the mean of the texts of each."""
    if not run.method.reads_texts:
        return _projected(run, texts.vectors(names, test), texts, device)
    written = texts.texts(names)
    rows = run.method.embed_texts([text for each in written for text in each]).float().cpu().numpy()
    ends = np.cumsum([len(each) for each in written])
    return unit([unit(part).mean(0) for part in np.split(rows, ends[:-1])])


def _projected(run: Run, vectors: Array, texts: ClassText, device: Any) -> Array:
    """(K, D) of classes in the space of motions, of vectors (K, P, E): the mean of the P texts of each class."""
    learnt = run.method.class_texts
    if learnt is not None and vectors.shape[-1] != learnt.shape[-1]:
        raise TrainingError(
            f"{texts.encoder} gives {vectors.shape[-1]} numbers a text, the run learnt with {learnt.shape[-1]}: "
            "leave out --text, or name the encoder it learnt with"
        )
    flat = torch.from_numpy(vectors.reshape(-1, vectors.shape[-1])).to(device)
    with torch.no_grad():
        projected = run.method.embed_text(flat)
    rows = projected.float().cpu().numpy().reshape(len(vectors), -1, projected.shape[-1])
    return unit([unit(part).mean(0) for part in rows])


def zeroshot_features(texts: ClassText, fuse: str | None) -> tuple[str, ...]:
    """Stored features that zero-shot reads."""
    names = (texts.stored, fuse, None if fuse is None else _text_feature(fuse))
    return tuple(dict.fromkeys(name for name in names if name))


def retrieval_features(run: Run, by: str | None, text: str | None, prompts: str | None) -> tuple[str, ...]:
    """Stored features that retrieval reads."""
    if (by or searchable_by(run)[0]) == "video":
        return tuple(filter(None, [run.method.video_feature]))
    return zeroshot_features(class_text(run, text, prompts), None)


def zeroshot(
    run: Run,
    test: Sequence[SkeletonDataset],
    text: str | None = None,
    prompts: str | None = None,
    fuse: str | None = None,
    device: str = "cpu",
) -> Report:
    """Motions named by texts of classes.

    Zero-shot are classes without a training clip; see `_by_novelty` for what is said where others are measured, too.
    The first way is the nearest text. Two more are better where classes are new to the network: through the known
    classes, and, for a network with one projector for texts and videos, where videos of the class would lie.

    Args:
        run: of a method that learnt beside texts.
        test: labelled clips.
        text, prompts: another encoder or set of prompts than in training.
        fuse: a stored video feature, for example viclip_video, whose cosines with the stored viclip_text of the
            classes are added.
        device: where the network runs.

    Raises:
        TrainingError: the run knows no texts, no clip has a label, or a feature is not there.
    """
    texts = class_text(run, text, prompts)
    names = classes_of(test)
    ids = splits.label_ids(names, test)
    run.method.to(device)
    rows = features_of(run, run.method.embed_motion, test, device)
    extra = None if fuse is None else _video_scores(names, test, fuse)
    comparisons = [("", rows, _classes(run, names, test, texts, device))]
    if not run.method.reads_texts:
        comparisons += _other_ways(run, rows, texts.vectors(names, test), texts, device)
    suffix = f"{texts.encoder}, prompts {texts.prompts}"
    report = Report("zeroshot", run, test)
    seen = np.isin(names, list(run.facts.get("seen", run.labels)))
    for how, motions, classes in comparisons:
        named = _Named(motions, ids, classes, extra, run.method.temperature, splits.groups_of(test))
        report.results += _by_novelty(named, seen, how, suffix)
    truth, predictions = labelled(ids, similarities(rows, comparisons[0][2]).argmax(1))
    report.folder.mkdir(parents=True, exist_ok=True)
    plot = report.folder / "zeroshot_confusion.png"
    report.plots.append(confusion_matrix(predictions, truth, names, plot, "motion alone"))
    return report


def text_margins(run: Run, clips: Sequence[SkeletonDataset], device: Any = "cpu") -> Array:
    """(N,) cosine of each motion and the texts of its label, less that of the best other label; NaN without a label.

    Raises:
        TrainingError: the run knows no texts, or fewer than two labels are given.
    """
    texts, names = class_text(run, None, None), classes_of(clips)
    if len(names) < 2:
        raise TrainingError(
            f"{splits.names_of(clips)}: {len(names)} labels; motions are compared with the texts of two"
        )
    ids = splits.label_ids(names, clips)
    run.method.to(device)
    rows = features_of(run, run.method.embed_motion, clips, device)
    found = np.array(similarities(rows, _classes(run, names, clips, texts, device)), np.float64)
    every, own = np.arange(len(ids)), np.maximum(ids, 0)
    cosine = found[every, own]
    found[every, own] = -np.inf
    return np.where(ids >= 0, cosine - found.max(1), np.nan)


@dataclass(frozen=True)
class _Named:
    """Motions (N, D) with labels (N,) and texts of classes (K, D), the scores of another modality, and who was
    filmed."""

    motions: Array
    labels: Numbers
    classes: Array
    extra: ExtraScores | None
    temperature: float
    groups: Sequence[str] | None

    def result(self, name: str) -> Result:
        """Top-1 of all clips among all classes."""
        return zero_shot(
            self.motions, self.labels, self.classes, self.extra, self.temperature, name, groups=self.groups
        )

    def clips_of(self, chosen: Any) -> _Named:
        """The clips of the classes (K,) bool; those of others have no label."""
        kept = np.append(chosen, False)[self.labels]
        return dataclasses.replace(self, labels=np.where(kept, self.labels, -1))

    def among(self, chosen: Any) -> _Named:
        """The clips of these classes, named by their texts alone."""
        numbers = np.append(np.where(chosen, np.cumsum(chosen) - 1, -1), -1)
        extra = self.extra
        if extra is not None:
            extra = dataclasses.replace(extra, scores=np.asarray(extra.scores)[:, chosen])
        return dataclasses.replace(self, labels=numbers[self.labels], classes=self.classes[chosen], extra=extra)


def _by_novelty(named: _Named, seen: Any, how: str, suffix: str) -> list[Result]:
    """Figures of classes that the network learnt from, and of those that are new to it, apart.

    Where both are measured, the second figure is the harmonic mean of the mean class accuracies of both, each among the
    texts of all classes (generalised zero-shot; Xian et al. 2018, Zero-Shot Learning - A Comprehensive Evaluation,
    section 4).

    Args:
        named: the clips.
        seen: (K,) bool, the classes with training clips.
        how: the way of naming.
        suffix: of the names of results.
    """
    present = np.isin(np.arange(len(seen)), named.labels)
    if not (present & ~seen).any():
        return [named.result(f"seen classes by text{how}, {suffix}")]
    new = named.among(~seen).result(f"zero-shot, unseen classes{how}, {suffix}")
    if not (present & seen).any():
        return [new]
    parts = {
        name: float(named.clips_of(chosen).result(name).details["mean class accuracy"])
        for name, chosen in (("seen", seen), ("unseen", ~seen))
    }
    total = sum(parts.values())
    mean = 2 * parts["seen"] * parts["unseen"] / total if total else 0.0
    details = {**parts, "clips": int((named.labels >= 0).sum()), "classes": len(seen)}
    general = Result(f"generalised zero-shot{how}, {suffix}", "harmonic mean", mean, baselines=parts, details=details)
    return [new, general]


def _other_ways(run: Run, rows: Array, vectors: Array, texts: ClassText, device: Any) -> list[tuple[str, Array, Array]]:
    """Further ways to name motions (N, D) by vectors (K, P, E) of texts: (name of the way, motions, classes)."""
    learnt = run.method.class_texts
    if learnt is None or len(learnt) < 2 or texts.encoder != class_text(run, None, None).encoder:
        return []
    known_classes, classes = learnt.float().cpu().numpy(), unit(vectors.mean(1))
    projected = _projected(run, known_classes[:, None], texts, device)
    pair = conse(rows, projected, known_classes, classes, run.method.temperature)
    comparisons = [(" through known classes", *pair)]
    if run.method.has_classes_by_video:
        with torch.no_grad():
            videos, mean = run.method.classes_by_video(torch.from_numpy(classes).float().to(device))
        comparisons.append((" by video", rows - mean.float().cpu().numpy(), videos.float().cpu().numpy()))
    return comparisons


def _video_scores(names: Sequence[str], test: Sequence[SkeletonDataset], feature: str) -> ExtraScores:
    """Cosines of a stored video feature and the stored texts of the classes, which share a space."""
    videos, present = stored_rows(test, feature)
    if not present.all():
        raise TrainingError(
            f"{splits.names_of(test)}: {int((~present).sum())} clips have no {feature}; "
            "build with [embed] features, or leave out --fuse"
        )
    return ExtraScores(similarities(videos, stored_vectors(names, test, _text_feature(feature))))


def _text_feature(video_feature: str) -> str:
    """The stored text feature in the space of a stored video feature."""
    return video_feature.removesuffix("_video") + "_text"


def retrieve(
    run: Run,
    test: Sequence[SkeletonDataset],
    by: str | None = None,
    text: str | None = None,
    prompts: str | None = None,
    ways: int = 15,
    seeds: int = 5,
    device: str = "cpu",
) -> Report:
    """Motions found by texts or videos, and the other way round; by texts also one of fifteen (MoLang, section 4.4).

    Texts are those of the classes: any clip of the class is relevant. For a video only its own clip is relevant.

    Args:
        run: of a method that learnt beside texts or videos.
        test: clips, labelled for texts, with the stored feature for videos.
        by: "text" or "video". Default: text where the run knows texts.
        text, prompts: another encoder or set of prompts than in training.
        ways: choices per question; at most the number of classes.
        seeds: sets of questions.
        device: where the network runs.

    Raises:
        TrainingError: the run does not share a space with these, or the clips lack labels or the feature.
    """
    by = by or searchable_by(run)[0]
    if by not in searchable_by(run):
        raise TrainingError(f"{run.folder} finds motions by {' and '.join(searchable_by(run))}; given {by!r}")
    report = Report("retrieve", run, test)
    run.method.to(device)
    rows = features_of(run, run.method.embed_motion, test, device)
    report.results = _by_video(run, rows, test, device) if by == "video" else []
    if by == "text":
        names = classes_of(test)
        texts = class_text(run, text, prompts)
        classes = _classes(run, names, test, texts, device)
        report.results = _by_text(rows, splits.label_ids(names, test), classes, ways, range(seeds))
    return report


def searchable_by(run: Run) -> tuple[str, ...]:
    """What shares the space of the run's motions: "text", "video".

    Raises:
        TrainingError: nothing does.
    """
    if not run.method.modalities:
        raise TrainingError(
            f"{run.folder} ({run.config.method.name}) learnt beside neither texts nor videos, and finds nothing by "
            "them; "
            f"train a method that does: dataengine-train pretrain NAME of {', '.join(configurations_with_texts(True))}"
        )
    return run.method.modalities


def _by_text(rows: Array, ids: Numbers, texts: Array, ways: int, seeds: Sequence[int]) -> list[Result]:
    truth, motions = labelled(ids, rows)
    present = np.unique(truth)
    results = [
        retrieval(motions, texts[present], truth, present, name="motion to text"),
        retrieval(texts[present], motions, present, truth, name="text to motion"),
    ]
    if len(present) >= 2:
        labels, choices = np.searchsorted(present, truth), min(ways, len(present))
        for direction in ("text to motion", "motion to text"):
            results.append(multiple_choice(motions, labels, texts[present], choices, seeds, direction))
    return results


def _by_video(run: Run, rows: Array, test: Sequence[SkeletonDataset], device: Any) -> list[Result]:
    assert run.method.video_feature is not None
    stored, present = stored_rows(test, run.method.video_feature)
    with torch.no_grad():
        embedded: Tensor = run.method.embed_video(torch.from_numpy(stored[present]).to(device))
    videos, motions = embedded.float().cpu().numpy(), rows[present]
    return [retrieval(motions, videos, name="motion to video"), retrieval(videos, motions, name="video to motion")]
