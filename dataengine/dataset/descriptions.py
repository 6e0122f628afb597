"""What each column of the index, each member of a sample and each key of its JSON means.

The reference of the documentation and the dataset card are made from these tables. A test holds them against the
schemas of `dataengine.dataset.index`: no column is without a description, and none is described that is not there.
"""

from __future__ import annotations

TABLES: dict[str, str] = {
    "clips": "One row per clip of the dataset.",
    "tracks": "One row per person of a clip. Also people whose poses are not in the dataset have a row.",
    "joints": "One row per joint of a kept track.",
    "rejects": "One row per planned clip that is not in the dataset.",
    "accuracy": "One row per clip, expert and condition. Only rendered sources have this table: their joints are known "
    "exactly.",
    "signatures": "One row per clip: what near-duplicates are found by.",
    "review": "One row per clip that is nearer to the texts of another label than to those of its own. "
    "Only datasets with features have this table. A proposal never changes a label.",
    "tombstones": "One row per clip that was taken down after the dataset was sealed. Readers leave these clips out.",
}
"""Tables of the index, in the order in which they are documented."""

_CLIP_ID = "Id of the clip, and key of its sample: source, video id, start and end."
_SOURCE = "Name of the source, as in the recipe."
_VIDEO_ID = "Id of the video within its source."

COLUMNS: dict[str, dict[str, str]] = {
    "clips": {
        "clip_id": _CLIP_ID,
        "source": _SOURCE,
        "video_id": _VIDEO_ID,
        "start": "Start of the clip in the original video, seconds.",
        "end": "End of the clip in the original video, seconds.",
        "split": "train, val or test.",
        "label": "Label in the dataset, after the label map.",
        "label_id": "Number of the label. Numbers follow the alphabetical order of the labels.",
        "source_label": "Label as the source gives it.",
        "text": "Sentence about the clip, made from its label and a template.",
        "licence": "Licence of the clip, as the source states it; null where it is unknown.",
        "consent": "Consent of the people seen, as the source states it.",
        "url": "Web page of the original video.",
        "fps": "Frames per second of the sample, as a fraction such as 30000/1001.",
        "width": "Width of the picture, pixels.",
        "height": "Height of the picture, pixels.",
        "num_frames": "Frames of the sample.",
        "num_people": "People in the sample.",
        "subject": "Id of the person the clip is about, where the source knows it.",
        "pose_coverage": "Share of frames that hold a pose, in [0, 1].",
        "confidence_mean": "Mean confidence C of the first person over frames, in [0, 1].",
        "confidence_p10": "Tenth percentile of that confidence.",
        "expert_disagreement": "Mean distance of the experts to the fused joints of the first person, in head-neck "
        "lengths; "
        "smaller is better. Null with one expert.",
        "jitter": "Mean second difference of the first person's body joints, in body heights at 30 frames per second.",
        "motion": "Range of the first person's most moving joints about the middle of the body, in body heights.",
        "truncation": "Share of the first person's seen body joints that lie at or beyond the edge of the picture.",
        "bone_variation": "Robust coefficient of variation of the first person's bone lengths.",
        "label_cosine": "Cosine of the clip's video feature and the texts of its label; null without features.",
        "label_margin": "That cosine less the best cosine of all other labels; null without features.",
        "label_rank": "1 where no other label is nearer to the video, 2 where one is, and so on; null without "
        "features.",
        "duplicate_of": "Clip of which this one is a duplicate, where duplicates are kept and marked.",
        "generation": "Round of self-training that made the poses; 0 for the experts of the recipe.",
        "shard": "Path of the shard that holds the sample, relative to the dataset.",
        "offset": "First byte of the sample in its shard.",
        "size": "Bytes of the sample in its shard.",
        "blake3": "BLAKE3 digest of those bytes.",
        "entries": "Members of the sample: name, first byte in the shard and bytes of the data of each.",
    },
    "tracks": {
        "clip_id": _CLIP_ID,
        "track_id": "Number of the track in its clip.",
        "rank": "Rank of the person in the clip; 0 is the first person.",
        "kept": "Whether the person's poses are in the sample.",
        "support_mean": "Mean number of present (expert, joint) pairs per frame.",
        "num_frames": "Frames that hold a pose of the person.",
        "coverage": "Share of the clip's frames that hold a pose of the person.",
        "score_mean": "Mean score of the joints seen.",
        "confidence_mean": "Mean confidence C over frames.",
        "confidence_p10": "Tenth percentile of the confidence C.",
        "area": "Mean area of the box around the joints, square pixels.",
        "motion": "As in `clips`, of this person.",
        "jitter": "As in `clips`, of this person.",
        "bone_variation": "As in `clips`, of this person.",
        "lift_reprojection": "As in `clips`, of this person; only in datasets with poses in space.",
        "share_<expert>": "Share of the joints that the fusion took from this expert. One column per expert of the "
        "recipe.",
    },
    "joints": {
        "clip_id": _CLIP_ID,
        "track_id": "Number of the track in its clip.",
        "joint": "Name of the joint.",
        "visible": "Share of frames in which the joint is seen.",
        "score_mean": "Mean score of the joint over the frames in which it is seen.",
        "disagreement": "Mean distance of the experts to the fused joint, in head-neck lengths; smaller is better.",
    },
    "rejects": {
        "clip_id": _CLIP_ID,
        "source": _SOURCE,
        "video_id": _VIDEO_ID,
        "pass": "Pass that decided.",
        "reason": "Reason, one of a closed list.",
        "detail": "What was found, in words.",
        "value": "Value that decided, where the reason compares one.",
        "threshold": "Threshold that the value missed.",
        "retryable": "Whether running the build again may succeed.",
    },
    "accuracy": {
        "clip_id": _CLIP_ID,
        "expert": "Name of the expert, or of a fusion.",
        "condition": "What the rendered scene makes difficult.",
        "num_joints": "Joints of the truth that lie within the picture.",
        "num_right": "Joints within half a head-neck length of the truth (PCKh@0.5).",
    },
    "signatures": {
        "clip_id": _CLIP_ID,
        "hashes": "One 64-bit perceptual hash of the picture per half second.",
        "words": "One normalised pose of the first person per half second, as bytes.",
    },
    "review": {
        "clip_id": _CLIP_ID,
        "label": "Label of the clip; null where it has none.",
        "proposed": "Label that fits the video better.",
        "cosine": "Cosine of the clip's video feature and the texts of the proposed label.",
        "margin": "Lead of that cosine over the cosine of the clip's own label.",
    },
    "tombstones": {
        "clip_id": _CLIP_ID,
        "reason": "Why the clip was taken down, as the request states it.",
    },
}
"""table -> column -> meaning. `share_<expert>` stands for one column per expert."""

ENTRIES: dict[str, str] = {
    "json": "clip_id, source, label, split, frame rate, picture size, joint names, licence and more",
    "keypoints.npy": "(M, T, V, 2) float32 pixels from the top-left, NaN where unseen; people ranked",
    "scores.npy": "(M, T, V) float16 in [0, 1], 0 where unseen",
    "confidence.npy": "(M, T) float16, agreement C of the experts in [0, 1]",
    "timestamps.npy": "(T,) float32 seconds from the clip's start",
    "keypoints3d.npy": "(M, T, V, 3) float16 metres from the middle of the hips, x right, y down, z away from the "
    "camera, NaN in frames without the person; only of datasets with poses in space",
    "<feature>_video.npy": "(D,) float16 of unit length, what the video shows, by that feature (such as viclip)",
    "<feature>_text.npy": "(D,) float16 of unit length, what the label says",
    "<feature>_views.npy": "(K, D) float16 of unit length, one video feature per temporal view",
    "mp4": "the clip's video, in a shard of `shards/video`",
}
"""Members of a sample by what follows the first dot of their name.

M people, T frames, V joints, D numbers of a feature.
"""


def entry_meaning(entry: str) -> str:
    """What a member of a sample is, '' where that is not known."""
    stem, sign, kind = entry.rpartition("_")
    return ENTRIES.get(entry) or (ENTRIES.get(f"<feature>_{kind}", "") if stem and sign else "")


JSON_KEYS: dict[str, str] = {
    "clip_id": _CLIP_ID,
    "source": _SOURCE,
    "label": "Label in the dataset, or null.",
    "label_id": "Number of the label, or null.",
    "source_label": "Label as the source gives it, or null.",
    "text": "Sentence about the clip, or null.",
    "split": "train, val or test.",
    "fps": "Frames per second, as a fraction such as 30000/1001.",
    "width": "Width of the picture, pixels.",
    "height": "Height of the picture, pixels.",
    "num_frames": "T, the frames of every array.",
    "skeleton": "Name of the joint layout.",
    "joints": "Names of the V joints, in order.",
    "tracks": "Ids of the M tracks, in the order of the arrays.",
    "generation": "Round of self-training that made the poses; 0 for the experts of the recipe.",
    "licence": "Licence of the clip, or null where it is unknown.",
    "spans": "What happens when, as in the index; only where a table of `curate.spans` speaks of the clip.",
}
"""Keys of KEY.json, the first member of every sample."""
