"""Runs: from a configuration to a trained network in a folder, and from the folder back to the network.

    result = train(config.load("unik"), "runs/unik")      # again: goes on where it was stopped
    run = load_run("runs/unik")                            # needs no data: the checkpoint says what it was made of

What a run leaves beside what `training.engine.loop` writes: run.toml, the configuration as it was resolved
(training it again gives the same network), curves.png, and summary.json with what the validation clips say.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from dataengine.io.storage import file_hash, write_durably
from training import create_backbone, create_method, registry
from training.backbones.base import Backbone, read_weights
from training.config import Config, validate
from training.data.loader import Feed
from training.data.types import Numbers, Source
from training.engine import checkpoint
from training.engine.loop import History, Plan, Probe, Watcher, fabric_of, fit
from training.evaluate.metrics import labelled
from training.evaluate.plots import confusion_matrix, training_curves
from training.evaluate.probes import Labelled, knn, scored
from training.evaluate.result import Result, plain
from training.methods.base import Method
from training.runs import splits as sides
from training.runs.class_text import Wording
from training.runs.features import THREE, WHOLE, encode
from training.transforms.preprocess import Prepare
from training.transforms.view import View

CHECKPOINT, NETWORK = "last.safetensors", "model.safetensors"
DATA_OPTIONS = ("num_classes", "skeleton", "channels", "backbone")
"""Options of networks and methods that the data decide."""
PLAIN = (bool, int, float, str, tuple, list)
"""Defaults that a configuration can hold."""


@dataclass(frozen=True)
class Run:
    """A trained network and everything that says what it takes.

    Attributes:
        folder: where it lies.
        config: as it was resolved.
        method: what was trained, in evaluation mode; `method.embed` gives features.
        prepare: makes of a clip what the network takes.
        labels: the classes of its training data, in the order of a classifier's outputs.
        facts: of its checkpoint: `step`, `data` the fingerprint of what it learnt from, and more.
    """

    folder: Path
    config: Config
    method: Method
    prepare: Prepare
    labels: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def step(self) -> int:
        """How many steps it was trained."""
        return int(self.facts["step"])

    @property
    def done(self) -> bool:
        """Whether these are all of its steps."""
        return bool(self.facts["done"])

    @property
    def backbone(self) -> Backbone:
        """The network; it takes (N, C, T, V, M)."""
        return self.method.backbone

    @property
    def skeleton(self) -> Skeleton:
        """The layout of the joints it takes."""
        return self.backbone.skeleton

    @property
    def channels(self) -> int:
        """C of its input."""
        return self.backbone.channels

    @property
    def frames(self) -> int:
        """T of the views it was trained on."""
        return self.config.view.frames


@dataclass
class RunResult:
    """What `train` did.

    Attributes:
        folder: of the run.
        history: its log.
        measured_on: the validation clips, see `training.runs.splits.facts`; None where there are none with labels.
        results: what they say.
        pictures: files drawn.
    """

    folder: Path
    history: History
    measured_on: Mapping[str, Any] | None = None
    results: list[Result] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as summary.json has them."""
        log = [entry for entry in self.history.log if "loss" in entry]
        return {
            "run": str(self.folder),
            "steps": self.history.steps,
            "epochs": self.history.epochs,
            "loss": log[-1]["loss"] if log else None,
            "probes": [entry for entry in self.history.log if any(name.startswith("probe_") for name in entry)],
            "measured_on": self.measured_on,
            "results": [result.as_dict() for result in self.results],
            "pictures": [path.name for path in self.pictures],
        }


def train(config: Config, out: str | Path, watcher: Watcher | None = None, stop_after: int | None = None) -> RunResult:
    """Train what a configuration says, from where the folder's run was stopped.

    Args:
        config: see `training.config`.
        out: the run's folder.
        watcher: told of every step, in the first process.
        stop_after: ends early after so many steps of the whole run.

    Raises:
        TrainingError: the folder holds another run, or data, network and method do not go together.
        DataEngineError: the data cannot be opened, or something to train with is not here.
    """
    folder = Path(out)
    wants = _features(config)
    sources = sides.open_side(config.data, "train", wants)
    if config.data.share is not None:
        sources = sides.few(sources, config.data.share, config.run.seed)
    measured = sides.open_val(config.data)
    val, split = measured or ([], config.data.val_split)
    config = resolve(config, sources, split)
    skeleton, labels = sources[0].skeleton, Feed(sources, shuffle=False).labels
    prepare = _prepare(config, skeleton)
    channels = prepare(sources[0].read([0])[0]).shape[-1]
    _check_labels(config, sources, labels)
    fabric = fabric_of(config.run.precision, config.run.devices)
    fabric.launch()
    if config.run.batch % fabric.world_size:
        raise TrainingError(
            f"run.batch {config.run.batch} is shared by {fabric.world_size} devices: give a multiple of that"
        )
    torch.manual_seed(config.run.seed)
    method = make_method(config, skeleton, labels, channels, _texts(config, labels, sources))
    facts = _facts(config, skeleton, labels, channels)
    if config.run.start is not None:
        path = start_file(config.run.start)
        method.backbone.load_weights(read_weights(path), classifier=False, name=str(path))
        facts["start"] = file_hash(path)
    feed = Feed(
        sources,
        method.draw(prepare, View(config.view.frames, config.view.steps, skeleton, prepare.score)),
        config.run.batch // fabric.world_size,
        config.run.seed,
        weights=config.data.weights,
        balance=config.data.balance,
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=config.run.workers,
        epoch_size=config.data.epoch_size,
        pin_memory=fabric.device.type == "cuda",
    )
    first = fabric.global_rank == 0
    if first and not (folder / CHECKPOINT).exists():
        write_durably(folder / "run.toml", _toml(config).encode())
    probe = _probe(config, prepare, labels, sources, val, fabric.device) if first and config.run.probe_every else None
    history = fit(method, feed, plan_of(config), folder, fabric, facts, probe, watcher if first else None, stop_after)
    result = RunResult(folder, history)
    if first and (stop_after is None or history.epochs >= config.run.epochs):
        write_durably(folder / "run.toml", _toml(config).encode())
        _finish(result, config, method, prepare, labels, sources, val, fabric.device)
    return result


def load_run(folder: str | Path) -> Run:
    """The network of a run, finished or not, from its checkpoint alone.

    Raises:
        TrainingError: there is no run, its checkpoint is torn, or it was trained without a configuration.
    """
    folder = Path(folder)
    if not (folder / CHECKPOINT).is_file():
        raise TrainingError(
            f"{folder} is no run: it holds no {CHECKPOINT}; give the --out of `dataengine-train pretrain` or `finetune`"
        )
    tensors, facts = checkpoint.read(folder / CHECKPOINT)
    if "config" not in facts:
        raise TrainingError(
            f"{folder} was trained without a configuration, and does not say what its network is; load it from Python"
        )
    config = validate(facts["config"], str(folder / CHECKPOINT))
    given = facts["skeleton"]
    skeleton = Skeleton(given["name"], tuple(given["joints"]), tuple((a, b) for a, b in given["bones"]))
    texts = tensors.get("method.texts")
    method = make_method(
        config, skeleton, facts["labels"], facts["channels"], None if texts is None else torch.zeros_like(texts)
    )
    method.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("method.")})
    return Run(folder, config, method.eval(), _prepare(config, skeleton), tuple(facts["labels"]), facts)


def make_method(config: Config, skeleton: Skeleton, labels: Sequence[str], channels: int, texts: Any = None) -> Method:
    """The network and the method around it.

    Args:
        config: resolved.
        skeleton, labels, channels: of the data.
        texts: vectors of the classes' texts, where the method is given `text`.
    """
    classes = len(labels) if config.classifies else 0
    backbone: Any = create_backbone(config.backbone.name, classes, skeleton, channels, **config.backbone.options)  # type: ignore[arg-type]
    options = config.method.options
    if texts is not None:
        options["text"] = texts
    return create_method(config.method.name, backbone=backbone, **options)


def start_file(start: str | Path) -> Path:
    """The file of weights that a run's folder, or the file itself, stands for.

    Raises:
        TrainingError: a run that is not finished, or no such file.
    """
    path = Path(start)
    found = path / NETWORK if path.is_dir() else path
    if not found.is_file():
        what = (
            "that run is not finished (no model.safetensors)"
            if (path / CHECKPOINT).is_file()
            else "there is no run and no file of weights"
        )
        raise TrainingError(f"{start}: {what}; give a finished run's folder, or a file of weights")
    return found


def plan_of(config: Config) -> Plan:
    """How long and by which steps, as the loop takes it."""
    run, optim = config.run, config.optim.model_dump()
    own = (
        "epochs",
        "accumulate",
        "precision",
        "compile",
        "seed",
        "log_every",
        "save_every",
        "probe_every",
        "tensorboard",
        "wandb",
    )
    optim |= {"optimizer": optim.pop("name"), "milestones": tuple(optim["milestones"]), "clip": run.clip or None}
    return Plan(**optim, **{name: getattr(run, name) for name in own})


def resolve(config: Config, sources: Sequence[Source], val_split: str) -> Config:
    """The configuration with everything in it that defaults and data decide.

    Args:
        config: as it was given.
        sources: what is learnt from.
        val_split: what is measured on.
    """
    tables = config.to_toml()
    data, run = tables["data"], tables["run"]
    data |= {
        "train": [sides.absolute(path) for path in data["train"]],
        "val": [sides.absolute(path) for path in data["val"]],
    }
    data["val_split"] = val_split
    if layout := sides.known_layout(sources[0].skeleton):
        data["skeleton"] = layout
    if config.run.start is not None:
        run["start"] = str(Path(config.run.start).absolute())
    clips = config.data.epoch_size or sum(len(source) for source in sources)
    if config.run.batch > clips:
        warnings.warn(
            f"run.batch {config.run.batch} is more than the {clips} clips of an epoch; {clips} are taken", stacklevel=2
        )
        run["batch"] = clips
    for kind in ("backbone", "method"):
        allowed = registry.options(registry.find(f"{kind}s", tables[kind]["name"]))
        known = {
            name: p.default for name, p in allowed.items() if name not in DATA_OPTIONS and isinstance(p.default, PLAIN)
        }
        tables[kind] = json.loads(json.dumps({**known, **tables[kind]}))
    if "people" in tables["backbone"]:
        tables["backbone"]["people"] = config.backbone.options.get("people", config.prepare.people)
    if tables["method"].get("video") and "video_width" not in config.method.options:
        tables["method"]["video_width"] = sides.feature_width(sources, tables["method"]["video"])
    return validate(tables, "the resolved configuration")


def _features(config: Config) -> list[str]:
    """Stored features that the method reads."""
    cls = registry.find("methods", config.method.name)
    allowed, options = registry.options(cls), config.method.options
    found = list(getattr(cls, "needs", ()))
    if video := options.get("video", allowed["video"].default if "video" in allowed else None):
        found.append(video)
    if options.get("text") is not None and (stored := Wording.of(options["text"]).stored):
        found.append(stored)
    return found


def _texts(config: Config, labels: Sequence[str], sources: Sequence[Source]) -> Tensor | None:
    """(K, P, D) texts of the classes for a method that is given `text`."""
    given = config.method.options.get("text")
    return None if given is None else torch.from_numpy(Wording.of(given).vectors(labels, sources))


def _check_labels(config: Config, sources: Sequence[Source], labels: Sequence[str]) -> None:
    wanted = config.classifies or config.method.options.get("text") is not None
    if wanted and not (sides.label_ids(labels, sources) >= 0).any():
        raise TrainingError(
            f"{sides.named(sources)}: no clip has a label, and {config.method.name} learns from labels; "
            "give labels (labels.csv of a folder, the `label` of a file), or take a method without: mcc, tmor"
        )


def _prepare(config: Config, skeleton: Skeleton) -> Prepare:
    table = config.prepare.model_dump()
    table["channels"] = None if table["channels"] is None else tuple(table["channels"])
    return Prepare(skeleton, **table)


def _facts(config: Config, skeleton: Skeleton, labels: Sequence[str], channels: int) -> dict[str, Any]:
    """What a checkpoint says besides its place: what decides the network, and the whole configuration."""
    tables = config.to_toml()
    return {
        **{name: tables[name] for name in ("prepare", "view", "backbone", "method")},
        "batch": config.run.batch,
        "skeleton": {"name": skeleton.name, "joints": skeleton.joints, "bones": skeleton.bones},
        "labels": list(labels),
        "channels": channels,
        "config": tables,
    }


def _toml(config: Config) -> str:
    return (
        "# A run as it was resolved; `dataengine-train pretrain` with this file trains the same again.\n\n"
        + tomli_w.dumps(config.to_toml())
    )


def _sides(
    config: Config,
    method: Method,
    prepare: Prepare,
    labels: Sequence[str],
    pair: Sequence[Sequence[Source]],
    device: Any,
) -> tuple[Labelled, Labelled]:
    """Features of some clips of both sides, classes numbered alike."""
    parts = [sides.thinned(side, config.run.probe_clips) for side in pair]
    rows = [encode(method.embed, part, prepare, config.view.frames, WHOLE, device=device)[0] for part in parts]
    known, asked = (Labelled(row, sides.label_ids(labels, part)) for row, part in zip(rows, parts))
    return known, asked


def _probed(labels: Sequence[str], train: Sequence[Source], val: Sequence[Source]) -> bool:
    """Whether both sides have labelled clips."""
    return bool(val) and all((sides.label_ids(labels, side) >= 0).any() for side in (train, val))


def _probe(
    config: Config, prepare: Prepare, labels: Sequence[str], train: Sequence[Source], val: Sequence[Source], device: Any
) -> Probe | None:
    """Nearest neighbours while a run goes on; None, with a warning, where nothing can be measured."""
    if not _probed(labels, train, val):
        warnings.warn(
            "run.probe_every: the data has no labelled clips of a split val or test; nothing is probed", stacklevel=2
        )
        return None

    def measure(method: Method) -> Mapping[str, float]:
        return {"knn": knn(*_sides(config, method, prepare, labels, (train, val), device), len(labels)).value}

    return measure


def _finish(
    result: RunResult,
    config: Config,
    method: Method,
    prepare: Prepare,
    labels: Sequence[str],
    train: Sequence[Source],
    val: Sequence[Source],
    device: Any,
) -> None:
    """What a finished run says: neighbours, the classifier where there is one, pictures, summary.json."""
    folder = result.folder
    result.pictures.append(training_curves(folder / "log.jsonl", folder / "curves.png", title=config.run.name))
    if _probed(labels, train, val):
        result.measured_on = sides.facts(val)
        if config.classifies:
            shown, picture = classifier(method.backbone, prepare, config.view.frames, labels, val, folder, device)
            result.results.append(shown)
            result.pictures.append(picture)
        result.results.append(knn(*_sides(config, method, prepare, labels, (train, val), device), len(labels)))
    write_durably(folder / "summary.json", (json.dumps(plain(result.to_dict()), indent=1) + "\n").encode())


def classifier(
    backbone: Backbone,
    prepare: Prepare,
    frames: int,
    labels: Sequence[str],
    side: Sequence[Source],
    folder: Path,
    device: Any,
) -> tuple[Result, Path]:
    """The network's own classifier on labelled clips, and confusion.png of it; the mean over three fixed parts of a clip."""
    said = encode(backbone, side, prepare, frames, THREE, device=device, softmax=True)[0]
    ids: Numbers = sides.label_ids(labels, side)
    truth, told = labelled(ids, said.argmax(1))
    picture = confusion_matrix(told, truth, labels, folder / "confusion.png", "the network's own classifier")
    return scored("classifier", said, ids), picture
