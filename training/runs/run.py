"""A run: a trained network in a folder, and everything that says what it takes.

run = load_run("runs/unik")      # needs no data: the checkpoint says what the network is made of
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataengine.core import settings
from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from dataengine.io.storage import file_hash
from training import create_backbone, create_method, registry
from training.backbones.base import Backbone
from training.config import Config, validate
from training.config_tables import PreprocessTable
from training.data.rgb import is_pictures
from training.data.types import remark
from training.engine import checkpoint
from training.methods.base import Method, Needs
from training.methods.text_network import TextNetwork
from training.transforms.prepared import ClipCache
from training.transforms.preprocess import Preprocess
from training.transforms.rgb import check_preprocess, picture_preprocess

CHECKPOINT, PREVIOUS, NETWORK = "last.safetensors", "previous.safetensors", "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A trained network and everything that says what it takes.

    Attributes:
        folder: of the run.
        config: the configuration, with all defaults.
        method: what was trained, in evaluation mode; `method.embed` gives features.
        preprocess: makes the input of the network of a sequence.
        labels: classes of the training data, in the order of the classifier's outputs.
        facts: of the checkpoint: `step`, `data` (fingerprint of the training data), and more.
    """

    folder: Path
    config: Config
    method: Method
    preprocess: Preprocess
    labels: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps that the network was trained for."""
        return int(self.facts["step"])

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return bool(self.facts["done"])

    @property
    def backbone(self) -> Backbone:
        """The network; its input is (N, C, T, V, M)."""
        return self.method.backbone

    @property
    def skeleton(self) -> Skeleton:
        """The joint layout of the input."""
        return self.backbone.skeleton

    @property
    def channels(self) -> int:
        """C of the input."""
        return self.backbone.channels

    @property
    def data_channels(self) -> int:
        """Channels of preprocessed clips; the method may show the network fewer, see `Method.seen`."""
        return int(self.facts["channels"])

    @property
    def frames(self) -> int:
        """T of the training views."""
        return self.config.view.frames

    @property
    def cache(self) -> ClipCache | None:
        """Where prepared clips are kept, see `run.cache`."""
        return ClipCache.of(self.config.run.cache, self.config.run.cache_gb)

    @property
    def needs(self) -> Needs:
        """What the method needs of data."""
        return needs_of(self.config)


def load_run(folder: str | Path) -> Run:
    """The network of a run, finished or not, from its checkpoint alone; from the one before, with a note, where the
    latest is torn.

    Raises:
        TrainingError: there is no run, its checkpoints are torn, or it was trained without a configuration.
    """
    folder = Path(folder)
    found = checkpoint.latest(folder / CHECKPOINT, folder / PREVIOUS)
    if found is None:
        inner = runs_in(folder)
        hint = "the --out of `dataengine-train pretrain` or `finetune`"
        if inner:
            hint = f"one of the runs that it holds, such as {folder / inner[0]}"
        raise TrainingError(f"{folder} is no run: it holds no {CHECKPOINT}; give {hint}")
    tensors, facts, lost = found
    if lost:
        remark(lost)
    if "config" not in facts:
        raise TrainingError(
            f"{folder} was trained without a configuration, and does not say what its network is; load it from Python"
        )
    config = validate(facts["config"], str(folder / CHECKPOINT))
    skeleton = _skeleton(facts["skeleton"])
    method = method_of(facts, str(folder / CHECKPOINT))
    method.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("method.")})
    return Run(folder, config, method.eval(), make_preprocess(config, skeleton), tuple(facts["labels"]), facts)


def runs_in(folder: Path) -> list[str]:
    """Names of the folders in a folder that are runs, such as those of several seeds."""
    return sorted(path.parent.name for path in folder.glob(f"*/{CHECKPOINT}"))


def check_no_run(folder: Path) -> None:
    """Refuse a folder for several runs that is a run itself.

    Raises:
        TrainingError: it is.
    """
    if (folder / CHECKPOINT).exists():
        raise TrainingError(
            f"{folder} is a run itself, and several runs need a folder of their own: give another --out"
        )


def method_of(facts: Mapping[str, Any], where: str) -> Method:
    """The method that the facts of a checkpoint describe, with first weights.

    Args:
        facts: of a checkpoint.
        where: names the checkpoint in errors.
    """
    given: dict[str, Any] = {option: torch.zeros(shape) for option, shape in facts["texts"].items()}
    given |= {option: TextNetwork.of_facts(inner) for option, inner in facts.get("text_networks", {}).items()}
    given |= {option: method_of(inner, where) for option, inner in facts.get("networks", {}).items()}
    config, skeleton = validate(facts["config"], where), _skeleton(facts["skeleton"])
    return make_method(config, skeleton, facts["labels"], facts["channels"], given)


def given_networks(needs: Needs) -> tuple[dict[str, Method], dict[str, dict[str, Any]]]:
    """The methods of finished runs that a method takes, by option, and what checkpoints say of them.

    Raises:
        TrainingError: a folder holds no run, or one that is not finished.
    """
    methods, facts = {}, {}
    for option, folder in needs.networks.items():
        start_file(folder)
        run = load_run(folder)
        methods[option] = Method.freeze(run.method)
        made_of = ("config", "skeleton", "labels", "channels", "texts", "text_networks", "networks")
        facts[option] = {name: run.facts[name] for name in made_of if name in run.facts}
        facts[option]["weights"] = file_hash(Path(folder) / NETWORK)
    return methods, facts


def _skeleton(layout: Mapping[str, Any]) -> Skeleton:
    return Skeleton(layout["name"], tuple(layout["joints"]), tuple((a, b) for a, b in layout["bones"]))


def skeleton_of(weights: Path) -> Skeleton | None:
    """The joints that weights of a run were trained on; None for files of other programs."""
    layout = checkpoint.facts_of(weights).get("skeleton") if weights.suffix == ".safetensors" else None
    return None if layout is None else _skeleton(layout)


def type_of(config: Config) -> type[Method]:
    """The class of the method of a configuration."""
    cls: type[Method] = registry.find("methods", config.method.name)
    return cls


def needs_of(config: Config) -> Needs:
    """What the method of a configuration needs of data."""
    cls = type_of(config)
    return cls.needs(settings.merge(registry.defaults(cls), config.method.options))


def make_method(
    config: Config, skeleton: Skeleton, labels: Sequence[str], channels: int, given: Mapping[str, Any] | None = None
) -> Method:
    """The network and the method around it, with first weights.

    Args:
        config: with all defaults.
        skeleton, labels, channels: of the data.
        given: by option what the method needs: vectors (K, P, D) of the classes' texts, encoders of texts, methods of
            finished runs.
    """
    classes = len(labels) if config.classifies else 0
    cls = type_of(config)
    channels = cls.input_channels(settings.merge(registry.defaults(cls), config.method.options), channels)
    backbone = create_backbone(config.backbone.name, classes, skeleton, channels, **config.backbone.options)
    if backbone.takes_pictures != is_pictures(skeleton):
        what, other = ("pictures", "joints") if backbone.takes_pictures else ("joints", "pictures")
        raise TrainingError(f"network {config.backbone.name!r} takes {what}, and the data are {other}")
    options = {**config.method.options, **(given or {})}
    if cls.per_frame:
        options["num_classes"] = len(labels)
    return create_method(config.method.name, backbone=backbone, **options)


def make_preprocess(config: Config, skeleton: Skeleton) -> Preprocess:
    """What makes the input of the network of a sequence.

    Raises:
        TrainingError: the data are pictures, and an option is of joints.
    """
    table = config.preprocess.model_dump()
    if is_pictures(skeleton):
        check_preprocess(table, PreprocessTable().model_dump())
        return picture_preprocess(skeleton, table["size"])
    table["channels"] = None if table["channels"] is None else tuple(table["channels"])
    return Preprocess(skeleton, **table)


def start_file(start: str | Path) -> Path:
    """The file of weights that a run's folder, or the file itself, stands for.

    Raises:
        TrainingError: a run that is not finished, or no such file.
    """
    path = Path(start)
    file = path / NETWORK if path.is_dir() else path
    if not file.is_file():
        unfinished = (path / CHECKPOINT).is_file()
        what = f"that run is not finished (no {NETWORK})" if unfinished else "there is no run and no file of weights"
        raise TrainingError(f"{start}: {what}; give a finished run's folder, or a file of weights")
    return file
