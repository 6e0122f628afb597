"""Why clips are left out of a dataset: the built-in reasons, and those that components of other packages bring.

The list of reasons is closed. A filter names its reason in `reason` and, where that reason is not built in, says what
it means in `meaning`. A pass lists its own reasons in `reasons`. The manifest of a dataset carries the reasons that are
not built in, so that `verify`, the report and the card know them wherever the dataset goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REASONS: dict[str, str] = {
    # plan
    "bad_row": "an annotation row cannot be read",
    "duplicate_id": "another row already has this clip id",
    "leak_guard": "the video, or a near-duplicate of it, belongs to an evaluation set that the recipe keeps out",
    "takedown": "the clip or its video was taken down",
    "not_in_split": "a file of saved poses has splits, and none of them names the annotation",
    # probe
    "media_missing": "no media file was found for the clip",
    "media_empty": "the media file has no bytes",
    "media_corrupt": "the media file cannot be opened (no index, garbage, truncated header)",
    "no_video_stream": "the media file holds no video (audio only)",
    "too_large": "the picture is larger than the stated pixel limit, or the file than the byte limit",
    "too_long": "the span is longer than the stated duration limit",
    "not_a_file": "the path is not a regular file (a pipe, a device, a folder)",
    "media_unreadable": "the file system refused to give the file",
    "media_timeout": "reading or decoding took longer than the stated limit",
    "gone": "the video or its archive is no longer offered (removed, account closed, HTTP 404 or 410)",
    "private": "the video or its archive is offered to others only (private, members only, age check, HTTP 401 or 403)",
    "geo_blocked": "the video or its archive is not offered in this country (HTTP 451)",
    "timeout": "a server did not answer, or stopped sending, in every try",
    "unavailable": "a server refused or broke off in every try, or asks to come back later",
    "corrupt": "what was downloaded is not what was promised (hash, length, torn archive)",
    "host_refused": "the media, their archive or a redirect lie on a host that neither mirror list nor recipe allow",
    "disk_limit": "the download needs more room than the disk or the stated limit leaves",
    # pose
    "decode_failed": "no frame could be decoded in the clip's span",
    "stream_damaged": "the stream breaks off or is damaged beyond the stated share of frames",
    "span_empty": "the clip's span holds no frame of the file",
    "expert_crashed": "an expert's process died on this clip, twice",
    "expert_timeout": "an expert gave no answer within its deadline, twice",
    "expert_failed": "an expert refused the clip's frames",
    "worker_killed": "the clip kept killing the worker that ran it and stands in quarantine",
    "out_of_memory": "memory ran out while the clip was processed, twice",
    "unit_timeout": "the clip alone ran past the unit deadline and stands in quarantine",
    "internal_error": "an unforeseen error while the clip was processed",
    "set_aside": "the clip's unit failed wherever it was tried, for no fault of the clip; build again",
    # annotations
    "people_refused": "people decided that the clip does not stay",
    "not_chosen": "the recipe keeps the clips of a list, and the clip is not on it",
    # curate
    "no_person": "no person was found in any frame",
    "pose_coverage": "too few frames hold a pose",
    "body_visible": "too few frames show enough body joints",
    "confidence": "the experts disagree or are not confident",
    "truncation": "too many joints lie at or beyond the picture's edge",
    "jitter": "joints tremble from frame to frame",
    "bone_variation": "bone lengths vary as no body's do",
    "motion": "too little motion",
    "camera_cut": "the camera cuts within the clip",
    "reprojection": "the poses in space do not project onto those of the picture",
    "num_people": "more or fewer people than wanted",
    "length": "too few or too many frames",
    "label_left_out": "the relabel table leaves this label out, or does not know it",
    "duplicate": "the same pictures are already in the dataset",
    "licence_unknown": "its pictures would be copied into the dataset, and no licence says that they may",
    "class_cap": "its label has as many clips as the recipe wants",
    "class_small": "its label has fewer clips than the recipe wants",
    # label_check
    "label_disagrees": "the video's features do not agree with its label",
}
"""Every built-in reason with its meaning."""


DECISIONS = frozenset(
    {
        *(
            "bad_row",
            "duplicate_id",
            "leak_guard",
            "takedown",
            "not_in_split",
            "no_person",
            "pose_coverage",
            "body_visible",
        ),
        *(
            "confidence",
            "truncation",
            "jitter",
            "bone_variation",
            "motion",
            "camera_cut",
            "num_people",
            "length",
            "reprojection",
        ),
        *("label_left_out", "duplicate", "licence_unknown", "class_cap", "class_small", "label_disagrees"),
        *("people_refused", "not_chosen"),
    }
)
"""The built-in reasons that a plan or a recipe decides by; all others are failures, which may be tried again."""


def of_manifest(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Reason -> meaning of every reason that a dataset may give: the built-in ones, and its manifest's own."""
    return {**manifest.get("reasons", {}), **REASONS}
