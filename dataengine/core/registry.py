"""Names of components and where they live; modules are imported when a component is created.

To add a component: one file in its room and one line here. A package of your own adds one without
touching this file, by an entry point of the group `dataengine.KIND`, for example in its pyproject.toml:
`[project.entry-points."dataengine.experts"]` with `mine = "mypackage.experts:Mine"`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
from typing import Any

import pydantic

from dataengine.core.errors import ComponentError, suggestion

COMPONENTS: dict[str, dict[str, str]] = {
    "sources": {
        "kinetics400": "dataengine.sources.kinetics:Kinetics",
        "kinetics600": "dataengine.sources.kinetics:Kinetics",
        "kinetics700": "dataengine.sources.kinetics:Kinetics",
        "kinetics700_2020": "dataengine.sources.kinetics:Kinetics",
        "cap": "dataengine.sources.cap:Cap",
        "folder": "dataengine.sources.folder:Folder",
        "sample": "dataengine.sources.synthetic:SampleCorpus",
    },
    "fetchers": {
        "mirror": "dataengine.fetch.mirror:Archives",
        "youtube": "dataengine.fetch.youtube:YouTube",
    },
    "decoders": {
        "pyav": "dataengine.media.decode:PyAVDecoder",
        "decord": "dataengine.media.decode:DecordDecoder",
    },
    "detectors": {
        "synthetic_detector": "dataengine.experts.synthetic:SyntheticDetector",
        "onnx_detector": "dataengine.experts.onnx:OnnxDetector",
        "rtdetr": "dataengine.experts.rtdetr:RtDetr",
    },
    "experts": {
        "synthetic_topdown": "dataengine.experts.synthetic:SyntheticTopDown",
        "synthetic_bottomup": "dataengine.experts.synthetic:SyntheticBottomUp",
        "synthetic_regression": "dataengine.experts.synthetic:SyntheticRegression",
        "mediapipe": "dataengine.experts.mediapipe:MediaPipe",
        "onnx": "dataengine.experts.onnx:Onnx",
        "precomputed": "dataengine.experts.precomputed:Precomputed",
        "vitpose": "dataengine.experts.vitpose:VitPose",
        "keypoint_rcnn": "dataengine.experts.keypoint_rcnn:KeypointRcnn",
        "mmpose": "dataengine.experts.mmpose:MmPose",
        "ultralytics": "dataengine.experts.ultralytics:Ultralytics",
    },
    "trackers": {
        "oks": "dataengine.tracking:OksTracker",
    },
    "fusion": {
        "ssta": "dataengine.fusion.ssta:SSTA",
        "consensus": "dataengine.fusion.consensus:Consensus",
        "spline": "dataengine.fusion.spline:Spline",
        "viterbi_path": "dataengine.fusion.viterbi_path:ViterbiPath",
        "mean_shift": "dataengine.fusion.mean_shift:MeanShift",
        "median": "dataengine.fusion.median:Median",
        "mean": "dataengine.fusion.mean:Mean",
        "best": "dataengine.fusion.best:Best",
    },
    "filters": {
        "pose_coverage": "dataengine.filters.pose_coverage:PoseCoverage",
        "body_visible": "dataengine.filters.body_visible:BodyVisible",
        "confidence": "dataengine.filters.confidence:Confidence",
        "truncation": "dataengine.filters.truncation:Truncation",
        "jitter": "dataengine.filters.jitter:Jitter",
        "bone_variation": "dataengine.filters.bone_variation:BoneVariation",
        "motion": "dataengine.filters.motion:Motion",
        "camera_cut": "dataengine.filters.camera_cut:CameraCut",
        "num_people": "dataengine.filters.num_people:NumPeople",
        "length": "dataengine.filters.length:Length",
    },
    "features": {
        "viclip": "dataengine.features.viclip:ViCLIP",
        "open_clip": "dataengine.features.open_clip:OpenClip",
    },
    "relabel": {
        "table": "dataengine.labels.label_table:LabelTable",
    },
}


def names(kind: str) -> list[str]:
    """Names of all components of one kind, those of other installed packages last."""
    return [*COMPONENTS[kind], *(name for name in _installed(kind) if name not in COMPONENTS[kind])]


@functools.cache
def _installed(kind: str) -> dict[str, str]:
    """Components that other installed packages offer."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=f"dataengine.{kind}")}


def component_class(kind: str, name: str) -> type[Any]:
    """Import the class behind a name.

    Raises:
        ComponentError: no such name; the message suggests the nearest.
    """
    if kind not in COMPONENTS:
        raise ComponentError(f"unknown kind of component {kind!r}{suggestion(kind, COMPONENTS)}")
    place = COMPONENTS[kind].get(name) or _installed(kind).get(name)
    if place is None:
        raise ComponentError(f"unknown name {name!r} in {kind}{suggestion(name, names(kind))}")
    module, _, attribute = place.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def create(kind: str, name: str, options: dict[str, Any] | None = None) -> Any:
    """Make the component `name` of `kind` with `options`, strictly checked.

    A component class with a field `name` is told the name it goes by.

    Raises:
        ComponentError: unknown name or option, or a value of the wrong type or range.
    """
    cls = component_class(kind, name)
    given = dict(options or {})
    allowed = [f.name for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_") and f.name != "name"]
    for key in given:
        if key not in allowed:
            raise ComponentError(f"[{kind}.{name}] has no option {key!r}{suggestion(key, allowed)}")
    if any(f.name == "name" for f in dataclasses.fields(cls)):
        given["name"] = name
    try:
        return pydantic.TypeAdapter(cls).validate_python(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        raise ComponentError(f"[{kind}.{name}] {where} = {first.get('input')!r}: {first['msg']}") from error
    except ValueError as error:
        raise ComponentError(f"[{kind}.{name}] {error}") from error


def config(component: Any) -> dict[str, Any]:
    """The whole configuration of a component: its public fields by name."""
    return {
        f.name: getattr(component, f.name)
        for f in dataclasses.fields(component)
        if f.init and not f.name.startswith("_")
    }
