"""Clips and texts of `tmor`: which classes are held out for a seed, and what is known of them. Not a benchmark."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from seeds import WORK
from skeletons import Memory, penn
from tmor_features import VIDEO, encoder, video_network, watched

from training.data.types import Array
from training.evaluate.retrieval import similarities
from training.runs.class_text import ClassText

HELD = 3
CLASSES = 15
PROMPTS = "penn_action_described.csv"


def held_out(seed: int) -> list[int]:
    """The classes that are held out: five seeds share out all of them, then they are shuffled anew."""
    times, part = divmod(seed, CLASSES // HELD)
    return sorted(int(label) for label in np.random.default_rng(times).permutation(CLASSES).reshape(-1, HELD)[part])


def only(dataset: Memory, classes: Sequence[int], name: str) -> Memory:
    """The clips of some classes, which are numbered anew."""
    part = dataset.subset(np.flatnonzero(np.isin(dataset.label_ids, classes)), name)
    numbers = {label: number for number, label in enumerate(classes)}
    clips = tuple(dataclasses.replace(clip, label=numbers[clip.label]) for clip in part.clips)
    return dataclasses.replace(part, labels=tuple(dataset.labels[label] for label in classes), clips=clips)


def shown(dataset: Memory) -> Memory:
    """The dataset with the video features of its clips; the video network is taught where it is not there yet."""
    rows = watched(video_network(encoder(), WORK), dataset, VIDEO["views"])
    clips = tuple(dataclasses.replace(clip, features={"video": row}) for clip, row in zip(dataset.clips, rows))
    return dataclasses.replace(dataset, clips=clips, fingerprint=f"{dataset.fingerprint} shown")


@dataclasses.dataclass(frozen=True)
class Split:
    """Clips and texts of a seed.

    Attributes:
        whole, test: all training and test clips.
        held, known: classes that are held out, and the others.
        names, plain: (15, D) texts of the classes: descriptions, and names.
    """

    whole: Memory
    test: Memory
    held: list[int]
    known: list[int]
    names: Array
    plain: Array

    @functools.cached_property
    def seen(self) -> Memory:
        """Training clips of the known classes."""
        return only(self.whole, self.known, "seen")

    @functools.cached_property
    def unseen(self) -> Memory:
        """Test clips of the held-out classes."""
        return only(self.test, self.held, "held out")

    @functools.cached_property
    def seen_with_videos(self) -> Memory:
        """`seen` with video features."""
        return shown(self.seen)

    @functools.cached_property
    def video_scores(self) -> Array:
        """What the video network says of the test clips of the held-out classes."""
        rows = np.stack([clip.features["video"].mean(0) for clip in shown(self.unseen).clips])
        return similarities(rows, self.names[self.held])


def split_of(seed: int) -> Split:
    """The clips and texts of a seed."""
    encoder()
    whole, test = penn()
    held = held_out(seed)
    plain = [label.replace("_", " ") for label in whole.labels]
    names = ClassText("minilm", PROMPTS).vectors(whole.labels, [])[:, 0]
    known = [label for label in range(len(whole.labels)) if label not in held]
    return Split(whole, test, held, known, names, ClassText("minilm").vectors(plain, [])[:, 0])
