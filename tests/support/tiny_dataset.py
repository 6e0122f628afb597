"""A small random dataset, made with the public writers, that holds to every rule of the format."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.skeletons import SKELETONS
from dataengine.dataset import index
from dataengine.io.shards import ShardWriter

LABELS = ("clap", "jump", "wave")
EXPERTS = ("blob", "stick")
JOINTS = SKELETONS["posetics17"].joints


def poses(rng: np.random.Generator, people: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (M, T, 17, 2) and scores (M, T, 17); one joint in ten is unseen."""
    keypoints = rng.uniform(1, 300, (people, frames, 17, 2)).astype(np.float32)
    scores = rng.uniform(0.1, 1, (people, frames, 17)).astype(np.float16)
    unseen = rng.random(scores.shape) < 0.1
    keypoints[unseen], scores[unseen] = np.nan, 0
    return keypoints, scores


def rows_of(clip_id: str, number: int, people: int, frames: int) -> dict[str, Any]:
    label = number % len(LABELS)
    return {
        "clip_id": clip_id,
        "source": "random",
        "video_id": f"video{number:03d}",
        "start": 0.0,
        "end": frames / 25,
        "split": ("train", "val")[number % 2],
        "label": LABELS[label],
        "label_id": label,
        "source_label": LABELS[label].upper(),
        "text": f"somebody does {LABELS[label]}",
        "licence": ("CC0", "CC-BY-4.0")[number % 2],
        "fps": "25",
        "width": 320,
        "height": 240,
        "num_frames": frames,
        "num_people": people,
        "pose_coverage": 1.0,
        "confidence_mean": 1 - number / 100,
        "confidence_p10": 0.9 - number / 100,
        "expert_disagreement": 0.1,
        "jitter": float("nan") if number == 0 else 0.1,
        "motion": 0.2,
        "truncation": 0.0,
        "bone_variation": 0.1,
        "generation": 0,
    }


def build(
    out: Path,
    clips: int = 8,
    seed: int = 0,
    rejected: int = 3,
    per_shard: int = 3,
    spans: Mapping[int, list[dict[str, Any]]] | None = None,
) -> Path:
    """Write a dataset under `out`/dataset and return that folder; `spans` are those of some clips by their numbers."""
    rng = np.random.default_rng(seed)
    root = out / "dataset"
    tables: dict[str, list[dict[str, Any]]] = {"clips": [], "tracks": [], "joints": [], "rejects": []}
    known = {}
    for split in ("train", "val"):
        numbers = [number for number in range(clips) if ("train", "val")[number % 2] == split]
        for part, chunk in enumerate(batched(numbers, per_shard)):
            shard = f"shards/pose/{split}-{part:06d}.tar"
            with ShardWriter(root / shard) as writer:
                for number in chunk:
                    people, frames = int(rng.integers(1, 3)), int(rng.integers(4, 9))
                    clip_id = f"random-video{number:03d}-0-{frames * 40}"
                    row = rows_of(clip_id, number, people, frames)
                    said = {"spans": spans[number]} if spans and number in spans else {}
                    keypoints, scores = poses(rng, people, frames)
                    facts = (
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
                    )
                    facts += ("num_frames", "generation", "licence")
                    entries = {
                        "json": {name: row[name] for name in facts}
                        | {"skeleton": "posetics17", "joints": list(JOINTS), "tracks": list(range(people))}
                        | said,
                        "keypoints.npy": keypoints,
                        "scores.npy": scores,
                        "confidence.npy": rng.random((people, frames)).astype(np.float16),
                        "timestamps.npy": (np.arange(frames) / 25).astype(np.float32),
                    }
                    written = writer.write(clip_id, entries)
                    place = {"shard": shard, "offset": written.offset, "size": written.size, "blake3": written.blake3}
                    tables["clips"].append(
                        row | said | place | {"entries": [entry._asdict() for entry in written.entries]}
                    )
                    tables["tracks"] += [track_row(clip_id, track, frames, rng) for track in range(people)]
                    tables["joints"] += [
                        joint_row(clip_id, track, joint, rng) for track in range(people) for joint in JOINTS
                    ]
            assert writer.shard is not None
            known[shard] = (writer.shard.bytes, writer.shard.blake3)
    reasons = itertools.cycle(("jitter", "media_missing"))
    for number, reason in zip(range(rejected), reasons):
        row = {
            "clip_id": f"random-gone{number:03d}-0-100",
            "source": "random",
            "video_id": f"gone{number:03d}",
            "pass": "curate",
            "reason": reason,
        }
        tables["rejects"].append(row | {"detail": "planted", "value": 0.9, "threshold": 0.5, "retryable": False})
    added = [] if spans is None else [{"name": "spans", "type": "spans", "null": True, "description": ""}]
    schemas = index.TABLES | {"tracks": index.tracks_schema(EXPERTS), "clips": index.clips_schema(added)}
    for name, rows in tables.items():
        index.write_table(root / "index" / name, rows, schemas[name])
    counts = {name: len(rows) for name, rows in tables.items()} | {"planned": clips + rejected}
    facts = {"columns": added} if added else {}
    index.write_manifest(root, index.build_manifest(root, counts, "0" * 64, known, skeleton="posetics17", **facts))
    return root


def batched(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def track_row(clip_id: str, track: int, frames: int, rng: np.random.Generator) -> dict[str, Any]:
    share = float(rng.random())
    row = {
        "clip_id": clip_id,
        "track_id": track,
        "rank": track,
        "kept": True,
        "support_mean": 20.0,
        "num_frames": frames,
        "coverage": 1.0,
    }
    measures = {
        "score_mean": 0.5,
        "confidence_p10": share,
        "area": 900.0,
        "motion": 0.2,
        "jitter": 0.1,
        "bone_variation": 0.1,
    }
    return row | measures | {"confidence_mean": share, "share_blob": share, "share_stick": 1 - share}


def joint_row(clip_id: str, track: int, joint: str, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "clip_id": clip_id,
        "track_id": track,
        "joint": joint,
        "visible": 0.9,
        "score_mean": float(rng.random()),
        "disagreement": 0.1,
    }
