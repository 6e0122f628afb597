"""The tables of a recipe, one for each step of a build: their keys, defaults and limits.

Options of a component stand in `[KIND.NAME]` and are checked by the component itself.
"""

from __future__ import annotations

from typing import Literal

import pydantic

from dataengine.core.settings import Table
from dataengine.io import addresses

TABLES = ("plan", "fetch", "pose", "refine", "lift", "curate", "embed", "pack", "report", "engine")
"""Tables of the steps of a build, in their order."""


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
    max_extra: float = pydantic.Field(default=0.3, ge=0, le=10)
    """Most people whom the experts did not find, per person whom they found, whatever was before."""
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
    extra_margin: float = pydantic.Field(default=0.05, ge=0, le=10)
    """How many more people, per person, may be nobody whom the experts found."""
    sides_margin: float = pydantic.Field(default=0.01, ge=0, le=1)
    """Growth of the share of exchanged left and right joints, in space or over time, that still counts as no worse."""
    jitter_margin: float = pydantic.Field(default=0.1, ge=0, le=10)
    """Growth of jitter, as a share of that before, that still counts as no worse."""


class RefineTable(Table):
    """[refine]: a student learns from the fused poses, and makes the poses of the dataset if it passes the gate."""

    student: str | None = None
    """Student that learns. Default, and "": nothing is refined."""
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

    @pydantic.field_validator("student")
    @classmethod
    def _empty_is_none(cls, student: str | None) -> str | None:
        return student or None


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
    annotations: list[str] = []
    """Paths of tables (.csv, .parquet) of what people decided about single clips, such as a filled-in plan of
    `dataengine-train rank` or the proposals of `annotate`: columns clip_id, and label or given, proposed and
    probability, keep, why. A label from there stands above the source's and the label map's. Of two tables that speak
    of one clip, the later counts."""
    spans: list[str] = []
    """Paths of tables (.csv, .parquet) of what happens when inside clips, a row a span: columns clip_id, label, start
    and end (seconds from the clip's first frame), where wanted unit, probability and from. Proposals of
    `dataengine-train annotate --frames` and events of `segment --to` are such tables. Of two tables of people that
    speak of one clip, the later counts; proposals are for the other clips."""
    min_probability: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Least probability of a proposed label or span that is taken where people gave none. Default: no proposal is
    taken."""
    only: str | None = None
    """Path of a table (.csv, .parquet) whose column clip_id names the clips that may stay. Default: all may."""
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
