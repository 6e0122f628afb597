"""Motions named by texts they were never trained with, and found by texts and videos: zero-shot and retrieval of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers, Source
from training.evaluate.logistic import unit
from training.evaluate.metrics import labelled
from training.evaluate.plots import confusion_matrix
from training.evaluate.result import Result
from training.evaluate.retrieval import Aid, multiple_choice, retrieval, similarities, through_known, zero_shot
from training.methods.tmor import TMOR
from training.runs import splits as sides
from training.runs.class_text import Wording, stored_rows, stored_vectors
from training.runs.probe import Report, classes_of, features
from training.runs.train import Run


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
    """Motions named by texts of classes that the network was never trained to tell.

    The nearest text, and what is better where classes are new to it: through the known classes, and, of a network that learnt
    texts and videos by one projector, where the class's videos would lie.

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
    aid = None if fuse is None else _aid(names, test, fuse)
    temperature = float(run.config.method.options.get("temperature", 0.1))
    read = _readings(run, rows, vectors, said, temperature, device)
    called = f"{said.encoder}, prompts {said.prompts}"
    results = [
        zero_shot(motions, ids, classes, aid, temperature, f"zero-shot{how}, {called}")
        for how, motions, classes in read
    ]
    report = Report("zeroshot", run, [source.name for source in test], sides.facts(test), results)
    truth, told = labelled(ids, similarities(rows, read[0][2]).argmax(1))
    report.pictures.append(
        confusion_matrix(told, truth, names, run.folder / "zeroshot_confusion.png", "zero-shot, motion alone")
    )
    return report


def _readings(
    run: Run, rows: Array, vectors: Array, said: Wording, temperature: float, device: Any
) -> list[tuple[str, Array, Array]]:
    """(how, motions, classes): what can be compared to name motions (N, D) by the encoder's texts (K, P, E) of classes."""
    found = [("", rows, _projected(run, vectors, said, device))]
    learnt = getattr(run.method, "texts", None)
    if not isinstance(learnt, Tensor) or len(learnt) < 2 or said.encoder != wording(run, None, None).encoder:
        return found
    known, asked = learnt.float().cpu().numpy(), unit(vectors.mean(1))
    found.append(
        (
            " through known classes",
            *through_known(rows, _projected(run, known[:, None], said, device), known, asked, temperature),
        )
    )
    if isinstance(run.method, TMOR) and run.method.by_video:
        with torch.no_grad():
            classes, middle = run.method.classes_by_video(torch.from_numpy(asked).float().to(device))
        found.append((" by video", rows - middle.float().cpu().numpy(), classes.float().cpu().numpy()))
    return found


def _aid(names: Sequence[str], test: Sequence[Source], feature: str) -> Aid:
    """Cosines of a stored video feature and the stored texts of the classes, which lie in one space."""
    videos, there = stored_rows(test, feature)
    if not there.all():
        lacking = int((~there).sum())
        raise TrainingError(
            f"{sides.named(test)}: {lacking} clips have no {feature}; build with [embed] features, or leave out --fuse"
        )
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
    report = Report("retrieve", run, [source.name for source in test], sides.facts(test))
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
        found += [
            multiple_choice(motions, asked, texts[here], among, seeds, way)
            for way in ("text to motion", "motion to text")
        ]
    return found


def _by_video(run: Run, rows: Array, test: Sequence[Source], device: Any) -> list[Result]:
    stored, there = stored_rows(test, run.config.method.options["video"])
    with torch.no_grad():
        videos: Tensor = run.method.embed_video(torch.from_numpy(stored[there]).to(device))  # type: ignore[operator]
    seen, motions = videos.float().cpu().numpy(), rows[there]
    return [retrieval(motions, seen, name="motion to video"), retrieval(seen, motions, name="video to motion")]
