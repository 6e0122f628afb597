"""Training: from a configuration to a trained network in a folder.

    result = train(config.load("unik"), "runs/unik")      # again: goes on where it was stopped

A run leaves, beside what `training.engine.loop` writes: run.toml (the configuration with all defaults; training
with it gives the same network), curves.png, and summary.json with the figures of the validation clips.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import Tensor

from dataengine.core import settings
from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from dataengine.io.storage import alone, file_hash, write_durably
from training import registry
from training.backbones.base import read_weights
from training.config import Config, validate
from training.data.loader import DataLoader
from training.data.rgb import is_pictures
from training.data.spans import WindowedDataset, joined_span_labels
from training.data.types import SkeletonDataset
from training.distributed import launched
from training.engine.loop import ProgressCallback, fabric_of, fit
from training.engine.settings import GroupSettings, OptimSettings, TrainSettings
from training.methods.base import Method, Needs
from training.runs import splits
from training.runs.class_text import ClassText
from training.runs.defaults import decide
from training.runs.evaluation import Evaluation, RunResult
from training.runs.features import workers_of
from training.runs.learnable import check_coordinates, check_prepared
from training.runs.run import (
    CHECKPOINT,
    PREVIOUS,
    given_networks,
    make_method,
    make_preprocess,
    needs_of,
    runs_in,
)
from training.runs.training_data import TrainingData, open_data
from training.transforms.prepared import PLACES, ClipCache
from training.transforms.preprocess import Preprocess
from training.transforms.view import View


def train(
    config: Config,
    out: str | Path,
    progress: ProgressCallback | None = None,
    stop_after: int | None = None,
    device: str = "auto",
) -> RunResult:
    """Train what a configuration says, from where the run in the folder was stopped.

    Args:
        config: see `training.config`.
        out: folder of the run.
        progress: called at every step, in the first process.
        stop_after: stops after so many steps of the whole run.
        device: auto, cpu or cuda.

    Raises:
        TrainingError: the folder holds another run, or data, network and method do not go together.
        DataEngineError: the data cannot be opened, or something to train with is not here.
    """
    folder = Path(out)
    if (inner := runs_in(folder)) and not (folder / CHECKPOINT).exists():
        raise TrainingError(
            f"{folder} holds runs ({', '.join(inner[:3])}{', ...' * (len(inner) > 3)}) and is none itself: give "
            "another --out, or --seeds or --streams as before"
        )
    needs = needs_of(config)
    texts = _Texts.of(needs)
    data = open_data(config, needs, texts.stored)
    config = resolve(config, data.learnt, data.val_split)
    skeleton, labels = data.learnt[0].skeleton, data.labels
    preprocess = make_preprocess(config, skeleton)
    check_prepared(data.learnt, preprocess)
    channels = preprocess(data.learnt[0].read([0])[0]).shape[-1]
    check_coordinates([*data.learnt, *data.val], preprocess, channels)
    fabric = _launched(config, device)
    torch.manual_seed(config.run.seed)
    method, facts = _made(config, needs, texts, data, channels)
    workers = workers_of(config.run.workers, fabric.device.type, (launched() or (1, fabric.world_size))[1])
    if needs.spans:
        clips: Sequence[SkeletonDataset] = windows_of(config, data.learnt, labels)
    else:
        data = data.prepared(preprocess, ClipCache.of(config.run.cache, config.run.cache_gb, workers))
        clips = data.learnt
    loader = DataLoader(
        clips,
        method.sample_transform(preprocess, view_of(config, preprocess)),
        config.run.batch // fabric.world_size,
        config.run.seed,
        weights=config.data.weights,
        balance=config.data.balance,
        shard=(fabric.global_rank, fabric.world_size),
        workers=workers,
        epoch_size=config.data.epoch_size,
        pin_memory=fabric.device.type == "cuda",
        partners=method.partners,
    )
    evaluation = Evaluation(config, preprocess, labels, data.learnt, data.val, fabric.device)
    first = fabric.global_rank == 0
    with _alone(folder) if first else contextlib.nullcontext():
        if first and not any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS)):
            write_durably(folder / "run.toml", _toml(config).encode())
        probe = evaluation.probe() if first and config.run.probe_every else None
        progress = progress if first else None
        history = fit(method, loader, train_settings(config), folder, fabric, facts, probe, progress, stop_after)
        result = RunResult(folder, history)
        if first and (stop_after is None or history.epochs >= config.run.epochs):
            write_durably(folder / "run.toml", _toml(config).encode())
            evaluation.finish(result, method)
    return result


@dataclass(frozen=True)
class _Texts:
    """Texts of the classes, by option of the method: encoded once, or read by an encoder that is trained along."""

    fixed: Mapping[str, ClassText]
    trained: Mapping[str, ClassText]

    @classmethod
    def of(cls, needs: Needs) -> _Texts:
        fixed = {option: ClassText.of(value) for option, value in needs.texts.items()}
        trained = {option: ClassText.of(value, trained=True) for option, value in needs.text_networks.items()}
        return cls(fixed, trained)

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of stored features that are texts."""
        return tuple(text.stored for text in self.fixed.values() if text.stored)


def _launched(config: Config, device: str) -> Any:
    """The processes and devices of a configuration; in several processes each is here once.

    Raises:
        TrainingError: the batch cannot be shared.
    """
    fabric = fabric_of(config.run.precision, config.run.devices, device)
    if config.run.batch % fabric.world_size:  # before other processes are started
        raise TrainingError(
            f"run.batch {config.run.batch} is shared by {fabric.world_size} devices: give a multiple of that"
        )
    fabric.launch()
    return fabric


def _made(
    config: Config, needs: Needs, texts: _Texts, data: TrainingData, channels: int
) -> tuple[Method, dict[str, Any]]:
    """The method with its networks, from the weights of `run.start`, and what a checkpoint says of them."""
    skeleton, labels = data.learnt[0].skeleton, data.labels
    vectors = {option: torch.from_numpy(text.vectors(labels, data.learnt)) for option, text in texts.fixed.items()}
    encoders = {option: text.network(labels) for option, text in texts.trained.items()}
    networks, made_of = given_networks(needs)
    method = make_method(config, skeleton, labels, channels, {**vectors, **encoders, **networks})
    facts = _facts(config, skeleton, labels, channels, vectors)
    if encoders:
        facts["text_networks"] = {option: network.facts for option, network in encoders.items()}
    if made_of:
        facts["networks"] = made_of
    ids = splits.label_ids(labels, data.learnt)
    facts["seen"] = [labels[number] for number in np.unique(ids[ids >= 0]).tolist()]
    if data.start is not None:
        method.backbone.load_weights(read_weights(data.start), classifier=False, name=str(data.start))
        facts["start"] = file_hash(data.start)
    return method, facts


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Train in a folder in which no other process trains.

    Raises:
        TrainingError: another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(alone(folder))
        except BlockingIOError:
            raise TrainingError(
                f"{folder}: another process trains in this folder; wait until it ends, or give another --out"
            ) from None
        yield


def view_of(config: Config, preprocess: Preprocess) -> View:
    """The random views of a configuration.

    Raises:
        TrainingError: the data are pictures, and a step is of joints.
    """
    view = View(config.view.frames, config.view.steps, preprocess.layout, preprocess.score)
    if is_pictures(preprocess.layout) and not view.in_time_alone:
        raise TrainingError(
            f"view.steps = {config.view.steps!r} has steps of joints, and the data are pictures: allowed are steps on "
            'time, such as [{name = "crop", min = 0.5}], and "none"'
        )
    return view


def windows_of(config: Config, datasets: Sequence[SkeletonDataset], names: Sequence[str]) -> list[SkeletonDataset]:
    """The regions of clips from which a method that learns classes of frames takes its windows."""
    length = config.view.frames
    hop = int(config.method.options.get("hop") or 0) or max(1, length // 2)
    return [WindowedDataset(dataset, length, hop, names) for dataset in datasets]


def train_settings(config: Config) -> TrainSettings:
    """Hyper-parameters as the loop takes them."""
    run, optim = config.run, config.optim.model_dump()
    optim |= {"optimizer": optim.pop("name"), "milestones": tuple(optim["milestones"])}
    optim["groups"] = tuple(_group(name, table) for name, table in optim["groups"].items())
    return TrainSettings(
        epochs=run.epochs,
        optim=OptimSettings(**optim),
        accumulate=run.accumulate,
        grad_clip=run.grad_clip or None,
        precision=run.precision,
        compile=run.compile,
        seed=run.seed,
        log_every=run.log_every,
        save_every=run.save_every,
        probe_every=run.probe_every,
        keep_every=run.keep_every,
        keep_best=run.keep_best,
        tensorboard=run.tensorboard,
        wandb=run.wandb,
    )


def _group(name: str, table: Mapping[str, Any]) -> GroupSettings:
    milestones = table["milestones"]
    return GroupSettings(name, **{**table, "milestones": None if milestones is None else tuple(milestones)})


def resolve(config: Config, datasets: Sequence[SkeletonDataset], val_split: str) -> Config:
    """The configuration with everything that defaults and data decide.

    Args:
        config: the configuration.
        datasets: what is learnt from.
        val_split: what is measured on.
    """
    clips = sum(map(len, datasets))
    if needs_of(config).spans:
        clips = sum(map(len, windows_of(config, datasets, joined_span_labels(datasets))))
    tables = decide(config, datasets, clips)
    data, run = tables["data"], tables["run"]
    data |= {name: [splits.absolute(path) for path in data[name]] for name in ("train", "val", "spans")}
    data["val_split"] = val_split
    if layout := splits.layout_name(datasets[0].skeleton):
        data["skeleton"] = layout
    if config.run.start is not None:
        run["start"] = str(Path(config.run.start).absolute())
    if config.run.cache not in PLACES:
        run["cache"] = str(Path(config.run.cache).expanduser().absolute())
    for kind in ("backbone", "method"):
        defaults = registry.defaults(registry.find(f"{kind}s", tables[kind]["name"]))
        tables[kind] = json.loads(json.dumps(settings.merge(defaults, tables[kind])))
    if "people" in tables["backbone"]:
        tables["backbone"]["people"] = config.backbone.options.get("people", config.preprocess.people)
    for option, folder in needs_of(config).networks.items():
        tables["method"][option] = splits.absolute(folder)
    for option, feature in needs_of(config).widths.items():
        if option not in config.method.options:
            tables["method"][option] = splits.feature_width(datasets, feature)
    return validate(tables, "the resolved configuration")


def _facts(
    config: Config, skeleton: Skeleton, labels: Sequence[str], channels: int, texts: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What a checkpoint says besides its position: what decides the network, and the whole configuration."""
    tables = config.to_toml()
    return {
        **{name: tables[name] for name in ("preprocess", "view", "backbone", "method")},
        "batch": config.run.batch,
        "skeleton": {"name": skeleton.name, "joints": skeleton.joints, "bones": skeleton.bones},
        "labels": list(labels),
        "channels": channels,
        "texts": {option: list(vectors.shape) for option, vectors in texts.items()},
        "config": tables,
    }


def _toml(config: Config) -> str:
    header = "# A run with all defaults; `dataengine-train pretrain` with this file trains the same again.\n\n"
    return header + tomli_w.dumps(config.to_toml())
