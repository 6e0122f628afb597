"""The one registry: names of components of every kind and where they live, for `dataengine` and `training`.

Modules are imported when a component is asked for. To add a component: one file in its room and one
line in COMPONENTS. A package of its own adds one without touching this file, by an entry point of the
group `dataengine.KIND` (or `training.KIND`), for example in its pyproject.toml:

    [project.entry-points."dataengine.experts"]
    mine = "mypackage.experts:Mine"

What another package offers is treated as what is built in: options are checked, `list -v` tells its
summary, its weights and `check` count. A package that cannot be used is named in one line and leaves
all others alone.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Mapping
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
        "imported": "dataengine.sources.imported:Imported",
        "sample": "dataengine.sources.synthetic:SyntheticCorpus",
    },
    "fetchers": {
        "mirror": "dataengine.fetch.mirror:Archives",
        "youtube": "dataengine.fetch.youtube:YouTube",
    },
    "decoders": {
        "pyav": "dataengine.media.decode:PyAVDecoder",
        "decord": "dataengine.media.decord_decoder:DecordDecoder",
    },
    "detectors": {
        "synthetic_detector": "dataengine.experts.synthetic:SyntheticDetector",
        "onnx_detector": "dataengine.experts.onnx:OnnxDetector",
        "rtdetr": "dataengine.experts.rtdetr:RtDetr",
        "nanodet": "dataengine.experts.nanodet:NanoDet",
        "movenet_multipose": "dataengine.experts.movenet_multipose:MoveNetMultiPoseDetector",
        "nanodet_multipose": "dataengine.experts.nanodet_multipose:NanoDetMultiPose",
    },
    "face_detectors": {
        "blazeface": "dataengine.experts.blazeface:BlazeFace",
    },
    "experts": {
        "synthetic_topdown": "dataengine.experts.synthetic:SyntheticTopDown",
        "synthetic_bottomup": "dataengine.experts.synthetic:SyntheticBottomUp",
        "synthetic_regression": "dataengine.experts.synthetic:SyntheticRegression",
        "movenet": "dataengine.experts.movenet:MoveNet",
        "efficientpose": "dataengine.experts.efficientpose:EfficientPose",
        "movenet_multipose": "dataengine.experts.movenet_multipose:MoveNetMultiPose",
        "mediapipe": "dataengine.experts.mediapipe:MediaPipe",
        "onnx": "dataengine.experts.onnx:Onnx",
        "precomputed": "dataengine.experts.precomputed:Precomputed",
        "vitpose": "dataengine.experts.vitpose:VitPose",
        "rtmpose": "dataengine.experts.rtmpose:RtmPose",
        "keypoint_rcnn": "dataengine.experts.keypoint_rcnn:KeypointRcnn",
        "mmpose": "dataengine.experts.mmpose:MmPose",
        "ultralytics": "dataengine.experts.ultralytics:Ultralytics",
        "anchor_pose": "dataengine.experts.anchor_pose:AnchorPose",
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
    "lifters": {
        "temporal": "dataengine.lift.temporal:Temporal",
        "videopose3d": "dataengine.lift.videopose3d:VideoPose3D",
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
        "reprojection": "dataengine.filters.reprojection:Reprojection",
    },
    "features": {
        "viclip": "dataengine.features.viclip:ViCLIP",
        "open_clip": "dataengine.features.open_clip:OpenClip",
    },
    "students": {
        "movenet": "dataengine.refine.movenet:MoveNetStudent",
        "rtmpose": "dataengine.refine.rtmpose:RtmPoseStudent",
        "vitpose": "dataengine.refine.vitpose:VitPoseStudent",
        "anchor_pose": "dataengine.refine.anchor_pose:AnchorPoseStudent",
    },
    "relabel": {
        "table": "dataengine.labels.label_table:LabelTable",
    },
    "exports": {
        "pyskl": "dataengine.exports.pyskl:Pyskl",
        "coco": "dataengine.exports.coco:Coco",
        "unik": "dataengine.exports.unik:Unik",
        "hf": "dataengine.exports.hf:HuggingFace",
        "openpose": "dataengine.exports.openpose:OpenPose",
        "alphapose": "dataengine.exports.alphapose:AlphaPose",
        "energon": "dataengine.exports.energon:Energon",
    },
}
"""Components of this package: kind -> name -> "module:class"."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of component.

    Attributes:
        name: for example "experts".
        package: "dataengine" or "training"; entry points are of the group `PACKAGE.NAME`.
        base: "module:class" that its components derive from.
        table: "module:dictionary" with the built-in components; None: COMPONENTS has them.
    """

    name: str
    package: str
    base: str
    table: str | None = None

    @property
    def builtin(self) -> Mapping[str, str]:
        """name -> "module:attribute" of what this package brings."""
        return COMPONENTS[self.name] if self.table is None else _import(self.table)


_CORE = "dataengine.core.component"
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("sources", "dataengine", f"{_CORE}:Source"),
        Kind("fetchers", "dataengine", "dataengine.fetch:Fetcher"),
        Kind("decoders", "dataengine", "dataengine.media.decode:Decoder"),
        Kind("detectors", "dataengine", f"{_CORE}:Detector"),
        Kind("face_detectors", "dataengine", f"{_CORE}:FaceDetector"),
        Kind("experts", "dataengine", f"{_CORE}:Expert"),
        Kind("trackers", "dataengine", f"{_CORE}:Tracker"),
        Kind("fusion", "dataengine", f"{_CORE}:Fusion"),
        Kind("lifters", "dataengine", f"{_CORE}:Lifter"),
        Kind("filters", "dataengine", f"{_CORE}:Filter"),
        Kind("features", "dataengine", f"{_CORE}:Features"),
        Kind("students", "dataengine", f"{_CORE}:Student"),
        Kind("relabel", "dataengine", "dataengine.labels.label_table:LabelTable"),
        Kind("exports", "dataengine", "dataengine.exports.base:Export"),
        Kind("passes", "dataengine", "dataengine.passes.base:Pass", "dataengine.passes:PASSES"),
        Kind("backbones", "training", "training.backbones.base:Backbone", "training.registry:BACKBONES"),
        Kind("methods", "training", "training.methods.base:Method", "training.registry:METHODS"),
        Kind("formats", "training", "training.data.formats.base:Format", "training.registry:FORMATS"),
    )
}
"""Every kind of component. Tables of `training` are read when they are asked for."""


@dataclasses.dataclass(frozen=True)
class _Offer:
    """What another installed package offers under a name."""

    place: str
    package: str


def kind(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ComponentError: there is none; the message suggests the nearest.
    """
    if name not in KINDS:
        raise ComponentError(f"unknown kind of component {name!r}{suggestion(name, KINDS)}")
    return KINDS[name]


def kinds_of(package: str) -> list[str]:
    """Names of the kinds of components of one package, "dataengine" or "training"."""
    return [each.name for each in KINDS.values() if each.package == package]


def names(kind_name: str) -> list[str]:
    """Names of all components of one kind, those of other installed packages last."""
    builtin = kind(kind_name).builtin
    return [*builtin, *(name for name in _installed(kind_name) if name not in builtin)]


@functools.cache
def _installed(kind_name: str) -> dict[str, _Offer]:
    """Components that other installed packages offer."""
    found: dict[str, _Offer] = {}
    for point in importlib.metadata.entry_points(group=f"{kind(kind_name).package}.{kind_name}"):
        package = point.dist.name if point.dist is not None else "an unknown package"
        found.setdefault(point.name, _Offer(point.value, package))
    return found


def refresh() -> None:
    """Forget what other packages offer, so that the next question looks again."""
    _installed.cache_clear()
    _find.cache_clear()


def _import(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def find(kind_name: str, name: str) -> Any:
    """What a name stands for: the class of a component, or a function that makes one.

    Raises:
        ComponentError: no such name, with the nearest one; or another package offers it and it cannot be
            imported, or is not of the kind, with the name of that package.
    """
    own = kind(kind_name)
    if name not in own.builtin and name not in _installed(kind_name):
        raise ComponentError(f"unknown name {name!r} in {kind_name}{suggestion(name, names(kind_name))}")
    return _find(kind_name, name, own.builtin.get(name))


@functools.cache
def _find(kind_name: str, name: str, builtin: str | None) -> Any:
    if builtin is not None:
        return _import(builtin)
    offer = _installed(kind_name)[name]
    where = f"package {offer.package!r} offers {name!r} in {kind_name}, but {offer.place}"
    try:
        found = _import(offer.place)
    except Exception as error:  # another package may raise anything
        raise ComponentError(f"{where} cannot be imported: {' '.join(str(error).split())}") from error
    wrong = _wrong(KINDS[kind_name], found)
    if wrong is not None:
        raise ComponentError(f"{where} {wrong}")
    return found


def _wrong(own: Kind, found: Any) -> str | None:
    """What keeps an object from being one of a kind; None where nothing does."""
    base = _import(own.base)
    called = own.base.replace(":", ".")
    if base is object:
        return None if callable(found) else "cannot be called"
    if not (isinstance(found, type) and issubclass(found, base)):
        return f"is no subclass of {called}"
    if inspect.isabstract(found):
        return f"lacks {', '.join(sorted(vars(found)['__abstractmethods__']))}"
    if own.package != "dataengine":
        return None
    frozen = dataclasses.is_dataclass(found) and found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return None if frozen else "is no frozen dataclass"


def component_class(kind_name: str, name: str) -> type[Any]:
    """The class behind a name; raises as `find`."""
    found: type[Any] = find(kind_name, name)
    return found


def add(kind_name: str, name: str, place: str) -> None:
    """Add a component to this process alone, as a benchmark does; packages use entry points.

    Args:
        place: "module:class".
    """
    table: dict[str, str] = kind(kind_name).builtin  # type: ignore[assignment]
    table[name] = place
    refresh()


def options(cls: Any) -> dict[str, Any]:
    """Options of a class by name with their defaults; None where an option has no default or makes its own."""
    if hasattr(cls, "__dataclass_fields__"):
        return {f.name: None if f.default is dataclasses.MISSING else f.default for f in _fields(cls)}
    parameters = inspect.signature(cls).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


@functools.cache
def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The public fields of a component class, its name apart."""
    public = [f for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_") and f.name != "name"]
    return tuple(sorted(public, key=lambda f: f.kw_only is True))


@functools.cache
def _validator(cls: Any) -> pydantic.TypeAdapter[Any]:
    """Built once per class: building one takes far longer than using it."""
    return pydantic.TypeAdapter(cls)


@functools.cache
def _takes_name(cls: Any) -> bool:
    return any(f.name == "name" for f in dataclasses.fields(cls))


def create(kind_name: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Make the component `name` of a kind with `options`, strictly checked.

    A component class with a field `name` is told the name it goes by.

    Raises:
        ComponentError: unknown name or option, or a value of the wrong type or range.
    """
    cls: Any = component_class(kind_name, name)
    given = dict(options or {})
    if given:
        allowed = [f.name for f in _fields(cls)]
        for key in given:
            if key not in allowed:
                raise ComponentError(f"[{kind_name}.{name}] has no option {key!r}{suggestion(key, allowed)}")
    if _takes_name(cls):
        given["name"] = name
    try:
        return _validator(cls).validate_python(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # the component's own check of all its options
            message = first["msg"].removeprefix("Value error, ")
            raise ComponentError(f"[{kind_name}.{name}] {message}") from error
        where = ".".join(str(part) for part in first["loc"])
        raise ComponentError(f"[{kind_name}.{name}] {where} = {first.get('input')!r}: {first['msg']}") from error
    except ValueError as error:
        raise ComponentError(f"[{kind_name}.{name}] {error}") from error


def config(component: Any) -> dict[str, Any]:
    """The whole configuration of a component: its public fields by name."""
    return {
        f.name: getattr(component, f.name)
        for f in dataclasses.fields(component)
        if f.init and not f.name.startswith("_")
    }
