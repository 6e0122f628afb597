"""Several trained networks as one: the probabilities of their classes are added, joints with bones and motion, say.

    report = fuse([load_run("runs/joint"), load_run("runs/bone"), load_run("runs/motion")], test)

Adding joints and bones is UNIK's way (section 4.1) and that of 2s-AGCN; four streams are that of MS-G3D and CTR-GCN.
Networks that learnt no classes are fused by the linear probes of their features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError
from dataengine.core.failures import in_one_line
from dataengine.core.progress import Progress
from dataengine.core.types import Bool
from dataengine.io.storage import write_durably
from training.config import Config
from training.data.types import SkeletonDataset
from training.distributed import launched
from training.engine.loop import ProgressCallback
from training.evaluate import logistic
from training.evaluate.metrics import labelled
from training.evaluate.probes import classification_result, over_runs
from training.evaluate.result import Result, plain
from training.runs import splits
from training.runs.classify import class_probabilities
from training.runs.evaluation import per_class
from training.runs.floors import Floors
from training.runs.report import Report, classes_of, extract_of, open_split_of
from training.runs.run import CHECKPOINT, Run, check_no_run, load_run
from training.runs.train import train
from training.transforms.streams import STREAMS

STRENGTH = 0.3
"""C of linear probes, as in `training.runs.probe`."""
SEED = "seed"
"""How folders of the runs of one configuration with several seeds begin."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Clips:
    """What fused networks are measured on.

    Attributes:
        test: for each run the clips, in the joints of the run.
        train: for each run the clips that its probe is fitted on, and floors; may be empty for classifiers.
    """

    test: Sequence[Sequence[SkeletonDataset]]
    train: Sequence[Sequence[SkeletonDataset]] = ()


def fuse(
    runs: Sequence[Run],
    clips: Clips,
    weights: Sequence[float] = (),
    device: str = "cpu",
    progress: Progress | None = None,
    floors: bool = True,
) -> tuple[Report, Scores]:
    """Measure networks one by one and together.

    Args:
        runs: two or more classifiers of the same classes, or networks of any kind, which are probed.
        clips: what is measured on.
        weights: of the networks' probabilities. Default: all alike.
        device: where the networks run.
        progress: what tells how far the work is. Default: nothing does.
        floors: whether the floors of the first run stand beside, where there are clips to learn from.

    Returns:
        The report, which is not written yet, and the probabilities (N, K) of all together, NaN of clips that show no
        pose.

    Raises:
        TrainingError: fewer than two runs, as many weights as runs are not given, runs of other classes or clips.
    """
    runs, weights = list(runs), list(weights) or [1.0] * len(runs)
    classify = [run.config.classifies for run in runs]
    _check(runs, clips, weights, classify)
    first, names = runs[0], names_of(runs, clips)
    total = sum(len(part) for split in (*clips.test, *(() if all(classify) else clips.train)) for part in split)
    with (progress or Progress()).step("fuse", total, "clips") as advance:
        each = [
            _classifier(run, clips.test[n], names, device, advance)
            if all(classify)
            else _probed(run, clips.train[n], clips.test[n], names, device, advance)
            for n, run in enumerate(runs)
        ]
    scored = [scores for scores, _ in each]
    together = sum((w * scores for w, scores in zip(weights, scored)), np.zeros_like(scored[0])) / sum(weights)
    report = Report("fuse", first, clips.test[0], clips.train[0] if clips.train else ())
    ids, groups = splits.label_ids(names, clips.test[0]), splits.groups_of(clips.test[0])
    kind = "classifier" if all(classify) else "linear probe"
    titles = titles_of(runs)
    for title, scores in zip(titles, scored):
        report.results.append(classification_result(f"{kind} {title}", scores, ids, groups=groups))
    truth, said = labelled(ids, together.argmax(1))
    details: dict[str, Any] = {"per class": per_class(said, truth, names), "weights": weights}
    shown = " + ".join(titles) if len(set(weights)) == 1 else _weighted(titles, weights)
    result = classification_result(shown, together, ids, groups=groups, **details)
    if floors and clips.train:
        result = Floors(
            first.config, first.preprocess, names, clips.train[0], clips.test[0], device, first.cache, progress=progress
        ).beside(result)
    report.results.append(result)
    return report, np.where(each[0][1][:, None], together, np.nan)


def names_of(runs: Sequence[Run], clips: Clips) -> tuple[str, ...]:
    """The classes of fused runs: those of the classifiers, or of the clips that are probed."""
    if all(run.config.classifies for run in runs):
        return runs[0].labels
    return classes_of(clips.train[0], clips.test[0])


def learns(runs: Sequence[Run], floors: bool) -> bool:
    """Whether clips to learn from are needed: for floors, and where one of the runs is no classifier."""
    return floors or not all(run.config.classifies for run in runs)


def _weighted(titles: Sequence[str], weights: Sequence[float]) -> str:
    return " + ".join(f"{weight:g} {title}" for title, weight in zip(titles, weights))


def _check(runs: Sequence[Run], clips: Clips, weights: Sequence[float], classify: Sequence[bool]) -> None:
    """Raises TrainingError where the runs cannot be fused."""
    if len(runs) < 2:
        raise TrainingError(f"{len(runs)} run is given; fuse adds two or more, such as those of joints and of bones")
    if len(weights) != len(runs) or not all(0 <= weight < np.inf for weight in weights) or not sum(weights) > 0:
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise TrainingError(
            f"weights {shown} of {len(runs)} runs; allowed: one finite number for each, 0 and more, not all 0"
        )
    first = runs[0]
    for run in runs[1:]:
        if all(classify) and set(run.labels) != set(first.labels):
            only = sorted(set(run.labels) ^ set(first.labels))[:3]
            raise TrainingError(
                f"{first.folder} and {run.folder} learnt other classes ({', '.join(only)}): train them on one data"
            )
    if any(classify) and not all(classify):
        other = next(run for run, one in zip(runs, classify) if not one)
        if not clips.train:
            raise TrainingError(f"{other.folder} learnt no classes, so all are probed: clips to learn from are needed")
    keys = [[key for part in split for key in part.keys] for split in clips.test]
    for run, own in zip(runs[1:], keys[1:]):
        if own != keys[0]:
            raise TrainingError(f"{first.folder} and {run.folder} are measured on other clips; name one --data for all")


def titles_of(runs: Sequence[Run]) -> list[str]:
    """What tells runs apart: names of folders, or where these are equal, paths."""
    names = [run.folder.absolute().name for run in runs]
    if all(name.startswith(SEED) and name[len(SEED) :].isdigit() for name in names):
        names = [run.folder.absolute().parent.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _classifier(
    run: Run, test: Sequence[SkeletonDataset], names: Sequence[str], device: str, advance: Callable[[int], None]
) -> tuple[Scores, Bool]:
    """(N, K) probabilities of the run's classifier (`class_probabilities`), in the order of `names`; and which clips
    show a pose."""
    found = class_probabilities(run.backbone, test, run.preprocess, run.config, device, advance, run.cache)
    return found.rows[:, [run.labels.index(name) for name in names]].astype(np.float64), found.shows_pose


def _probed(
    run: Run,
    train: Sequence[SkeletonDataset],
    test: Sequence[SkeletonDataset],
    names: Sequence[str],
    device: str,
    advance: Callable[[int], None],
) -> tuple[Scores, Bool]:
    """(N, K) probabilities of a linear probe of the run's features, and which clips show a pose."""
    run.method.to(device)
    learnt, measured = (extract_of(run, run.method.embed, split, device, advance) for split in (train, test))
    ids, rows = labelled(splits.label_ids(names, train), learnt.rows)
    logits = logistic.fit(rows, ids, len(names), STRENGTH).scores(measured.rows)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True), measured.shows_pose


def open_clips(
    runs: Sequence[Run],
    data: Sequence[str] = (),
    val: Sequence[str] = (),
    split: str | None = None,
    val_split: str | None = None,
    learn: bool = True,
) -> Clips:
    """The clips of the named data, or of the first run's own, in the joints of each run.

    Args:
        runs: the networks.
        data, val: paths. Default: those of the first run.
        split, val_split: see `training.runs.report.open_split_of`.
        learn: whether clips to learn from are opened.
    """
    own = runs[0].config.data
    data, val = (list(data), list(val)) if data or val else (own.train, own.val)
    test = [open_split_of(run, data, val, "val", val_split) for run in runs]
    return Clips(test, [open_split_of(run, data, val, "train", split) for run in runs] if learn else ())


def load_seeds(folders: Sequence[str | os.PathLike[str]]) -> list[list[Run]]:
    """The runs of folders, by seed: one list where each folder is a run; where each holds runs of several seeds (see
    `training.runs.seeds`), a list for each seed that all have.

    Raises:
        TrainingError: a folder is neither, or no seed is in all.
    """
    places = [Path(folder) for folder in folders]
    several = [
        {path.parent.name for path in place.glob(f"{SEED}*/{CHECKPOINT}")}
        if not (place / CHECKPOINT).exists()
        else set()
        for place in places
    ]
    if not any(several):
        return [[load_run(place) for place in places]]
    common = set.intersection(*several)
    if not common:
        raise TrainingError(f"{', '.join(map(str, places))}: no seed is in all of them; give runs, or folders of seeds")
    return [[load_run(place / seed) for place in places] for seed in sorted(common, key=lambda name: int(name[4:]))]


def over_seeds(reports: Sequence[Report]) -> list[Result]:
    """The results of one report as they are; of several, one a seed, their means."""
    if len(reports) == 1:
        return reports[0].results
    return [over_runs(same) for same in zip(*(report.results for report in reports))]


@dataclass(frozen=True)
class StreamsResult:
    """Runs of several streams.

    Attributes:
        folder: the runs lie in its folders, by the names of the streams.
        streams: what the networks were given.
        results: of each, and of all together; empty where nothing could be measured.
    """

    folder: Path
    streams: Sequence[str]
    results: Sequence[Result]

    @property
    def path(self) -> Path:
        """streams.json in the folder."""
        return self.folder / "streams.json"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        runs = [str(self.folder / stream) for stream in self.streams]
        return {"runs": runs, "results": [result.as_dict() for result in self.results]}


def train_streams(
    config: Config,
    folder: Path,
    streams: Sequence[str],
    progress: ProgressCallback | None = None,
    device: str = "auto",
    floors: bool = True,
) -> StreamsResult:
    """Train a run for each stream; each goes on where it was stopped. At the end they are fused.

    Args:
        config: of all; `preprocess.stream` is set.
        folder: of the runs.
        streams: two or more of `training.transforms.streams.STREAMS`, all different.
        progress: see `training.runs.train.train`.
        device: auto, cpu or cuda.
        floors: whether the figure of all together stands beside its floors.

    Raises:
        TrainingError: unknown or repeated streams, several devices; and as `train`.
    """
    if len(streams) < 2 or len(set(streams)) < len(streams) or any(stream not in STREAMS for stream in streams):
        raise TrainingError(
            f"streams {', '.join(streams)}; allowed: two or more different ones of {', '.join(STREAMS)}"
        )
    if config.run.devices != 1 or launched():
        raise TrainingError(
            f"several streams are trained one after the other on one device; run.devices is {config.run.devices}, "
            "or torchrun started this: "
            "train them by commands of their own, then `dataengine-train fuse`"
        )
    check_no_run(folder)
    measured = True
    for stream in streams:
        own = config.model_copy(
            update={
                "preprocess": config.preprocess.model_copy(update={"stream": stream}),
                "run": config.run.model_copy(update={"name": f"{config.run.name}_{stream}"}),
            }
        )
        with in_one_line(folder / stream):
            measured = bool(train(own, folder / stream, progress, device=device).results) and measured
    results: Sequence[Result] = ()
    if measured:
        runs = [load_run(folder / stream) for stream in streams]
        where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        report, _ = fuse(runs, open_clips(runs), device=where, floors=floors)
        report.write()
        results = report.results
    found = StreamsResult(folder, streams, results)
    write_durably(found.path, (json.dumps(plain(found.to_dict()), indent=1) + "\n").encode())
    return found
