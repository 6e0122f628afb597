"""What a trained network knows: probes, zero-shot and retrieval of a finished run, beside the floors that figures need.

Each function gives results and leaves pictures in the run's folder; `report` writes both down as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dataengine.errors import TrainingError
from dataengine.storage import write_durably
from training import create_backbone, sides
from training.backbones.base import Backbone
from training.config import DataTable
from training.data import Feed
from training.encode import THREE, Rows, calibrate, encode, joint_weights
from training.evaluate import logistic
from training.evaluate.joints import attention
from training.evaluate.logistic import unit
from training.evaluate.matching import Aid, multiple_choice, retrieval, similarities, through_known, zero_shot
from training.evaluate.metrics import labelled
from training.evaluate.pictures import confusion_matrix, embedding
from training.evaluate.probes import Labelled, few_shot, knn, scored
from training.evaluate.result import Result, plain, table
from training.runs import Run, classifier
from training.sequences import Array, Numbers, Source
from training.wording import Wording, stored_rows, stored_vectors

STRENGTH = 0.3
"""C of the linear probe, fixed beforehand."""
SHOWN = 2000
"""Clips of a picture of the features."""
BATCH = 64


@dataclass
class Report:
    """What was measured, on what.

    Attributes:
        verb: probe, zeroshot or retrieve.
        run: the network.
        data: names of the datasets.
        results: the figures.
        pictures: files that were drawn.
    """

    verb: str
    run: Run
    data: list[str]
    results: list[Result] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verb": self.verb,
            "run": str(self.run.folder),
            "step": self.run.step,
            "finished": self.run.done,
            "trained on": self.run.facts["data"],
            "data": self.data,
            "results": [result.as_dict() for result in self.results],
            "pictures": [str(path) for path in self.pictures],
        }

    def write(self) -> Path:
        """VERB.json in the run's folder."""
        path = self.run.folder / f"{self.verb}.json"
        write_durably(path, (json.dumps(plain(self.to_dict()), indent=1, ensure_ascii=False) + "\n").encode())
        return path

    def text(self) -> str:
        """A table of the results, and where the pictures lie."""
        return table(self.results) + "".join(f"\n{path}" for path in [*self.pictures, self.run.folder / f"{self.verb}.json"])


def side(
    run: Run, data: Sequence[str], val: Sequence[str], which: Literal["train", "val"], split: str | None = None, wants: Sequence[str] = ()
) -> list[Source]:
    """One side to measure on, in the joints that the run's network takes.

    Args:
        run: the network.
        data, val: paths; without any the run's own.
        which: the side.
        split: which clips; default train, or of val and test the one there is; "" all.
        wants: stored features to read.

    Raises:
        TrainingError, DatasetError: nothing is named, or it cannot be opened.
    """
    table = run.config.data
    if data or val:
        used = {"train": list(data) or table.train, "val": list(val), "skeleton": sides.known_layout(run.skeleton)}
        table = DataTable(**used, options=table.options, where=None if data else table.where)  # type: ignore[arg-type]
    if which == "train" or split is not None:
        return sides.open_side(table, which, wants, split)
    found = sides.open_val(table, wants)
    if found is None:
        raise TrainingError(
            f"{', '.join(table.train)}: there are no clips of a split val or test; give --val PATH, or --val-split (--split) NAME"
        )
    return found[0]


def classes_of(*each: Sequence[Source]) -> tuple[str, ...]:
    """The classes of several sides together.

    Raises:
        TrainingError: a side without any labelled clip.
    """
    names = Feed([source for side in each for source in side], shuffle=False).labels
    for side in each:
        if not (sides.label_ids(names, side) >= 0).any():
            raise TrainingError(f"{sides.named(side)}: no clip has a label, and this is measured by labels")
    return names


def features(run: Run, function: Any, side: Sequence[Source], device: Any) -> Rows:
    """(N, D) of a function of the run's network, the mean over three fixed parts of a clip."""
    workers = run.config.run.workers if sum(map(len, side)) > 2000 else 0
    return encode(function, side, run.prepare, run.frames, THREE, BATCH, workers, device)[0]


def probe(
    run: Run,
    train: Sequence[Source],
    test: Sequence[Source],
    shares: Sequence[float] = (),
    seeds: int = 5,
    neighbours: bool = False,
    device: str = "cpu",
    beside: Run | None = None,
) -> Report:
    """A linear probe of frozen features, beside that of a network of the same shape as it was drawn.

    Args:
        run: the network.
        train, test: the two sides.
        shares: of the training labels, each probed `seeds` times on another part of them.
        seeds: how many parts.
        neighbours: whether nearest neighbours are asked, too.
        device: where the network runs.
        beside: another classifier of the same classes, such as one on bones, whose probabilities are added.

    Raises:
        TrainingError: a side without labels, clips that the network does not take, or a second run of other classes.
    """
    names = classes_of(train, test)
    report = Report("probe", run, [source.name for source in (*train, *test)])
    run.method.to(device)
    ids = [sides.label_ids(names, side) for side in (train, test)]
    drawn = drawn_network(run, train, device)
    known, asked = (Labelled(features(run, run.method.embed, side, device), own) for side, own in zip((train, test), ids))
    floor, ceiling = (Labelled(features(run, drawn.features, side, device), own) for side, own in zip((train, test), ids))
    result, scores = _linear(known, asked, len(names))
    report.results.append(result.against(random_network=_linear(floor, ceiling, len(names))[0].value))
    if neighbours:
        report.results.append(knn(known, asked, len(names)).against(random_network=knn(floor, ceiling, len(names)).value))
    if shares:
        some = [few_shot(*pair, len(names), tuple(shares), range(seeds)) for pair in ((known, asked), (floor, ceiling))]
        report.results += [own.against(random_network=other.value) for own, other in zip(*some)]
    told = scores.argmax(1)
    if run.config.classifies and (sides.label_ids(run.labels, test) >= 0).any():
        shown, drawing = classifier(run.backbone, run.prepare, run.frames, run.labels, test, run.folder, device)
        report.results.append(shown)
        report.pictures.append(drawing)
    if beside is not None:
        report.results.append(two_streams(run, beside, test, device))
    picture = "probe_confusion.png" if run.config.classifies else "confusion.png"
    report.pictures.append(confusion_matrix(told, asked.labels, names, run.folder / picture, "linear probe"))
    if len(asked.labels) >= 5:
        report.pictures.append(embedding(asked.features, asked.labels, names, run.folder / "tsne.png", most=SHOWN))
    weights = joint_weights(run.backbone, test, run.prepare, run.frames)
    report.pictures.append(attention(weights, run.skeleton, run.folder / "joints.png", "which joints decide"))
    return report


def two_streams(run: Run, beside: Run, test: Sequence[Source], device: str = "cpu") -> Result:
    """Two classifiers whose probabilities are added, each over three fixed parts of a clip: joints and bones of UNIK (section 4.1).

    Raises:
        TrainingError: one is no classifier, or they were trained on other classes.
    """
    if not (run.config.classifies and beside.config.classifies) or run.labels != beside.labels:
        raise TrainingError(
            f"{run.folder} and {beside.folder} are not two classifiers of the same classes; train both supervised, on one data"
        )
    said = [encode(one.backbone.to(device), test, one.prepare, one.frames, THREE, device=device, softmax=True)[0] for one in (run, beside)]
    return scored(f"classifier and {beside.folder.name}", said[0] + said[1], sides.label_ids(run.labels, test))


def _linear(known: Labelled, asked: Labelled, classes: int) -> tuple[Result, Array]:
    """The probe and its scores (N, K)."""
    scores = logistic.fit(known.features, known.labels, classes, STRENGTH).scores(asked.features)
    more = {"strength": STRENGTH, "training clips": len(known.labels)}
    often = float((asked.labels == np.bincount(known.labels).argmax()).mean())
    return scored("linear probe", scores, asked.labels, **more).against(largest_class=often), scores


def drawn_network(run: Run, train: Sequence[Source], device: Any = "cpu") -> Backbone:
    """A network of the run's shape as it is drawn, the statistics of its norms measured on the training clips."""
    torch.manual_seed(run.config.run.seed + 1)
    made: Any = create_backbone(run.config.backbone.name, 0, run.skeleton, run.channels, **run.config.backbone.options)  # type: ignore[arg-type]
    backbone: Backbone = made.to(device)
    return calibrate(backbone, sides.thinned(train, SHOWN), run.prepare, run.frames, device)


def wording(run: Run, text: str | None, prompts: str | None) -> Wording:
    """Who reads the texts of classes: as in training, unless something else is named.

    Raises:
        TrainingError: the run has no space that texts share, or an unknown name.
    """
    given = run.config.method.options.get("text")
    if not hasattr(run.method, "embed_text") or given is None:
        raise TrainingError(
            f"{run.folder} ({run.config.method.name}) learnt beside no texts and cannot tell which one a motion is near; "
            "train a method that does: dataengine-train pretrain tmor_text"
        )
    own = Wording.of(given)
    return Wording(text or own.encoder, prompts or own.prompts, own.options if text in (None, own.encoder) else {})


def _class_texts(run: Run, names: Sequence[str], said: Wording, side: Sequence[Source], device: Any) -> Array:
    """(K, D) of each class in the space of motions."""
    return _projected(run, said.vectors(names, side), said, device)


def _projected(run: Run, vectors: Array, said: Wording, device: Any) -> Array:
    """(K, D) in the space of motions, of the encoder's (K, P, E): the mean of P texts."""
    learnt = getattr(run.method, "texts", None)
    if isinstance(learnt, Tensor) and vectors.shape[-1] != learnt.shape[-1]:
        raise TrainingError(
            f"{said.encoder} gives {vectors.shape[-1]} numbers a text, the run learnt with {learnt.shape[-1]}: "
            "leave out --text, or name the encoder it learnt with"
        )
    flat = torch.from_numpy(vectors.reshape(-1, vectors.shape[-1])).to(device)
    with torch.no_grad():
        projected: Tensor = run.method.embed_text(flat)  # type: ignore[operator]
    rows = projected.float().cpu().numpy().reshape(len(vectors), -1, projected.shape[-1])
    return unit([unit(part).mean(0) for part in rows])


def stored(said: Wording, fuse: str | None) -> tuple[str, ...]:
    """Stored features that zero-shot reads."""
    return tuple(dict.fromkeys(name for name in (said.stored, fuse, fuse and _text_beside(fuse)) if name))


def sought(run: Run, by: str | None, text: str | None, prompts: str | None) -> tuple[str, ...]:
    """Stored features that retrieval reads."""
    if (by or found_by(run)[0]) == "video":
        return tuple(filter(None, [run.config.method.options.get("video")]))
    return stored(wording(run, text, prompts), None)


def zeroshot(
    run: Run,
    test: Sequence[Source],
    text: str | None = None,
    prompts: str | None = None,
    fuse: str | None = None,
    device: str = "cpu",
) -> Report:
    """Motions named by texts of classes that the network was never trained to tell: the nearest one, and through the known classes.

    Args:
        run: of a method that learnt beside texts.
        test: labelled clips.
        text, prompts: another encoder or set of prompts than in training.
        fuse: a stored video feature, such as viclip_video, whose cosines with the stored viclip_text of the classes are added.
        device: where the network runs.

    Raises:
        TrainingError: the run knows no texts, a side has no labels, or a feature is not there.
    """
    said = wording(run, text, prompts)
    names = classes_of(test)
    ids = sides.label_ids(names, test)
    run.method.to(device)
    rows = features(run, run.method.embed_motion, test, device)
    vectors = said.vectors(names, test)
    texts = _projected(run, vectors, said, device)
    aid = None if fuse is None else _aid(names, test, fuse)
    temperature = float(run.config.method.options.get("temperature", 0.1))
    called = f"{said.encoder}, prompts {said.prompts}"
    results = [zero_shot(rows, ids, texts, aid, temperature, f"zero-shot, {called}")]
    learnt = getattr(run.method, "texts", None)
    if isinstance(learnt, Tensor) and len(learnt) > 1 and said.encoder == wording(run, None, None).encoder:
        known = learnt.float().cpu().numpy()
        mixed = through_known(rows, _projected(run, known[:, None], said, device), known, unit(vectors.mean(1)), temperature)
        results.append(zero_shot(mixed[0], ids, mixed[1], aid, temperature, f"zero-shot through known classes, {called}"))
    report = Report("zeroshot", run, [source.name for source in test], results)
    truth, told = labelled(ids, similarities(rows, texts).argmax(1))
    report.pictures.append(confusion_matrix(told, truth, names, run.folder / "zeroshot_confusion.png", "zero-shot, motion alone"))
    return report


def _aid(names: Sequence[str], test: Sequence[Source], feature: str) -> Aid:
    """Cosines of a stored video feature and the stored texts of the classes, which lie in one space."""
    videos, there = stored_rows(test, feature)
    if not there.all():
        lacking = int((~there).sum())
        raise TrainingError(f"{sides.named(test)}: {lacking} clips have no {feature}; build with [embed] features, or leave out --fuse")
    return Aid(similarities(videos, stored_vectors(names, test, _text_beside(feature))))


def _text_beside(feature: str) -> str:
    return feature.removesuffix("_video") + "_text"


def retrieve(
    run: Run,
    test: Sequence[Source],
    by: str | None = None,
    text: str | None = None,
    prompts: str | None = None,
    ways: int = 15,
    seeds: int = 5,
    device: str = "cpu",
) -> Report:
    """Motions found by texts or videos and the other way round; by texts also one of fifteen (MoLang, section 4.4).

    Texts are those of the classes: any clip of the class is right. A video is right for its own clip alone.

    Args:
        run: of a method that learnt beside texts or videos.
        test: clips, labelled for texts, with the stored feature for videos.
        by: "text" or "video"; default text where the run knows texts.
        text, prompts: another encoder or set of prompts than in training.
        ways: choices of a question; at most the number of classes.
        seeds: sets of questions.
        device: where the network runs.

    Raises:
        TrainingError: the run does not share a space with these, or the clips have nothing to be found by.
    """
    by = by or found_by(run)[0]
    if by not in found_by(run):
        raise TrainingError(f"{run.folder} finds motions by {' and '.join(found_by(run))}; given {by!r}")
    report = Report("retrieve", run, [source.name for source in test])
    run.method.to(device)
    rows = features(run, run.method.embed_motion, test, device)
    report.results = _by_video(run, rows, test, device) if by == "video" else []
    if by == "text":
        names = classes_of(test)
        texts = _class_texts(run, names, wording(run, text, prompts), test, device)
        report.results = _by_text(rows, sides.label_ids(names, test), texts, ways, range(seeds))
    return report


def found_by(run: Run) -> list[str]:
    """What else lies in the space of the run's motions: text, video.

    Raises:
        TrainingError: nothing does.
    """
    options = run.config.method.options
    found = [name for name in ("text", "video") if hasattr(run.method, f"embed_{name}") and options.get(name)]
    if not found:
        raise TrainingError(
            f"{run.folder} ({run.config.method.name}) learnt beside neither texts nor videos, and finds nothing by them; "
            "train a method that does: dataengine-train pretrain tmor, or tmor_text"
        )
    return found


def _by_text(rows: Array, ids: Numbers, texts: Array, ways: int, seeds: Sequence[int]) -> list[Result]:
    truth, motions = labelled(ids, rows)
    here = np.unique(truth)
    found = [
        retrieval(motions, texts[here], truth, here, name="motion to text"),
        retrieval(texts[here], motions, here, truth, name="text to motion"),
    ]
    if len(here) >= 2:
        asked, among = np.searchsorted(here, truth), min(ways, len(here))
        found += [multiple_choice(motions, asked, texts[here], among, seeds, way) for way in ("text to motion", "motion to text")]
    return found


def _by_video(run: Run, rows: Array, test: Sequence[Source], device: Any) -> list[Result]:
    stored, there = stored_rows(test, run.config.method.options["video"])
    with torch.no_grad():
        videos: Tensor = run.method.embed_video(torch.from_numpy(stored[there]).to(device))  # type: ignore[operator]
    seen, motions = videos.float().cpu().numpy(), rows[there]
    return [retrieval(motions, seen, name="motion to video"), retrieval(seen, motions, name="video to motion")]
