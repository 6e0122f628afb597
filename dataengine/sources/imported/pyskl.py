"""pyskl's and MMAction2's pickles: {"split": {name: [ids]}, "annotations": [{frame_dir, keypoint (M, T, V, 2),
keypoint_score (M, T, V), label, img_shape, total_frames, ...}]}.

Layout of these files: github.com/kennymckormick/pyskl, tools/data/README.md.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import SourceError, suggestion
from dataengine.core.skeletons import SKELETONS
from dataengine.io.plain_pickle import load
from dataengine.sources.ids import SPLIT_WORDS
from dataengine.sources.imported.saved_clip import MAX_FRAMES, SavedClip, person

CLASS_KEYS = ("class_names", "classes", "label_names", "label_map", "categories")
"""Where pickles keep the names of their classes, which the format itself does not have."""


class PysklFile:
    """A pickle of pyskl.

    Args:
        path: of the pickle.
        chosen: which of its sets of splits to take, such as xsub; '' takes the first.

    Raises:
        SourceError: the file is another kind of pickle.
    """

    def __init__(self, path: Path, chosen: str = "") -> None:
        content = load(path, SourceError)
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list | tuple):
            held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise SourceError(
                f"{path}: no pyskl pickle: it holds {str(held)[:200]}; allowed: a dict of 'split' and 'annotations'"
            )
        self.notes: list[str] = []
        self.path, self._annotations = path, list(content["annotations"])
        self.classes = _class_names(content)
        layout = content.get("layout")
        self.layout = layout if isinstance(layout, str) and layout in SKELETONS else ""
        self._split_of = self._splits(content.get("split"), chosen)
        if spoken := sum(isinstance(note, Mapping) and "spans" in note for note in self._annotations):
            self.notes.append(
                f"{spoken} annotations say what happens when ('spans'), which is not imported; give it as a table of "
                "curate.spans"
            )

    def __len__(self) -> int:
        return len(self._annotations)

    def clips(self) -> Iterator[SavedClip]:
        """The clips in the order of the file; each annotation is let go as soon as it was read."""
        count = len(self._annotations)
        for number in range(count):
            note, self._annotations[number] = self._annotations[number], None
            yield self._clip(number, note, count)

    def _clip(self, number: int, note: Any, count: int) -> SavedClip:
        name = f"annotation {number}"
        if isinstance(note, Mapping):
            name = _text(note.get("frame_dir", note.get("filename"))) or name
        if not isinstance(note, Mapping) or not isinstance(note.get("keypoint"), np.ndarray):
            return SavedClip(name, reason="bad_row", detail=f"annotation {number} has no array 'keypoint'")
        clip = SavedClip(name, size=_size(note), fps=_text(note.get("fps")))
        clip.subject, clip.licence = (_text(note.get(key)) for key in ("subject", "licence"))
        if self._split_of is not None:
            clip.split = self._split_of.get(name)
            if clip.split is None:
                clip.reason, clip.detail = "not_in_split", f"annotation {number}: no split of the file names {name!r}"
                return clip
        try:
            clip.number = class_number(note.get("label", -1), count)
        except ValueError as error:
            clip.reason, clip.detail = "bad_row", f"label of annotation {number} is {error}"
            return clip
        try:
            clip.tracks = tracks_of(note["keypoint"], note.get("keypoint_score"))
        except ValueError as error:
            clip.reason, clip.detail = "bad_row", f"annotation {number}: {error}"
        except LookupError:
            clip.reason, clip.detail = "no_person", f"annotation {number} shows nobody"
        if clip.tracks is not None:
            clip.num_frames = clip.tracks[0].shape[1]
        return clip

    def _splits(self, content: Any, chosen: str) -> dict[str, str] | None:
        """id -> train, val or test, of one set of splits; None where the file has none."""
        if content is None or (isinstance(content, Mapping | list | tuple | str) and not content):
            if chosen:
                raise SourceError(f"{self.path}: it has no splits, and --splits {chosen} asks for some")
            return None
        lists = (list, tuple, set, frozenset, np.ndarray)
        if not isinstance(content, Mapping) or not all(
            isinstance(ids, lists) and getattr(ids, "ndim", 1) == 1 for ids in content.values()
        ):
            raise SourceError(f"{self.path}: its 'split' is no dict such as {{'train': [ids], 'val': [ids]}}")
        sets: dict[str, dict[str, str]] = {}
        for name in map(str, content):
            kind, own = split_set(name)
            if kind is None:
                self.notes.append(f"the split {name!r} is neither of train, val nor test and is passed over")
            else:
                sets.setdefault(own, {})[name] = kind
        if not sets:
            raise SourceError(
                f"{self.path}: none of its splits is a train, val or test: {', '.join(map(str, content))}"
            )
        if chosen and chosen not in sets:
            raise SourceError(
                f"{self.path}: it has no set of splits {chosen!r}{suggestion(chosen, filter(None, sets))}"
            )
        own = chosen or next(iter(sets))
        if len(sets) > 1:
            others = ", ".join(repr(name) for name in sets if name != own)
            self.notes.append(f"of its sets of splits {own!r} is taken; --splits takes another: {others}")
        found: dict[str, str] = {}
        twice: set[str] = set()
        for name, kind in sorted(sets[own].items(), key=lambda item: ("test", "val", "train").index(item[1])):
            for one in map(str, content[name]):
                if found.setdefault(one, kind) != kind:
                    twice.add(one)
        if twice:
            self.notes.append(
                f"{len(twice)} ids stand in several splits, for example {min(twice)!r}; they go to test or val alone, "
                "so that nothing is measured that was learnt"
            )
        return found


def split_set(name: str) -> tuple[str | None, str]:
    """('train' | 'val' | 'test', the set) of a split such as train, xsub_val, test1; (None, '') where it is none."""
    parts = [part for part in re.split(r"[^a-z]+", re.sub(r"\d+", "", name.lower())) if part]
    kinds = {SPLIT_WORDS[part] for part in parts if part in SPLIT_WORDS}
    if len(kinds) != 1:
        near = [difflib.get_close_matches(part, SPLIT_WORDS, n=1, cutoff=0.85) for part in parts]
        kinds = {SPLIT_WORDS[found[0]] for found in near if found}
        if len(kinds) != 1:
            return None, ""
    words = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
    return kinds.pop(), re.sub(rf"(?:^|[_\-. ])(?:{words})|(?:{words})(?:$|[_\-. ]|(?=\d))", "", name.lower()).strip(
        "_-. "
    )


def tracks_of(keypoints: Any, scores: Any) -> tuple[Any, Any]:
    """Keypoints (M, T, V, 2) and scores (M, T, V) of an annotation, unseen joints NaN, without people who are never
    seen.

    Raises:
        ValueError: of another form.
        LookupError: there is nobody.
    """
    shape = keypoints.shape
    if keypoints.dtype.kind not in "fiu" or len(shape) != 4 or not all(shape[2:]):
        raise ValueError(f"keypoint is {keypoints.dtype} {shape}; allowed: numbers (M, T, V, 2)")
    given = None if scores is None else np.asarray(scores)
    if given is not None and (given.shape != shape[:3] or given.dtype.kind not in "fiub"):
        raise ValueError(f"keypoint_score is {given.dtype} {given.shape}, its keypoint {shape}")
    if shape[3] == 3 and given is None and _are_scores(keypoints):
        given, keypoints = keypoints[..., 2], keypoints[..., :2]
    if keypoints.shape[3] != 2:
        raise ValueError(
            f"keypoint has {shape[3]} coordinates; a dataset holds x and y in pixels: train on the file itself with "
            "dataengine-train --data"
        )
    if shape[1] > MAX_FRAMES:
        raise ValueError(f"it has {shape[1]} frames, at most {MAX_FRAMES} are allowed")
    if not keypoints.size:
        raise LookupError
    coords, certain = person(keypoints, np.ones(shape[:3], np.float32) if given is None else given)
    seen = np.isfinite(coords).all(-1).reshape(len(coords), -1).any(1)
    if not seen.any():
        raise LookupError
    return coords[seen], certain[seen]


def _are_scores(keypoints: Any) -> bool:
    """Whether the third coordinate is a score: from 0 to 1, beside pixels."""
    last = np.asarray(keypoints[..., 2], np.float32)
    return bool(last.size) and bool(
        np.nanmin(last) >= 0 and np.nanmax(last) <= 1 and np.nanmax(np.abs(keypoints[..., :2])) > 2
    )


def _size(note: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of the picture that the keypoints are of."""
    shape = note.get("img_shape", note.get("original_shape"))
    if not isinstance(shape, list | tuple | np.ndarray):
        return None
    try:
        height, width = (int(side) for side in shape[:2])
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return (width, height) if 0 < width < 1 << 20 and 0 < height < 1 << 20 else None


def _text(value: Any) -> str | None:
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return str(value) if isinstance(value, str | int | float | np.number) and not isinstance(value, bool) else None


def _class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    for key in CLASS_KEYS:
        names = content.get(key)
        if isinstance(names, Mapping):
            names = [names.get(number) for number in range(len(names))]
        if isinstance(names, Sequence) and len(names) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()
