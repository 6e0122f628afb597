"""The floors of a figure: nearest neighbour and ridge on the coordinates that the network is given, and networks with
random weights.

    floors = Floors(config, preprocess, names, train, test, device)
    result = floors.beside(result)             # of a classifier or a linear probe
    result = floors.beside(result, "knn")      # of nearest neighbours of features

What was found is kept in a file by the clips, their preparation and the shape of the network. So a second probe,
another seed and a fine-tuning on the same clips compute nothing again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from dataengine.core.progress import Progress
from dataengine.io.storage import write_durably
from training import create_backbone
from training.backbones.base import Backbone
from training.config import Config
from training.data.rgb import is_pictures
from training.data.subsets import label_subsets, random_subset
from training.data.types import SkeletonDataset
from training.evaluate import logistic
from training.evaluate.floors import RANDOM, Coordinates, coordinate_floors
from training.evaluate.metrics import top_k
from training.evaluate.probes import LabelledFeatures, few_shot, knn
from training.evaluate.result import SPREAD, Result, plain
from training.runs import splits
from training.runs.features import THREE_CROPS, WHOLE_CLIP, Rows, calibrate, extract, flat, mirror_view, workers_for
from training.transforms.prepared import ClipCache
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

VERSION = 1
"""Of the computation; another one finds nothing of the former in the files."""
NETWORKS = 3
"""Random networks; one alone says little: two draws lie up to ten points apart."""
FIRST_SEED = 1_000_003
"""Of the weights of random networks: far from the seeds of runs, and the same for all of them."""
MOST = 5000
"""Clips of each split that coordinates are compared of."""
CALIBRATED_ON = 2000
"""Most clips that the statistics of a random network's norms are measured on."""
BATCH = 64
"""Clips per forward pass."""
STRENGTH = 0.3
"""C of the linear probe, as in `training.runs.probe`."""


class Floors:
    """The floors of figures of one network on two splits; everything is computed when it is first asked for.

    Args:
        config: of the run: the shape of the network, workers, seed.
        preprocess: makes the input of the network.
        names: of the classes.
        train, test: the two splits.
        device: where random networks run.
        cache: where prepared clips are kept, and figures beside them; None: nowhere.
        spans: crops of a clip whose mean features of random networks are, see `training.runs.features`.
        most: clips of each split that random networks are measured on at most. Default: all.
        progress: what tells how far random networks are. Default: nothing does.
    """

    def __init__(
        self,
        config: Config,
        preprocess: Preprocess,
        names: Sequence[str],
        train: Sequence[SkeletonDataset],
        test: Sequence[SkeletonDataset],
        device: Any = "cpu",
        cache: ClipCache | None = None,
        spans: Sequence[tuple[float, float]] = THREE_CROPS,
        most: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._config, self._preprocess, self._names, self._device = config, preprocess, tuple(names), device
        self._whole = (train, test)
        self._spans, self._progress = tuple(spans), progress or Progress()
        self._parts = (train, test) if most is None else (random_subset(train, most), random_subset(test, most))
        marks = [splits.facts(split)["fingerprint"] for split in self._whole]
        key = json.dumps([VERSION, *marks, list(names), repr(preprocess), config.view.frames])
        self._cache, root = cache, None if cache is None else cache.root
        self._kept = _Kept(None if root is None else root / f"floors-{blake3(key.encode()).hexdigest()[:16]}.json")

    def beside(self, result: Result, kind: str = "linear", blocks: bool = False) -> Result:
        """The result with its floors among the baselines, and how they were found in `details`.

        Args:
            result: top-1 of the test clips.
            kind: how random networks are measured: "linear", or "knn".
            blocks: whether by features of several blocks, see `training.backbones.base.Backbone.block_features`.
        """
        found = self._kept.get("coordinates", self._on_coordinates)
        measure = _measures(kind, len(self._names))
        values = self._kept.get(f"{_by(blocks)}{kind} {self._shape}", lambda: self._random(measure, blocks))
        return self._with(result, found, values)

    def beside_few(
        self, results: Sequence[Result], amounts: Sequence[float], seeds: Sequence[int], blocks: bool = False
    ) -> list[Result]:
        """Results of few labels (see `training.evaluate.probes.few_shot`), one an amount, with floors that learn from
        the same labels."""
        told = f"{json.dumps([list(amounts), list(seeds)])}"
        found = self._kept.get(f"coordinates, few {told}", lambda: self._few_on_coordinates(amounts, seeds))
        values = self._kept.get(
            f"{_by(blocks)}few {told} {self._shape}", lambda: self._few_random(amounts, seeds, blocks)
        )
        return [self._with(result, found[n], values[n]) for n, result in enumerate(results)]

    def _with(self, result: Result, found: dict[str, Any], values: Sequence[float]) -> Result:
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        own = {name: floor["value"] for name, floor in found.items()} | {RANDOM: float(np.mean(values))}
        details = {
            **result.details,
            "floors": {**found, RANDOM: {"each": list(values)}},
            SPREAD: {RANDOM: spread},
        }
        return dataclasses.replace(result, baselines={**result.baselines, **own}, details=details)

    @property
    def _shape(self) -> str:
        """What the figures of random networks depend on beside the clips and their preparation."""
        shape = [self._config.backbone.model_dump(), self._spans, [sum(map(len, part)) for part in self._parts]]
        return json.dumps(shape, sort_keys=True)

    @cached_property
    def _coordinates(self) -> tuple[Coordinates, LabelledFeatures]:
        train, test = (random_subset(split, MOST) for split in self._whole)
        numbers = _thumbnails if is_pictures(self._preprocess.layout) else flat
        rows = [self._rows(numbers, part) for part in (train, test)]
        view = mirror_view(self._preprocess, self._config.view.frames)
        mirrored = None if view is None else self._rows(flat, train, view=view)
        ids = [splits.label_ids(self._names, part) for part in (train, test)]
        learnt_from = Coordinates(rows[0], ids[0], mirrored, splits.groups_of(train))
        return learnt_from, LabelledFeatures(rows[1], ids[1])

    def _rows(
        self,
        function: Any,
        part: Sequence[SkeletonDataset],
        spans: Sequence[tuple[float, float]] = WHOLE_CLIP,
        view: View | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Rows:
        return extract(
            function,
            part,
            self._preprocess,
            self._config.view.frames,
            spans,
            BATCH,
            workers_for(part, self._config.run.workers, self._device),
            self._device,
            view=view,
            advance=advance,
            cache=self._cache,
        ).rows

    def _on_coordinates(self) -> dict[str, Any]:
        train, test = self._coordinates
        floors = coordinate_floors(train, test.features, test.labels, len(self._names))
        counts = {"clips": [len(train.labels), len(test.labels)]}
        return {name: {"value": floor.value, **floor.details, **counts} for name, floor in floors.items()}

    def _few_on_coordinates(self, amounts: Sequence[float], seeds: Sequence[int]) -> list[dict[str, Any]]:
        train, test = self._coordinates
        found: list[dict[str, list[float]]] = [{} for _ in amounts]
        for seed in seeds:
            subsets = label_subsets(train.labels, amounts, seed)
            for number, amount in enumerate(amounts):
                part = train.take(subsets[amount])
                for name, floor in coordinate_floors(part, test.features, test.labels, len(self._names)).items():
                    found[number].setdefault(name, []).append(floor.value)
        return [
            {name: {"value": float(np.mean(values)), "each": values} for name, values in one.items()} for one in found
        ]

    def _random(self, measure: Callable[[LabelledFeatures, LabelledFeatures], Any], blocks: bool) -> list[Any]:
        return [measure(*pair) for pair in (self._random_blocks if blocks else self._random_features)]

    def _few_random(self, amounts: Sequence[float], seeds: Sequence[int], blocks: bool) -> list[list[float]]:
        def measure(train: LabelledFeatures, test: LabelledFeatures) -> list[float]:
            return [one.value for one in few_shot(train, test, len(self._names), tuple(amounts), seeds)]

        return [list(values) for values in zip(*self._random(measure, blocks))]

    @cached_property
    def _random_features(self) -> list[tuple[LabelledFeatures, LabelledFeatures]]:
        return self._by_random(False)

    @cached_property
    def _random_blocks(self) -> list[tuple[LabelledFeatures, LabelledFeatures]]:
        return self._by_random(True)

    def _by_random(self, blocks: bool) -> list[tuple[LabelledFeatures, LabelledFeatures]]:
        """Features of both splits, by each random network."""
        ids = [splits.label_ids(self._names, part) for part in self._parts]
        pairs = []
        total = NETWORKS * sum(len(dataset) for part in self._parts for dataset in part)
        with self._progress.step("floors", total, "clips") as advance:
            for number in range(NETWORKS):
                backbone = self.network(number)
                function = backbone.block_features if blocks else backbone.features
                rows = [self._rows(function, part, self._spans, advance=advance) for part in self._parts]
                pairs.append((LabelledFeatures(rows[0], ids[0]), LabelledFeatures(rows[1], ids[1])))
        return pairs

    def network(self, number: int) -> Backbone:
        """Random network `number` of the run's shape, see `random_network`."""
        return random_network(self._config, self._preprocess, self._parts[0], self._device, self._cache, number)


def random_network(
    config: Config,
    preprocess: Preprocess,
    train: Sequence[SkeletonDataset],
    device: Any = "cpu",
    cache: ClipCache | None = None,
    number: int = 0,
) -> Backbone:
    """A network of a run's shape with random weights, its norms' statistics measured on training clips.

    Args:
        config: of the run.
        preprocess: makes the input of the network.
        train: the training clips.
        device: where the network runs.
        cache: where prepared clips are kept.
        number: other weights for each number; the same for all runs.
    """
    channels = preprocess(train[0].read([0])[0]).shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIRST_SEED + number)
        table = config.backbone
        backbone = create_backbone(table.name, 0, preprocess.layout, channels, **table.options)
    some = random_subset(train, CALIBRATED_ON)
    return calibrate(backbone.to(device), some, preprocess, config.view.frames, device, cache)


def _by(blocks: bool) -> str:
    """What figures of features of several blocks are kept under, beside those of the plain ones."""
    return "blocks, " if blocks else ""


def _thumbnails(pictures: torch.Tensor) -> torch.Tensor:
    """(N, D) the colours of clips of pictures (N, 3, T, H, W), each frame scaled down to 12 x 12."""
    return torch.nn.functional.adaptive_avg_pool3d(pictures, (pictures.shape[2], 12, 12)).flatten(1)


def _measures(kind: str, classes: int) -> Callable[[LabelledFeatures, LabelledFeatures], float]:
    def linear(train: LabelledFeatures, test: LabelledFeatures) -> float:
        return top_k(logistic.fit(train.features, train.labels, classes, STRENGTH).scores(test.features), test.labels)

    if kind == "linear":
        return linear
    assert kind == "knn", kind
    return lambda train, test: knn(train, test, classes).value


class _Kept:
    """Values by name in a JSON file; a file that cannot be read or written is as none."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._values = path, dict[str, Any]()
        if path is not None:
            try:
                held = json.loads(path.read_text(encoding="utf-8"))
                self._values = held if isinstance(held, dict) else {}
            except (OSError, ValueError):
                pass

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value, computed where it is not there yet."""
        if name not in self._values:
            self._values[name] = plain(compute())
            if self._path is not None:
                try:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    write_durably(self._path, json.dumps(self._values).encode())
                except OSError:
                    self._path = None
        return self._values[name]
