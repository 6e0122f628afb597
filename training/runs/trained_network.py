"""Trained networks, of a run or without one, as exports and embeddings take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.backbones.base import Backbone
from training.methods.base import Method
from training.transforms.preprocess import Preprocess

if TYPE_CHECKING:
    from training.config import Config


class TrainedNetwork(Protocol):
    """What is exported: `training.runs.run.load_run` gives one, `BareNetwork` is one without a run.

    Attributes:
        backbone: the network.
        method: what it was trained with, or None.
        config: the configuration it was trained with, or None.
        preprocess: how clips become its input, or None.
        labels: names of its classes.
        facts: of the checkpoint: fingerprint of the `data`, `step` and more.
        folder: where it lies, with its results, or None.
    """

    @property
    def backbone(self) -> Backbone: ...
    @property
    def method(self) -> Method | None: ...
    @property
    def config(self) -> Config | None: ...
    @property
    def preprocess(self) -> Preprocess | None: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def folder(self) -> Path | None: ...


@dataclass(frozen=True)
class BareNetwork:
    """A network that comes from no run; see `TrainedNetwork`."""

    backbone: Backbone
    method: Method | None = None
    config: Config | None = None
    preprocess: Preprocess | None = None
    labels: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
