"""The default small configuration on public skeleton sets that nothing here was tuned on, beside floors.

The sets were chosen by what they are and by their floors, before any network was trained on them: small, labelled, to
be had from public repositories, in space and in the plane, with at least ten points of room above the best floor of a
first look. Three count. A fourth, Florence 3D, is reported beside them: its best floor was 92.5 %, which leaves little
room. Each is converted as the page "Train on data of your own" says and trained by `unik_small` with no option
changed, five seeds. The floors are those that every training prints, see `training.runs.floors`.

Before small sets got at least 2,000 steps, 30 epochs of half width reached (one seed) 85.8 % on UTD-MHAD, 93.9 on
NATOPS, 63.0 on the robot's actions and 81.1 on Florence 3D: at or below the best floor on three of the four.

The data are not part of this repository. Put them into one folder, named by `DATAENGINE_PUBLIC_SETS`, as `SETS` says:

    github.com/woo-chia-wei/kinect-sequence-classification    data/Skeleton/*.mat                          utd_mhad/
    github.com/rohitb0017/NATOPS-Dataset-Time-Series-Classification    data/*.ts                           natops/
    github.com/cran/dbcsp                                     data/AR.data.rda                             ar/
    github.com/dluvizon/harskel                               input/Data/Florence_3D_Action_Skeletons.mat  florence/

A set that is absent is left out; files that are other ones are refused by their SHA-256. `--quick` takes the seeds that
were run before, at least one; the goal holds with all five alone.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import bz2
import hashlib
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import main
from seeds import WORK, kept, seeds, spread

from training.config import load
from training.evaluate.floors import NEIGHBOUR, RANDOM, RIDGE
from training.runs import splits
from training.runs.train import resolve, train
from training.transforms.view import PRESETS

PLACE = "DATAENGINE_PUBLIC_SETS"
RECIPE = "unik_small"
SEEDS = range(5)
COUNTED = ("utd_mhad", "natops", "robot")
"""The sets of the goal."""
GOAL, OF = 5.0, 2
"""Points above the best floor, on so many of them."""


@dataclass(frozen=True)
class PublicSet:
    """One labelled set.

    Attributes:
        title: of the set, with its authors.
        source: repository, commit and path that it can be had from.
        licence: of the repository, and what the owners of the data say.
        files: where its files lie in the folder of the sets: a folder, or one file.
        sha256: of the file; of a folder the SHA-256 of the lines "SHA-256  name" of its files, by name.
        convert: from the path to the arrays of an npz file.
    """

    title: str
    source: str
    licence: str
    files: str
    sha256: str
    convert: Callable[[Path], dict[str, Any]]


KINECT = (
    "head", "neck", "spine", "pelvis",
    "left_shoulder", "left_elbow", "left_wrist", "left_hand", "right_shoulder", "right_elbow", "right_wrist",
    "right_hand", "left_hip", "left_knee", "left_ankle", "left_foot", "right_hip", "right_knee", "right_ankle",
    "right_foot",
)  # fmt: skip
"""UTD-MHAD's Skeleton_joint_order.txt; its shoulder centre is the neck, its hip centre the pelvis."""
KINECT_PARENTS = (1, -1, 1, 2, 1, 4, 5, 6, 1, 8, 9, 10, 3, 12, 13, 14, 3, 16, 17, 18)
UTD_CLASSES = (
    "swipe left", "swipe right", "wave", "clap", "throw", "cross arms", "basketball shoot", "draw x",
    "draw circle clockwise", "draw circle counter-clockwise", "draw triangle", "bowling", "boxing", "baseball swing",
    "tennis swing", "arm curl", "tennis serve", "push", "knock", "catch", "pick up and throw", "jog", "walk",
    "sit to stand", "stand to sit", "lunge", "squat",
)  # fmt: skip
FLORENCE = (
    "head", "neck", "spine", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow",
    "right_wrist", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle",
)  # fmt: skip
FLORENCE_PARENTS = (1, -1, 1, 1, 3, 4, 1, 6, 7, 2, 9, 10, 2, 12, 13)
FLORENCE_CLASSES = (
    "wave", "drink", "answer phone", "clap", "tight lace", "sit down", "stand up", "read watch", "bow",
)  # fmt: skip
NATOPS = (
    "left_hand", "right_hand", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_thumb", "right_thumb",
)  # fmt: skip
NATOPS_PARENTS = (4, 5, -1, -1, 2, 3, 4, 5)
NATOPS_CLASSES = ("I have command", "all clear", "not clear", "spread wings", "fold wings", "lock wings")
BODY25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
"""OpenPose's BODY_25 in its order."""
BODY25_PARENTS = (1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11)


def utd_mhad(folder: Path) -> dict[str, Any]:
    """UTD-MHAD: 861 clips of 27 classes, 8 people, metres. The authors' split: odd people train, even ones test."""
    from scipy.io import loadmat

    clips, labels, names, subjects = [], [], [], []
    for path in sorted(folder.glob("*.mat")):
        action, person = (int(part[1:]) for part in path.stem.split("_")[:2])
        clips.append(loadmat(path)["d_skel"].transpose(2, 0, 1))  # (V, C, T) -> (T, V, C)
        labels.append(action - 1)
        subjects.append(person)
        names.append(path.stem)
    return _arrays(clips, labels, UTD_CLASSES, names, KINECT, KINECT_PARENTS, subjects, np.array(subjects) % 2 == 1)


def florence(file: Path) -> dict[str, Any]:
    """Florence 3D Actions: 215 clips of 9 classes, 10 people, millimetres. Odd people train, even ones test: the halves
    of the repository's lists."""
    from scipy.io import loadmat

    held = loadmat(file)["data"]  # (action, person, repetition) of (C, V, T), in the order of the original file
    places = [index for index in np.ndindex(held.shape) if held[index].size]
    clips = [held[index].transpose(2, 1, 0) for index in places]
    names = [f"a{a + 1:02d}_s{s + 1:02d}_e{e + 1:02d}" for a, s, e in places]
    people = [s + 1 for _, s, _ in places]
    actions = [a for a, _, _ in places]
    return _arrays(
        clips, actions, FLORENCE_CLASSES, names, FLORENCE, FLORENCE_PARENTS, people, np.array(people) % 2 == 1
    )


def natops(folder: Path) -> dict[str, Any]:
    """NATOPS aircraft handling signals: 360 clips of 6 classes, 51 frames of 8 joints of both arms, in the published
    halves."""
    clips, labels, train = [], [], []
    for half in ("TRAIN", "TEST"):
        lines = (folder / f"NATOPS_{half}.ts").read_text(errors="replace").splitlines()
        begin = next(number for number, line in enumerate(lines) if line.lower().startswith("@data"))
        for line in filter(str.strip, lines[begin + 1 :]):
            *rows, label = line.split(":")
            values = np.array([[float(value) for value in row.split(",")] for row in rows])
            clips.append(values.reshape(8, 3, -1).transpose(2, 0, 1))  # (V * C, T) -> (T, V, C)
            labels.append(int(float(label)) - 1)
            train.append(half == "TRAIN")
    names = [f"{number:03d}" for number in range(len(clips))]
    return _arrays(clips, labels, NATOPS_CLASSES, names, NATOPS, NATOPS_PARENTS, None, np.array(train))


def robot(file: Path) -> dict[str, Any]:
    """Actions seen by a humanoid robot: 272 clips of 6 classes, 92 frames each, pixels. The set has no split and says
    nobody's name: the first half of every class, in the order of the file, trains; the rest tests."""
    held = read_rda(file)["AR.data"]
    clips, labels, names, train = [], [], [], []
    for number, (name, rows) in enumerate(held.items()):
        for index, row in enumerate(rows):
            clips.append(np.stack([row[:25], row[25:]], -1).transpose(1, 0, 2))  # (x of 25, y of 25; T) -> (T, V, C)
            labels.append(number)
            names.append(f"{name}{index:02d}")
            train.append(2 * index < len(rows))
    return _arrays(clips, labels, tuple(held), names, BODY25, BODY25_PARENTS, None, np.array(train))


def _arrays(
    clips: list[np.ndarray],
    labels: list[int],
    classes: tuple[str, ...],
    names: list[str],
    joints: tuple[str, ...],
    parents: tuple[int, ...],
    subjects: list[int] | None,
    train: np.ndarray,
) -> dict[str, Any]:
    """The arrays of an npz file, as the page on data of one's own names them; `clips` are (T, V, C) each."""
    more = {} if subjects is None else {"subject": np.array(subjects)}
    return {
        "keypoints": np.concatenate(clips).astype(np.float32),
        "offsets": np.cumsum([0, *map(len, clips)]),
        "label": np.array(labels),
        "label_names": np.array(classes),
        "names": np.array(names),
        "joint_names": np.array(joints),
        "parents": np.array(parents),
        "train": train,
        **more,
    }


SETS: Mapping[str, PublicSet] = {
    "utd_mhad": PublicSet(
        "UTD-MHAD (Chen, Jafari, Kehtarnavaz 2015), Kinect, 27 classes",
        "woo-chia-wei/kinect-sequence-classification @ 65e9b13950d7, data/Skeleton",
        "the repository states none; the data: University of Texas at Dallas, free for research",
        "utd_mhad",
        "4237d2dff669a193a6285e172b551439528d962fc903c798954f053b079e0add",
        utd_mhad,
    ),
    "natops": PublicSet(
        "NATOPS (Song, Demirdjian, Davis 2011; Ghouaiel, Marteau, Dupont 2017), Kinect, both arms, 6 classes",
        "rohitb0017/NATOPS-Dataset-Time-Series-Classification @ 6935d72c1f74, data",
        "the repository states none; the data: as UEA's archive of time series gives them, for research",
        "natops",
        "2d3370cb54fa3c9a0cf9e3f344365537b3c2eb2c0ae0f7130bbd4dff296d85bc",
        natops,
    ),
    "robot": PublicSet(
        "AR.data of the R package dbcsp (Rodriguez-Moreno et al.), OpenPose in the plane, 6 classes",
        "cran/dbcsp @ 2b4aaac3a67e, data/AR.data.rda",
        "GPL (>= 2)",
        "ar/AR.data.rda",
        "6a3507e9a54468a8d2d823ae326fb60e4b0c4ec00bc17d47c6fa6d68d7b2a238",
        robot,
    ),
    "florence": PublicSet(
        "Florence 3D Actions (Seidenari et al. 2013), Kinect, 9 classes",
        "dluvizon/harskel @ e080ab9, input/Data/Florence_3D_Action_Skeletons.mat",
        "MIT (the repository); the data: MICC, University of Florence, for research",
        "florence/Florence_3D_Action_Skeletons.mat",
        "fe9c4666ec3371fa7f2a966022d4809258b7e06b155ed7deef49b3ffdf405170",
        florence,
    ),
}


def read_rda(path: Path) -> dict[str, Any]:
    """The objects of a file that R's save() wrote (XDR, version 2, bzip2): lists, vectors and matrices of numbers and
    texts.

    The format is that of "R Internals", section 1.8, Serialization Formats.

    Raises:
        ValueError: another format, or an object of another kind.
    """
    raw = bz2.decompress(path.read_bytes())
    if raw[:7] != b"RDX2\nX\n":
        raise ValueError(f"{path}: no file of R's save() in XDR, version 2")
    found: dict[str, Any] = _Objects(raw, 7 + 12).item()  # three numbers of versions come first
    return found


class _Objects:
    """A reader of R's serialised objects."""

    def __init__(self, raw: bytes, at: int) -> None:
        self.raw, self.at, self.symbols = raw, at, list[str]()

    def number(self) -> int:
        (value,) = struct.unpack_from(">i", self.raw, self.at)
        self.at += 4
        return int(value)

    def array(self, kind: str) -> np.ndarray:
        count = self.number()
        values = np.frombuffer(self.raw, kind, count, self.at)
        self.at += values.nbytes
        return values.astype(values.dtype.newbyteorder("="))

    def item(self) -> Any:
        flags = self.number()
        kind = flags & 255
        if kind == 254:  # nil
            return None
        if kind == 255:  # a symbol that was named before
            return self.symbols[(flags >> 8 or self.number()) - 1]
        if kind == 1:  # symbol
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == 9:  # text
            return self.array("u1").tobytes().decode()
        if kind == 2:  # pairs of a name and a value
            attributes, name = self.item() if flags & 512 else None, self.item() if flags & 1024 else ""
            del attributes
            return {name: self.item(), **(self.item() or {})}
        if kind in (10, 13, 14):
            value: Any = self.array(">f8" if kind == 14 else ">i4")
        elif kind in (16, 19):
            value = [self.item() for _ in range(self.number())]
        else:
            raise ValueError(f"an object of R's kind {kind} is not read")
        attributes = self.item() if flags & 512 else {}
        if "dim" in attributes:
            return np.reshape(value, attributes["dim"], order="F")
        return dict(zip(attributes["names"], value)) if "names" in attributes else value


def digest(path: Path) -> str:
    """See `PublicSet.sha256`."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [f"{digest(file)}  {file.name}\n" for file in sorted(path.iterdir()) if file.suffix in (".mat", ".ts")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def converted(name: str) -> Path | None:
    """The npz file of a set, written anew; None, and a line that says so, where the set is absent.

    Raises:
        SystemExit: the files are other ones.
    """
    own = SETS[name]
    source = Path(os.environ[PLACE]) / own.files if PLACE in os.environ else None
    if source is None or not source.exists():
        print(f"{name}: not found; {PLACE} names the folder with {own.files}, from {own.source}", file=sys.stderr)
        return None
    if digest(source) != own.sha256:
        raise SystemExit(f"{source}: not the files of {own.source}; their SHA-256 is {own.sha256}")
    target = WORK / "public_sets" / f"{name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, **own.convert(source))
    return target


def job(file: Path) -> Callable[[int, Path], dict[str, Any]]:
    """One seed on a set: trained as the configuration says, and measured by the run itself."""

    def run(seed: int, folder: Path) -> dict[str, Any]:
        config = load(RECIPE, [f"run.seed={seed}"]).on([str(file)])
        found = train(config, folder).results
        classifier = next(result for result in found if result.name == "classifier")
        floors = {name: round(100 * classifier.baselines[name], 3) for name in (NEIGHBOUR, RIDGE, RANDOM)}
        return {"classifier": round(100 * classifier.value, 3), "floors": floors, "best_floor": max(floors.values())}

    return run


DECIDES = {
    "run": ("epochs", "batch", "precision"),
    "preprocess": ("people", "normalise", "stream", "up"),
    "view": ("frames", "steps"),
    "backbone": ("name", "channels_base"),
    "method": ("name", "smoothing"),
    "optim": ("name", "lr", "weight_decay", "schedule", "warmup"),
}
"""Keys that the default configuration decides, by table."""


def protocol(name: str, file: Path) -> dict[str, Any]:
    """What decides the figures of a set: its files, and the configuration with all that follows from the clips.

    Args:
        name: of one of `SETS`, or another.
        file: its npz file.
    """
    config = load(RECIPE).on([str(file)])
    tables = resolve(config, splits.open_split(config.data, "train"), "test").to_toml()
    chosen = {table: {key: tables[table][key] for key in keys} for table, keys in DECIDES.items()}
    steps = tables["view"]["steps"]
    preset = repr(PRESETS[steps]) if isinstance(steps, str) else ""
    told = "the mean over three crops and their mirror images"
    return {"set": SETS[name].sha256 if name in SETS else digest(file), **chosen, "preset": preset, "answers": told}


def run(quick: bool) -> dict[str, Any]:
    """Top-1 of the default small configuration on public skeleton sets, less the best learning-free floor."""
    torch.set_num_threads(1)
    found = {}
    for name in SETS:
        if (file := converted(name)) is None:
            continue
        own = protocol(name, file)
        numbers = kept(f"public_sets-{name}", own, SEEDS) or SEEDS[:1] if quick else SEEDS
        runs = seeds(f"public_sets-{name}", own, numbers, job(file))
        top, best = spread(runs, "classifier"), spread(runs, "best_floor")
        over = top["mean"] - best["mean"]
        found[name] = {"top-1": top, "floors": runs[0]["floors"], "best_floor": best["mean"], "over_floor": over}
    over = {name: found[name]["over_floor"] for name in COUNTED if name in found}
    whole = all(len(found[name]["top-1"]["each"]) == len(SEEDS) for name in over)
    return {
        "name": "public_sets",
        "value": {name: round(value, 2) for name, value in over.items()},
        "unit": "points of top-1 above the best learning-free floor",
        "goal": f"at least {GOAL:g} on {OF} of {len(COUNTED)} sets, {len(SEEDS)} seeds",
        "holds": whole and sum(value >= GOAL for value in over.values()) >= OF,
        "baselines": {name: figures["floors"] for name, figures in found.items()},
        "n": {name: len(figures["top-1"]["each"]) for name, figures in found.items()},
        "spread": {name: figures["top-1"] for name, figures in found.items()},
        "data": {name: f"{SETS[name].title}; {SETS[name].source}; {SETS[name].licence}" for name in found},
        "details": {"counted": COUNTED, "recipe": RECIPE, **found},
    }


if __name__ == "__main__":
    main(run)
