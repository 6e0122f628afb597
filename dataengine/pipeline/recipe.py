"""Recipes: TOML -> validated `Recipe`, overlays and overrides, fingerprints.

A recipe is complete and flat; an unknown key or name is an error that says where and suggests the
nearest allowed one, before any work. Options of a component stand in `[KIND.NAME]` and are checked
by the component itself.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
from blake3 import blake3

from dataengine.core import registry, settings
from dataengine.core.errors import ComponentError, RecipeError, suggestion
from dataengine.core.settings import Table, find_folder
from dataengine.io import addresses

COMPONENT_TABLES = (
    "sources",
    "fetchers",
    "decoders",
    "detectors",
    "face_detectors",
    "experts",
    "trackers",
    "fusion",
    "lifters",
    "filters",
    "features",
    "students",
    "passes",
)
"""Tables whose sub-tables are options of components of that kind."""


TABLES = ("plan", "fetch", "pose", "refine", "lift", "curate", "embed", "pack", "report", "engine")
"""Tables of the steps of a build, in their order."""

PLACES = ("path", "mirror")
"""Keys of every [sources.NAME]: where its files lie, or come from; the source itself does not see them."""


class Head(Table):
    """[recipe]: what the dataset is called."""

    name: str = pydantic.Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the recipe. The default folder of a build is builds/NAME."""
    version: int = pydantic.Field(ge=1)
    """Number that is raised when the recipe changes."""
    description: str = ""
    """One sentence about the dataset, for the report and the dataset card."""


class PlanTable(Table):
    """[plan]: which clips are planned, in which units and splits."""

    clips_per_unit: int = pydantic.Field(default=16, ge=1, le=10_000)
    """Clips in a unit: the smallest piece of work that is committed, and run again when it fails."""
    leak_guard: list[str] = []
    """Evaluation sets whose videos are left out: names of CSV files in manifests/, the data root or a source's
    folder (column youtube_id or video_id), paths of such files, or paths of datasets built before. Near-duplicates of
    the clips of a dataset are left out, too."""
    seed: int = 0
    """Seed of what is drawn: the videos or subjects of `splits`, and the clips that `curate.max_per_label` keeps."""
    splits: dict[Literal["val", "test"], float] = {}
    """Shares of val and test to take from the clips that sources put into train, for example { val = 0.05 }."""
    split_by: Literal["video", "subject"] = "video"
    """What `splits` keeps together: all clips of a video, or all clips of a subject."""

    @pydantic.field_validator("splits")
    @classmethod
    def _shares(cls, splits: dict[str, float]) -> dict[str, float]:
        if any(share < 0 for share in splits.values()) or sum(splits.values()) >= 1:
            raise ValueError("shares of val and test are at least 0 and together less than 1")
        return splits


class FetchTable(Table):
    """[fetch]: limits of media files, and how missing files are downloaded. Only the limits can change a dataset."""

    max_bytes: int = pydantic.Field(default=4 << 30, ge=1)
    """Largest media file, bytes. Larger files are rejected (`too_large`)."""
    max_pixels: int = pydantic.Field(default=4096 * 2304, ge=1)
    """Largest picture, width times height. Larger pictures are rejected (`too_large`)."""
    fetchers: list[str] = ["mirror"]
    """Ways to download missing media, tried in this order. An empty list downloads nothing."""
    mirrors: str = "mirrors"
    """List of mirrors: its name in manifests/, or the path of a TOML file."""
    connections: int = pydantic.Field(default=4, ge=1, le=64)
    """Downloads at the same time in a process."""
    rate: float = pydantic.Field(default=4.0, gt=0, le=1000)
    """Requests a second, of all processes that share a data root together."""
    retries: int = pydantic.Field(default=5, ge=0, le=100)
    """Tries of a request after the first one fails."""
    timeout: float = pydantic.Field(default=60.0, gt=0)
    """Seconds that a server may send nothing, or nearly nothing."""
    bandwidth: float | None = pydantic.Field(default=None, gt=0)
    """Bytes a second, of all processes that share a data root together. Default: no limit."""
    max_disk: int | None = pydantic.Field(default=None, ge=1)
    """Bytes that the data root may take. Default: what the disk has."""
    proxy: str | None = None
    """Url of an HTTP proxy. Default: HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment."""
    cookies: str | None = None
    """Path of a cookie file in Netscape form."""
    hosts: list[str] = []
    """Further hosts that lists, redirects and urls of annotations may name, besides those of the mirror list: HOST,
    *.HOST (every host below) or http://HOST, with :PORT where one is meant. A host named here (not with *) may have a
    private address."""

    @pydantic.field_validator("hosts")
    @classmethod
    def _are_hosts(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            addresses.parse(entry)
        return entries


class PoseTable(Table):
    """[pose]: how people are found, tracked and fused."""

    decoder: str = "pyav"
    """Video decoder."""
    detector: str | None = None
    """Person detector. Experts that look inside person boxes need one."""
    detect_every: int = pydantic.Field(default=1, ge=1, le=100)
    """Frames from one detection to the next. Boxes follow the poses in between."""
    max_boxes: int | None = pydantic.Field(default=None, ge=1, le=1000)
    """Most people per frame that experts which look inside boxes look at, apart from the first such expert: only people
    that the first one found, and of these the ones it is surest of. So the first such expert should be a fast one.
    Default: every box of the detector."""
    experts: list[str] = []
    """Pose estimators. None where a source brings poses in place of videos."""
    expert_every: dict[str, int] = {}
    """Frames from one look of an expert to the next, by its name; experts that are not named look at every frame. In
    the frames between, its joints move in a straight line from one look to the next. Looks are at most 0.1 seconds
    apart, so slow or thinned videos are seen more densely. The first expert that looks inside boxes looks at every
    frame."""
    tracker: str = "oks"
    """Tracker that links the people of all frames and experts."""
    fusion: str = "ssta"
    """Rule that makes one pose of the poses of all experts."""
    expert_weights: dict[str, float] = {}
    """Weight of an expert in the fusion, by its name; 1 for experts that are not named."""
    calibration: str | None = None
    """Path of a calibration file, which corrects experts before the fusion (`dataengine.fusion.calibration`,
    `dataengine.fusion.score_calibration`), or "none". Default: the built-in score calibration of each expert that has
    one."""
    isolated: dict[str, float] = {}
    """Experts that run in a process of their own, each with the seconds that a batch of frames may take."""
    skeleton: str = "posetics17"
    """Joint layout of the dataset."""
    max_people: int = pydantic.Field(default=2, ge=1, le=32)
    """People kept of a clip, the best ranked first."""
    max_tracks: int = pydantic.Field(default=8, ge=1, le=128)
    """People whose poses are stored in `work/` for audits."""
    max_fps: float | None = pydantic.Field(default=None, gt=0)
    """Highest frame rate. Faster videos are thinned to it. Default: every frame."""

    @property
    def every(self) -> list[int]:
        """Of each expert, the frames from one look to the next."""
        return [self.expert_every.get(name, 1) for name in self.experts]

    @property
    def calibration_file(self) -> str | None:
        """Path of the calibration file, where the recipe names one."""
        return None if self.calibration == "none" else self.calibration


class GateTable(Table):
    """[refine.gate]: what a generation has to show before its poses count."""

    truth: str | None = None
    """Path of annotated pictures in COCO's keypoint format. Default: generations are judged without annotations."""
    pictures: str | None = None
    """Folder of the pictures that `truth` names. Default: the folder of that file."""
    clips: int = pydantic.Field(default=24, ge=1, le=10_000)
    """Most held-out clips that are looked at."""
    frames: int = pydantic.Field(default=150, ge=8)
    """Most frames of each of these clips, from the first on."""
    max_missing: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Largest share of the sure fused joints that the student may lack, whatever was before."""
    min_agreement: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Least share of the sure fused joints that the student has within half a head-neck length, whatever was before.
    Default: where exact joints or `truth` tell how student and fusion compare, none; else as much as the expert in the
    middle has, and 0.85 for a single expert."""
    truth_margin: float = pydantic.Field(default=0.01, ge=0, le=1)
    """Loss of OKS, of PCKh, and of the share of exact joints, that still counts as no worse."""
    agreement_margin: float = pydantic.Field(default=0.02, ge=0, le=1)
    """Loss of the share of joints near the fused ones that still counts as no worse."""
    missing_margin: float = pydantic.Field(default=0.02, ge=0, le=1)
    """Growth of the share of missing joints that still counts as no worse."""
    sides_margin: float = pydantic.Field(default=0.01, ge=0, le=1)
    """Growth of the share of exchanged left and right joints, in space or over time, that still counts as no worse."""
    jitter_margin: float = pydantic.Field(default=0.1, ge=0, le=10)
    """Growth of jitter, as a share of that before, that still counts as no worse."""


class RefineTable(Table):
    """[refine]: a student learns from the fused poses, and makes the poses of the dataset if it passes the gate."""

    student: str | None = None
    """Student that learns. Default: nothing is refined."""
    rounds: int = pydantic.Field(default=1, ge=1, le=10)
    """Rounds of self-training. From the second on, the labels are fused of the experts and the last generation."""
    frames: float = pydantic.Field(default=0.1, gt=0, le=1)
    """Share of the frames of each clip that is learned from, at least one frame."""
    splits: list[Literal["train", "val", "test"]] = pydantic.Field(default=["train"], min_length=1)
    """Splits whose clips are learned from and validated with. Default: val and test stay unseen."""
    validation: float = pydantic.Field(default=0.2, gt=0, lt=1)
    """Share of the videos that is held out, for early stopping and for the gate."""
    gamma: float = pydantic.Field(default=0.18, ge=0, le=1)
    """Least confidence C of a fused pose that is learned from."""
    min_score: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Least score of a joint that is learned from."""
    min_joints: int = pydantic.Field(default=6, ge=1)
    """Fewest such joints of a person that is learned from."""
    epochs: int = pydantic.Field(default=8, ge=1, le=10_000)
    """Most passes over the frames."""
    batch: int = pydantic.Field(default=8, ge=1, le=4096)
    """Frames per step."""
    rate: float = pydantic.Field(default=1e-4, gt=0)
    """Learning rate after the warm-up; it falls along a half cosine."""
    warmup: float = pydantic.Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the rate rises from 0."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with a momentum of 0.9."""
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    """Weight decay of the optimiser."""
    clip: float = pydantic.Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    patience: int = pydantic.Field(default=3, ge=1)
    """Epochs without a lower validation loss after which learning ends."""
    seed: int = pydantic.Field(default=0, ge=0)
    """Seed of the frames, of the videos held out, and of everything that is drawn while learning."""
    threads: int = pydantic.Field(default=2, ge=1, le=256)
    """Threads of torch while learning on a CPU. They are part of the recipe because sums depend on them."""
    gate: GateTable = GateTable()
    """What a generation has to show before its poses count."""


class LiftTable(Table):
    """[lift]: poses in space, made from those of the picture."""

    use: str | None = None
    """Lifter. Default, and "": nothing is lifted."""


class CurateTable(Table):
    """[curate]: which clips stay, and under which label."""

    filters: list[str] = []
    """Filters, in the order in which they decide. The first one that a clip misses is its reason."""
    relabel: str | None = None
    """Label map: its name in manifests/, or the path of a file. Default: labels stay as the source gives them."""
    prompts: str = "person"
    """Set of templates in manifests/prompts.toml that the `text` of a clip is made with."""
    dedup: Literal["near", "exact", "mark", "off"] = "exact"
    """What to do with clips that show the same pictures: leave out near-duplicates, leave out exact ones, only mark
    them in `duplicate_of`, or nothing."""
    near_duplicate_threshold: float = pydantic.Field(default=0.7, gt=0, le=1)
    """Share of matching moments from which two clips are near-duplicates."""
    max_per_label: int | None = pydantic.Field(default=None, ge=1)
    """Most training clips of a label. Default: all."""
    min_per_label: int = pydantic.Field(default=0, ge=0)
    """Labels with fewer training clips are left out."""


class EmbedTable(Table):
    """[embed]: video and text features of kept clips, and the check of labels against them."""

    features: list[str] = []
    """Encoders of videos and texts. Without any, the pass is left out."""
    agreement: str | None = None
    """The encoder whose features labels are compared with. Default: the first."""
    min_cosine: float | None = pydantic.Field(default=None, ge=-1, le=1)
    """Least cosine of a clip's video and its label's texts. Default: no clip is left out."""
    min_margin: float | None = pydantic.Field(default=None, ge=-2, le=2)
    """Least lead of that cosine over the best of all other labels. Default: no clip is left out."""

    @property
    def judge(self) -> str:
        """The features that labels are compared with."""
        return self.agreement or self.features[0]


class PackTable(Table):
    """[pack]: how the dataset is written."""

    shard_mb: int = pydantic.Field(default=256, ge=1, le=100_000)
    """Size of a shard, megabytes."""
    keep_video: bool = False
    """Also write video shards, with the same keys in the same order."""
    blur_faces: bool = False
    """Blur the heads of people that the experts saw in the video shards."""
    face_detector: str | None = None
    """Blur the faces that this detector finds in the frames, too: those of people whom no expert saw."""
    crf: int = pydantic.Field(default=23, ge=0, le=51)
    """Quality of the video shards; smaller is better and larger."""
    allow_unknown_licence: bool = False
    """Copy videos whose licence is unknown, too. Otherwise they are rejected (`licence_unknown`)."""


class ReportTable(Table):
    """[report]: the report page. Without this table there is no page."""

    gallery: int = pydantic.Field(default=12, ge=0, le=200)
    """Clips that the report page shows."""


class EngineTable(Table):
    """[engine]: how the work is run. No key changes a result or a fingerprint."""

    clip_deadline: float = pydantic.Field(default=180.0, gt=0)
    """Seconds that a clip may go on without a sign of life; each batch of frames gives one. A worker that takes longer
    is stopped, and the clip is found by bisection."""
    host_failures: int = pydantic.Field(default=3, ge=1)
    """Failures of the environment in a row after which a host is set aside; its work goes to the others."""
    failure_share: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Share of attempts at units that may fail for one reason before the build stops."""
    clips_in_flight: int = pydantic.Field(default=16, ge=1, le=256)
    """Clips under way together in a GPU process."""
    processes_per_gpu: int = pydantic.Field(default=1, ge=1, le=16)
    """Local processes that share a GPU. More than one keeps it busy where Python is the limit. Each loads the
    networks."""
    prefetch_mb: int = pydantic.Field(default=1024, ge=1)
    """Decoded frames that a GPU process reads ahead, megabytes."""


class Recipe(Table):
    """A whole recipe. Component tables hold options by name, as given."""

    recipe: Head
    plan: PlanTable = PlanTable()
    fetch: FetchTable = FetchTable()
    pose: PoseTable
    refine: RefineTable = RefineTable()
    lift: LiftTable = LiftTable()
    curate: CurateTable = CurateTable()
    embed: EmbedTable = EmbedTable()
    pack: PackTable = PackTable()
    report: ReportTable | None = None
    engine: EngineTable = EngineTable()
    use: list[str] = pydantic.Field(min_length=1)
    options: dict[str, dict[str, dict[str, Any]]] = {}
    overlay: str | None = None

    def component(self, kind: str, name: str) -> Any:
        """The component `name` of `kind` with this recipe's options."""
        options = dict(self.options.get(kind, {}).get(name, {}))
        if kind == "sources":
            for key in PLACES:
                options.pop(key, None)
        return registry.create(kind, name, options)

    def expert(self, name: str) -> Any:
        """The expert `name`, in a process of its own where the recipe says so."""
        if name not in self.pose.isolated:
            return self.component("experts", name)
        from dataengine.experts.isolation.isolated import Isolated

        options = registry.config(self.component("experts", name))
        return Isolated(name, {k: v for k, v in options.items() if k != "name"}, self.pose.isolated[name])

    @property
    def detector(self) -> str | None:
        """The person detector to run: none when no expert looks inside boxes."""
        boxed = any(self.component("experts", name).needs_boxes for name in self.pose.experts)
        return self.pose.detector if boxed else None

    @property
    def student(self) -> Any:
        """The student that learns; None where nothing is refined."""
        return None if self.refine.student is None else self.component("students", self.refine.student)

    @property
    def face_detector(self) -> str | None:
        """The face detector to run: none when no faces are blurred in kept videos."""
        return self.pack.face_detector if self.pack.keep_video and self.pack.blur_faces else None

    @property
    def lifter(self) -> str | None:
        """The lifter to run: none when no poses in space are made."""
        return self.lift.use or None

    @property
    def brings_poses(self) -> bool:
        """Whether the sources bring saved poses in place of videos."""
        return any(registry.component_class("sources", name).brings_poses for name in self.use)

    def source_path(self, name: str) -> str | None:
        """Where the recipe says that a source's media and annotations lie."""
        path = self.options.get("sources", {}).get(name, {}).get("path")
        return None if path is None else str(path)

    def source_mirror(self, name: str) -> str | None:
        """The url that the recipe names for a source's mirror in place of the official one."""
        base = self.options.get("sources", {}).get(name, {}).get("mirror")
        return None if base is None else str(base)

    def to_toml(self) -> dict[str, Any]:
        """The recipe as the tables of a recipe file; loading them again gives an equal recipe."""
        tables: dict[str, Any] = {
            "recipe": self.recipe.model_dump(),
            "sources": {"use": list(self.use), **self.options.get("sources", {})},
        }
        for name in TABLES:
            table = getattr(self, name)
            if table is not None:
                tables[name] = _without_none(table.model_dump())
        if self.refine.student is None and self.refine == RefineTable():
            del tables["refine"]
        if self.lifter is None:
            del tables["lift"]
        tables.update(
            {kind: self.options[kind] for kind in COMPONENT_TABLES if kind != "sources" and self.options.get(kind)}
        )
        return tables


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """A table without the keys that have no value, which TOML cannot say."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def available() -> dict[str, Path]:
    """All recipes that `build` finds by name, without their overlays."""
    found: dict[str, Path] = {}
    for folder in find_folder("recipes"):
        for path in sorted(folder.glob("*.toml")):
            if "." not in path.stem:
                found.setdefault(path.stem, path)
    return found


@dataclass(frozen=True)
class Layer:
    """Tables from one place.

    Attributes:
        label: the place, as errors and notes name it: a file, or an argument of the command line.
        tables: the tables it sets.
        overlay: name of the overlay, where the layer is one.
        override: `table.key=VALUE`, where the layer is one; the value replaces a whole table, too.
    """

    label: str
    tables: dict[str, Any]
    overlay: str | None = None
    override: str | None = None

    @property
    def is_argument(self) -> bool:
        """Whether the layer comes from the command line or a call, not from a file."""
        return self.label.startswith("--")


def layers(
    name: str,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
    sources: Mapping[str, str | None] | None = None,
) -> list[Layer]:
    """What makes a recipe, lowest first: its file, the overlay, each override, the sources; arguments as in `load`.

    Raises:
        RecipeError: not found, not TOML, or an override that is no `table.key=VALUE`.
    """
    path = Path(name) if name.endswith(".toml") else available().get(name)
    if path is None:
        raise RecipeError(f"unknown recipe {name!r}{suggestion(name, available())}; or give the path of a .toml file")
    found = [Layer(str(path), {key: table for key, table in settings.read(path).items() if key != "lock"})]
    if overlay is not None:
        top = path.with_name(f"{path.stem}.{overlay}.toml")
        if not top.exists():
            names = [p.stem.split(".", 1)[1] for p in sorted(path.parent.glob(f"{path.stem}.*.toml"))]
            raise RecipeError(f"recipe {path.stem!r} has no overlay {overlay!r}{suggestion(overlay, names)}")
        found.append(Layer(str(top), settings.read(top), overlay))
    for text in overrides:
        tables: dict[str, Any] = {}
        settings.override(tables, text)
        found.append(Layer(f"--set {text}", tables, override=text))
    if sources is not None:
        paths = {
            source: {"path": os.path.abspath(where)}  # noqa: PTH100 - a path may not exist yet
            for source, where in sources.items()
            if where is not None
        }
        found.append(Layer("--sources", {"sources": {"use": list(sources), **paths}}))
    return found


def merged(found: Sequence[Layer]) -> Recipe:
    """The recipe of these layers, checked as a whole.

    Raises:
        RecipeError: an unknown key, a wrong value, an unknown component, or wrong options of one.
    """
    tables: dict[str, Any] = {}
    for layer in found:
        if layer.override is not None:
            settings.override(tables, layer.override)
        else:
            tables = settings.merge(tables, copy.deepcopy(layer.tables))
    overlay = next((layer.overlay for layer in found if layer.overlay), None)
    return validate(tables, found[0].label if overlay is None else f"{found[0].label} with overlay {overlay}", overlay)


def load(
    name: str,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
    sources: Mapping[str, str | None] | None = None,
) -> Recipe:
    """Load a recipe by name or path, put the overlay and the overrides on top, and check it as a whole.

    Args:
        name: a name found in ./recipes or the packaged recipes, or the path of a .toml file.
        overlay: applies `<recipe>.<overlay>.toml` beside the recipe.
        overrides: `table.key=TOML value` texts, applied last.
        sources: replaces the recipe's sources: name -> path of its media and annotations, or None.

    Raises:
        RecipeError: not found, not TOML, an unknown key, a wrong value, an unknown component, or wrong options of one.
    """
    return merged(layers(name, overlay, overrides, sources))


def validate(tables: dict[str, Any], where: str, overlay: str | None) -> Recipe:
    """The recipe of these tables; `where` names them in errors (RecipeError)."""
    known = {"recipe", *TABLES, *COMPONENT_TABLES}
    for key in tables:
        if key not in known:
            raise RecipeError(f"{where}: unknown table [{key}]{suggestion(key, known)}")
    given = {k: v for k, v in tables.items() if k not in COMPONENT_TABLES}
    options = {kind: dict(tables.get(kind, {})) for kind in COMPONENT_TABLES if kind in tables}
    use = options.get("sources", {}).pop("use", [])
    for kind, table in options.items():
        for name, value in table.items():
            if name not in registry.names(kind) or not isinstance(value, dict):
                raise RecipeError(f"{where}: [{kind}] unknown name {name!r}{suggestion(name, registry.names(kind))}")
    try:
        recipe = Recipe(**given, use=use, options=options, overlay=overlay)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {settings.explain(error, Recipe)}") from error
    try:
        _check_components(recipe)
    except ComponentError as error:
        raise RecipeError(f"{where}: {error}") from error
    return recipe


def _check_components(recipe: Recipe) -> None:
    pose, chosen = recipe.pose, [("sources", name) for name in recipe.use]
    chosen += [("decoders", pose.decoder), ("trackers", pose.tracker), ("fusion", pose.fusion)]
    chosen += [("fetchers", name) for name in recipe.fetch.fetchers]
    chosen += [("detectors", pose.detector)] if pose.detector else []
    chosen += [("face_detectors", recipe.pack.face_detector)] if recipe.pack.face_detector else []
    chosen += [("experts", name) for name in pose.experts] + [("filters", name) for name in recipe.curate.filters]
    chosen += [("features", name) for name in recipe.embed.features]
    chosen += [("students", recipe.refine.student)] if recipe.refine.student is not None else []
    chosen += [("lifters", recipe.lifter)] if recipe.lifter else []
    for kind, name in chosen:
        if name not in registry.names(kind):
            raise ComponentError(f"unknown name {name!r} in {kind}{suggestion(name, registry.names(kind))}")
    for kind, names in recipe.options.items():
        for name in names:
            recipe.component(kind, name)
    from dataengine.core.skeletons import skeleton

    skeleton(pose.skeleton)
    _check_poses(recipe)
    _check_lift(recipe)
    boxed = [name for name in pose.experts if recipe.component("experts", name).needs_boxes]
    if boxed and pose.detector is None:
        raise ComponentError(
            f"[pose] experts {boxed} look inside person boxes: "
            f"name a detector{suggestion('', registry.names('detectors'))}"
        )
    _check_expert_every(pose, boxed)
    for name, weight in pose.expert_weights.items():
        if name not in registry.names("experts") or not weight > 0:
            raise ComponentError(
                f"[pose] expert_weights.{name} = {weight}: "
                f"give a weight above 0 to an expert{suggestion(name, registry.names('experts'))}"
            )
    for name, seconds in pose.isolated.items():
        if name not in pose.experts or not seconds > 0:
            raise ComponentError(
                f"[pose] isolated.{name} = {seconds}: "
                f"give seconds above 0 to one of the recipe's experts{suggestion(name, pose.experts)}"
            )
        recipe.expert(name)
    embedded = recipe.embed.features
    if recipe.embed.agreement not in (None, *embedded):
        raise ComponentError(
            f"[embed] agreement = {recipe.embed.agreement!r}{suggestion(str(recipe.embed.agreement), embedded)}"
        )
    if not embedded and (recipe.embed.min_cosine is not None or recipe.embed.min_margin is not None):
        raise ComponentError(
            f"[embed] min_cosine and min_margin need features{suggestion('', registry.names('features'))}"
        )
    several = (
        ("experts", pose.experts),
        ("filters", recipe.curate.filters),
        ("features", embedded),
        ("use", recipe.use),
    )
    for field, values in several:
        if len(set(values)) < len(values):
            raise ComponentError(f"{field} names something twice: {values}")


def _check_expert_every(pose: PoseTable, boxed: Sequence[str]) -> None:
    """Refuse looks of experts that are not used, and a first expert that does not look at every frame."""
    leader = boxed[:1] or pose.experts[:1]
    for name, every in pose.expert_every.items():
        if name not in pose.experts or not 1 <= every <= 100:
            raise ComponentError(
                f"[pose] expert_every.{name} = {every}: "
                f"give frames, 1 to 100, to one of the recipe's experts{suggestion(name, pose.experts)}"
            )
        if name in leader and every > 1:
            raise ComponentError(
                f"[pose] expert_every.{name} = {every}: {name} comes first and looks at every frame; "
                "name another expert first, or see fewer frames with [pose] max_fps"
            )


def _check_poses(recipe: Recipe) -> None:
    """Refuse a recipe that asks for pictures where there are only poses, or for poses where there are pictures."""
    given = [name for name in recipe.use if registry.component_class("sources", name).brings_poses]
    videos = [name for name in recipe.use if name not in given]
    if not given and not recipe.pose.experts:
        raise ComponentError(f"[pose] experts is empty{suggestion('', registry.names('experts'))}")
    if not given:
        return
    if videos:
        raise ComponentError(
            f"[sources] {', '.join(given)} brings saved poses and {', '.join(videos)} videos: build a dataset of each; "
            "dataengine-train takes several with --data"
        )
    wanted: dict[str, Any] = {"[pose] experts": recipe.pose.experts, "[embed] features": recipe.embed.features}
    wanted["[pack] keep_video"] = recipe.pack.keep_video
    wanted["[refine] student"] = recipe.refine.student
    for key, value in wanted.items():
        if value:
            raise ComponentError(f"{key} = {value} needs videos, and {given[0]} brings saved poses: leave it out")


def _check_lift(recipe: Recipe) -> None:
    """Refuse a layout that the lifter does not take, and a filter of lifted poses where nothing is lifted."""
    from dataengine.core.skeletons import SKELETONS

    if recipe.lifter is None:
        for name in recipe.curate.filters:
            if registry.component_class("filters", name).needs_lift:
                raise ComponentError(
                    f"[curate] filters: {name!r} measures poses in space, and the recipe makes none: name a lifter in "
                    f"[lift] use{suggestion('', registry.names('lifters'))}, or leave the filter out"
                )
        return
    lifter, layout = recipe.component("lifters", recipe.lifter), recipe.pose.skeleton
    if not lifter.serves(layout):
        served = [name for name in SKELETONS if lifter.serves(name)]
        raise ComponentError(
            f"[lift] use = {recipe.lifter!r} does not take poses of the layout {layout!r} ([pose] skeleton); "
            f"it takes {', '.join(served)}"
        )


def fingerprint(value: Any) -> str:
    """The blake3 hex digest of a JSON-like value, independent of the order of keys."""
    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
