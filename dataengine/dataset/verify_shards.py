"""verify, the shards: every sample is compared with its row, every row with its sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from blake3 import blake3 as Hasher
from numpy.typing import NDArray

from dataengine.core.errors import DatasetError
from dataengine.io.shards import decode_entry, scan
from dataengine.io.storage import mapped

Array: TypeAlias = NDArray[Any]

SHARED: tuple[str, ...] = (
    *(
        "clip_id",
        "source",
        "label",
        "label_id",
        "source_label",
        "text",
        "split",
        "fps",
        "width",
        "height",
        "num_frames",
    ),
    *("generation", "licence"),
)
"""Facts that KEY.json and the row of the clip share."""
OPTIONAL = ("spans",)
"""Those of some datasets."""
ARRAYS: dict[str, tuple[str, Callable[[int, int, int], tuple[int, ...]]]] = {
    "keypoints.npy": ("float32", lambda m, t, v: (m, t, v, 2)),
    "scores.npy": ("float16", lambda m, t, v: (m, t, v)),
    "confidence.npy": ("float16", lambda m, t, v: (m, t)),
    "timestamps.npy": ("float32", lambda m, t, v: (t,)),
    "keypoints3d.npy": ("float16", lambda m, t, v: (m, t, v, 3)),
}
"""dtype and shape of the arrays of a sample with M people, T frames and V joints."""
FEATURES = ("_video.npy", "_text.npy", "_views.npy")
"""Endings of the entries of features, after the name of the model."""
ALWAYS = {"json", "keypoints.npy", "scores.npy", "confidence.npy", "timestamps.npy"}


LIFTED = "keypoints3d.npy"


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: the file (relative to the dataset), and what is wrong with it."""

    path: str
    what: str


def named_files(manifest: Mapping[str, Any]) -> list[str]:
    return [file["path"] for file in manifest["files"]]


def shard_files(manifest: Mapping[str, Any]) -> list[str]:
    """Paths of the shards that the manifest names."""
    return [path for path in named_files(manifest) if path.startswith("shards/")]


def is_lifted(manifest: Mapping[str, Any]) -> bool:
    """Whether the build of a dataset lifted its poses, so that each sample holds joints in space."""
    return any(p["name"] == "lift" for p in manifest.get("passes", []))


def check_shards(
    root: Path, manifest: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], advance: Callable[[int], None]
) -> Iterator[Problem]:
    """Every sample against its row, and every row against its sample; `advance` counts shards."""
    paths = shard_files(manifest)
    rows: dict[str, dict[str, dict[str, Any]]] | None = None
    if "clips" in tables:
        rows = {}
        shared = [*SHARED, *(name for name in OPTIONAL if name in tables["clips"].columns)]
        for row in (
            tables["clips"]
            .select("shard", "offset", "size", "blake3", "entries", "num_people", *shared)
            .iter_rows(named=True)
        ):
            rows.setdefault(str(row["shard"]), {})[row["clip_id"]] = row
        for shard in sorted(rows.keys() - set(paths)):
            yield Problem(shard, f"not in the manifest, but the index places {len(rows[shard])} clips in it")
    tracks = _kept_tracks(tables["tracks"]) if "tracks" in tables else None
    needed = ALWAYS | {LIFTED} if is_lifted(manifest) else ALWAYS
    order: dict[str, list[str]] = {}
    for path in paths:
        advance(1)
        if not (root / path).is_file():
            continue
        order[path] = []
        try:
            data = mapped(root / path)
            if path.startswith("shards/pose/"):
                mine = None if rows is None else rows.get(path, {})
                yield from _check_shard(path, data, mine, tracks, order[path], needed)
            else:
                order[path] += [key for key, _ in scan(data, path)]
        except DatasetError as error:
            yield Problem(path, str(error).removeprefix(f"{root}/").removeprefix(f"{path}: "))
    for path in order:
        if path.startswith("shards/video/"):
            pose = path.replace("shards/video/", "shards/pose/")
            if order[path] != order.get(pose):
                yield Problem(path, f"does not hold the samples of {pose} in their order")


def _kept_tracks(tracks: pl.DataFrame) -> dict[str, list[int]]:
    grouped = tracks.filter("kept").sort("clip_id", "rank").group_by("clip_id", maintain_order=True).agg("track_id")
    return dict(zip(grouped["clip_id"].to_list(), grouped["track_id"].to_list()))


def _check_shard(
    path: str,
    data: memoryview,
    rows: dict[str, dict[str, Any]] | None,
    tracks: Mapping[str, list[int]] | None,
    order: list[str],
    needed: Set[str],
) -> Iterator[Problem]:
    left = dict(rows or {})
    try:
        for key, members in scan(data, path):
            order.append(key)
            row = left.pop(key, None)
            if row is None and rows is not None:
                yield Problem(path, f"{key} has no row in index/clips that places it here")
                continue
            entries = {entry.name: data[entry.offset : entry.offset + entry.size] for entry in members}
            for what in _check_sample(entries, row, None if tracks is None else tracks.get(key, []), needed):
                yield Problem(path, f"{key} {what}")
            if row is not None:
                if [tuple(entry.values()) for entry in row["entries"] or ()] != [tuple(entry) for entry in members]:
                    yield Problem(path, f"{key} has entries other than index/clips says")
                if Hasher(data[row["offset"] : row["offset"] + row["size"]]).hexdigest() != row["blake3"]:
                    yield Problem(path, f"{key} does not have the blake3 that index/clips says, at its offset and size")
    except DatasetError as error:
        raise DatasetError(f"{error}; {len(left)} clips of the index lie behind it") from None
    for key in left:
        yield Problem(path, f"{key} is not in the shard, though index/clips places it here")


def _check_sample(
    entries: Mapping[str, memoryview], row: Mapping[str, Any] | None, tracks: list[int] | None, needed: Set[str]
) -> Iterator[str]:
    """Mistakes in one sample, compared with its row and the ids of its kept tracks where these are known."""
    if missing := needed - entries.keys():
        yield f"lacks {', '.join(sorted(missing))}"
        return
    try:
        values = {name: decode_entry(name, data) for name, data in entries.items()}
        meta = values["json"]
        joints, frames = len(meta["joints"]), int(meta["num_frames"])
    except DatasetError as error:
        yield str(error)
        return
    except (KeyError, TypeError, ValueError) as error:
        yield f"has a json without joints or num_frames: {error!r}"
        return
    if row is not None:
        differing = [name for name in (*SHARED, *OPTIONAL) if name in row and meta.get(name) != row[name]]
        if differing:
            yield f"says another {', '.join(differing)} in its json than in index/clips"
    if tracks is not None and meta.get("tracks") != tracks:
        yield f"says tracks {meta.get('tracks')} in its json, index/tracks keeps {tracks}"
    people = values["keypoints.npy"].shape[0] if values["keypoints.npy"].ndim else 0
    if row is not None and people != row["num_people"]:
        yield f"holds {people} people, index/clips says {row['num_people']}"
    wrong = False
    for name, (dtype, shape) in ARRAYS.items():
        if name in values and (values[name].dtype != dtype or values[name].shape != shape(people, frames, joints)):
            wrong = True
            right = f"{dtype} {shape(people, frames, joints)}"
            yield f"{name} is {values[name].dtype} {values[name].shape}, must be {right}"
    if not wrong:
        yield from _check_values(values)


def _check_values(values: Mapping[str, Array]) -> Iterator[str]:
    keypoints, scores = values["keypoints.npy"], values["scores.npy"]
    absent = np.isnan(keypoints)
    unseen = absent.any(-1)
    if np.isinf(keypoints).any() or (unseen != absent.all(-1)).any():
        yield "keypoints.npy has infinite or half missing joints"
    if scores[unseen].any():
        yield f"scores.npy scores {np.count_nonzero(scores[unseen])} joints that are NaN; a joint not seen has score 0"
    if ((keypoints == 0).all(-1) & (scores == 0)).any():
        yield "keypoints.npy has joints at (0, 0) with score 0; a joint not seen is NaN"
    if LIFTED in values:
        gone = np.isnan(values[LIFTED])
        if np.isinf(values[LIFTED]).any() or (gone.any(-1) != gone.all(-1)).any():
            yield f"{LIFTED} has infinite or half missing joints"
        if not gone[unseen.all(-1)].all():
            yield f"{LIFTED} has joints of a person in frames without a pose in keypoints.npy"
    for name in ("scores.npy", "confidence.npy"):
        if not ((values[name] >= 0) & (values[name] <= 1)).all():
            yield f"{name} leaves [0, 1]"
    times = values["timestamps.npy"]
    if not (np.diff(times) > 0).all() or not np.isfinite(times).all():
        yield "timestamps.npy does not rise"
    yield from _check_features(values)


def _check_features(values: Mapping[str, Array]) -> Iterator[str]:
    """Mistakes in features: NAME_video and NAME_text (D,), NAME_views (K, D), of unit length; view 0 is NAME_video."""
    features = {name: value for name, value in values.items() if name.endswith(FEATURES)}
    for name, value in sorted(features.items()):
        if value.dtype != "float16" or value.ndim != 1 + name.endswith("_views.npy"):
            needed = "(K, D)" if name.endswith("_views.npy") else "(D,)"
            yield f"{name} is {value.dtype} {value.shape}, must be float16 {needed}"
        elif not (np.abs(np.linalg.norm(value.astype(np.float32), axis=-1) - 1) < 0.01).all():
            yield f"{name} is not of unit length"
        video = features.get(f"{name.rsplit('_', 1)[0]}_video.npy")
        if video is None:
            yield f"{name} is there without the feature of the video"
        elif value.shape[-1:] != video.shape[-1:]:
            yield f"{name} has {value.shape[-1:]} values, the feature of the video {video.shape[-1:]}"
        elif value.ndim == 2 and not np.array_equal(value[0], video):
            yield f"{name} begins with another view than the feature of the video"
