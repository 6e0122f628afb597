"""The model card: a README.md that says what a network is, what it learnt from, how well it does, and how to load
it."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

import dataengine
from dataengine.core.errors import DataEngineError, TrainingError
from dataengine.core.markdown import plain, rows
from dataengine.core.skeletons import SKELETONS
from dataengine.dataset.dataset import open as open_built_dataset
from dataengine.dataset.sql import matching
from dataengine.io.storage import write_durably
from training import registry
from training.config import Config
from training.data.formats import format_of
from training.evaluate.confidence_intervals import Interval
from training.evaluate.result import Result, table
from training.runs.export import FRAMES, metadata
from training.runs.trained_network import TrainedNetwork
from training.transforms.preprocess import Preprocess
from training.transforms.rgb import DEVIATION, MEAN, PicturePreprocess

LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nd-4.0",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "openrail",
        "unlicense",
        "unknown",
    ]
)
"""Licences that the front matter of a model hub knows; others are "other" there, with their name."""
SUFFIXES = {".onnx": "onnx", ".pt": "torchscript", ".safetensors": "safetensors"}
OURS = "library_name: dataengine"
"""The line of the front matter that tells our cards from other people's README.md."""
ACTIONS = "skeleton-based-action-recognition"
"""What networks over joints with classes do, as model hubs call it."""
SHOWN = 60
"""Labels that are listed; the files themselves hold all."""


def card(run: TrainedNetwork, path: str | os.PathLike[str], licence: str | None = None) -> Path:
    """Write a model card beside exported files.

    Nothing that depends on the time or on where things lie is written: equal runs and datasets give equal cards.

    Args:
        run: a finished run; what was measured of it lies in its folder.
        path: the exported file that the card is put beside, or the folder of several.
        licence: of the weights; it is stated, never guessed.

    Returns:
        The card's path.

    Raises:
        TrainingError: the run does not say its configuration, or a README.md that is no card of ours lies there.
    """
    if run.config is None:
        raise TrainingError(
            "a card says how a network was trained, which this run does not; give one of training.runs.run.load_run"
        )
    written = Path(path)
    beside = written if written.is_dir() or not written.suffix else written.parent
    target = beside / "README.md"
    if target.exists() and OURS not in target.read_text(encoding="utf-8", errors="replace"):
        raise TrainingError(
            f"{target} is there and is no model card of dataengine; export into another folder, or move it away"
        )
    measured = {} if run.folder is None else results(run.folder)
    parts = [
        _front(run, licence),
        f"# {run.config.run.name}",
        _about(run, run.config),
        _loading(run, run.config, beside),
        _data(run, run.config),
        _results(measured),
        f"## Configuration\n\n```toml\n{tomli_w.dumps(_without_paths(run.config))}```",
        _limits(run),
        _licence(licence),
    ]
    write_durably(target, ("\n\n".join(parts) + "\n").encode())
    return target


@dataclass(frozen=True)
class Measured:
    """Results of one file, and the names of the datasets that they were measured on, where it says them."""

    results: tuple[Result, ...]
    data: tuple[str, ...]


def results(folder: Path) -> dict[str, Measured]:
    """What was measured of a run, by relative path: JSON files of one result, or with `results`; others are
    skipped."""
    by_path = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            many = tuple(map(_result, content.get("results", [content])))
            if many:
                by_path[path.relative_to(folder).as_posix()] = Measured(
                    many, tuple(_name(place) for place in content.get("data", ()))
                )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, TrainingError):
            continue
    return by_path


def _result(row: Mapping[str, Any]) -> Result:
    interval = None if row["interval"] is None else Interval(**row["interval"])
    return Result(**{**row, "per_seed": tuple(row["per_seed"]), "interval": interval})


def _front(run: TrainedNetwork, licence: str | None) -> str:
    """YAML that model hubs read; JSON texts are YAML."""
    name = "unknown" if licence is None else licence.lower()
    lines = [f"license: {name if name in LICENCES else 'other'}"]
    if name not in LICENCES:
        lines.append(f"license_name: {json.dumps(re.sub(r'[^a-z0-9.]+', '-', name).strip('-') or 'other')}")
        lines.append("license_link: README.md")
    lines += [OURS, f"pipeline_tag: {'other' if run.backbone.num_classes else 'feature-extraction'}", "tags:"]
    seen = ("video", "video-classification") if run.backbone.takes_pictures else ("skeleton", ACTIONS)
    task = [seen[1]] if run.backbone.num_classes else ["motion-representation"]
    named = run.config.backbone.name if run.config is not None else type(run.backbone).__name__.lower()
    lines += [f"- {json.dumps(tag)}" for tag in ("human-motion", seen[0], *task, named)]
    return "---\n" + "\n".join(lines) + "\n---"


def _about(run: TrainedNetwork, config: Config) -> str:
    backbone = run.backbone
    count = sum(p.numel() for p in backbone.parameters())
    classes = f" and {backbone.num_classes:,} classes" if backbone.num_classes else ""
    network, method = (inspect.getdoc(registry.find(kind, name)) for kind, name in _names(config))
    layout = backbone.skeleton
    steps = f" in {run.facts['step']:,} steps" if "step" in run.facts else ""
    unfinished = "" if run.facts.get("done", True) else " **Training was not finished.**"
    given = f"{layout.num_joints} joints of up to {backbone.people} people"
    joints = f"Joints, in order (`{plain(layout.name)}`): {', '.join(map(plain, layout.joints))}."
    if isinstance(run.preprocess, PicturePreprocess):
        width, height = run.preprocess.shape
        given = f"{config.view.frames} pictures of {width} x {height}"
        joints = f"Colours are RGB from 0 to 1, less {MEAN}, over {DEVIATION}."
    what = (
        f"A network `{config.backbone.name}` ({count:,} parameters) for {given}: "
        f"{backbone.width} features{classes} of a motion. {_first(network)}\n\n"
        f"Learnt with the method `{config.method.name}`{steps}.{unfinished} {_first(method)}\n\n{joints}"
    )
    labels = [plain(label) for label in run.labels] if backbone.num_classes else []
    rest = f", and {len(labels) - SHOWN:,} more, in the files' metadata" if len(labels) > SHOWN else ""
    return what + (f"\n\nClasses, in order: {', '.join(labels[:SHOWN])}{rest}." if labels else "")


def _names(config: Config) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("backbones", config.backbone.name), ("methods", config.method.name)


def _first(text: str | None) -> str:
    """The first sentence of a docstring."""
    line = " ".join((text or "").split("\n\n")[0].split())
    return plain(re.split(r"(?<=[.:])\s", line)[0]).removesuffix(":")


def _loading(run: TrainedNetwork, config: Config, beside: Path) -> str:
    if isinstance(run.preprocess, PicturePreprocess):
        return _loading_pictures(run, config, run.preprocess)
    backbone = run.backbone
    frames = config.view.frames if config is not None else FRAMES
    shape = f"(1, {backbone.channels}, {frames}, {backbone.skeleton.num_joints}, {backbone.people})"
    files = _files(beside)
    onnx = next((name for name, note in files.items() if name.endswith(".onnx")), "model.onnx")
    output = files.get(onnx, {}).get("output", "logits" if backbone.num_classes else "features")
    weights = next(
        (name for name, note in files.items() if name.endswith(".safetensors") and "output" in note),
        "model.safetensors",
    )
    listed = [
        (f"`{plain(name)}`", note["output"], ", ".join(note.get("dynamic", ())) or "none")
        for name, note in files.items()
        if "output" in note
    ]
    table = f"{rows(('file', 'gives', 'axes of any size'), listed)}\n\n" if listed else ""
    answer = f'about["labels"][{output}[0].argmax()]' if output == "logits" else f"{output}.shape"
    return f"""## How to load it

{table}Input are motions (N, C, T, V, M) float32: clips, coordinates, frames, joints, people; absent people are zeros.

```python
import json
import numpy as np
import onnxruntime as ort

session = ort.InferenceSession("{onnx}", providers=["CPUExecutionProvider"])
about = {{key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}}
motion = np.zeros({shape}, np.float32)
{output} = session.run(None, {{"motion": motion}})[0]
{answer}
```

In PyTorch, with clips prepared as they were for training:

```python
import numpy as np
from training import create_backbone
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

network = {_constructor_call(run, config)}.eval()
network.load_published("{weights}")
preprocess = {_prepared(run.preprocess)}
joints = preprocess.joints(clip)   # clip: training.data.types.SkeletonSequence
joints = View({frames}, "none", score=preprocess.score)(joints, np.random.default_rng(0))
motion = preprocess.finish(joints)   # (M, T, V, C)
```"""


def _loading_pictures(run: TrainedNetwork, config: Config, preprocess: PicturePreprocess) -> str:
    """How a network over pictures is loaded."""
    return f"""## How to load it

Input are pictures (N, 3, T, H, W) float32: clips, colours, frames, rows, columns.

```python
import numpy as np
import torch
from training import create_backbone
from training.data.rgb import PICTURES, as_frames
from training.transforms.rgb import picture_preprocess

network = {_constructor_call(run, config)}.eval()
network.load_published("model.safetensors")
preprocess = picture_preprocess(PICTURES, {preprocess.shape})
shown = as_frames(preprocess(clip))   # clip: of training.data.formats.videos; (T, H, W, 3)
frames = shown[np.linspace(0, len(shown) - 1, {config.view.frames}).round().astype(int)]
features = network.features(torch.from_numpy(frames.transpose(3, 0, 1, 2)[None].copy()))
```"""


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Metadata of the exported files of a folder, by name; other files are skipped."""
    by_name = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in SUFFIXES:
            try:
                by_name[path.name] = metadata(path)
            except TrainingError:
                continue
    return by_name


def _constructor_call(run: TrainedNetwork, config: Config) -> str:
    """The call that creates the network without its weights."""
    backbone = run.backbone
    allowed = registry.options(registry.find("backbones", config.backbone.name))
    options = config.backbone.options | ({"people": backbone.people} if "people" in allowed else {})
    changed = {name: value for name, value in options.items() if json.dumps(value) != json.dumps(allowed[name].default)}
    more = "".join(f", {name}={value!r}" for name, value in changed.items())
    layout = f'"{backbone.skeleton.name if backbone.skeleton.name in SKELETONS else "..."}"'
    layout = "PICTURES" if backbone.takes_pictures else layout
    return f'create_backbone("{config.backbone.name}", {backbone.num_classes}, {layout}, {backbone.channels}{more})'


def _prepared(preprocess: Preprocess | None) -> str:
    if preprocess is None:
        return "Preprocess(...)   # the run does not say how"
    own = {name: getattr(preprocess, name) for name in inspect.signature(Preprocess).parameters if name != "skeleton"}
    changed = [
        f"{name}={value!r}"
        for name, value in own.items()
        if value != inspect.signature(Preprocess).parameters[name].default
    ]
    return f"Preprocess({', '.join([repr(preprocess.layout.name), *changed])})"


def _data(run: TrainedNetwork, config: Config) -> str:
    """What it learnt from, as the datasets themselves say it."""
    chosen = [f"split `{plain(config.data.split)}`"] if config.data.split else []
    chosen += [f"where `{plain(config.data.where)}`"] if config.data.where else []
    described = [_dataset(place, config.data.split or None, config.data.where) for place in config.data.train]
    cells = [(plain(_name(place)), *about) for place, (about, _) in zip(config.data.train, described)]
    licences: Counter[tuple[str, str]] = Counter()
    for _, counts in described:
        licences.update(counts)
    lines = [
        f"## Data\n\nFingerprint of all that it was trained on: `{run.facts.get('data', 'not known')}`"
        + (f" ({', '.join(chosen)})." if chosen else "."),
        rows(("dataset", "format", "clips", "fingerprint"), cells),
    ]
    if licences:
        lines.append("Licences and consent of these clips, as the index of the datasets states them:")
        lines.append(
            rows(
                ("licence", "consent", "clips"), [(*map(plain, pair), f"{n:,}") for pair, n in sorted(licences.items())]
            )
        )
    if len(described) > sum(bool(counts) for _, counts in described):
        lines.append("**Datasets without an index do not state their licences: ask whoever published them.**")
    if any(pair[0] == "unknown" for pair in licences):
        lines.append(
            "**The licence of some clips is unknown: clear their rights before publishing what was learnt from them.**"
        )
    return "\n\n".join(lines)


def _dataset(
    place: str, split: str | None, where: str | None
) -> tuple[tuple[str, str, str], Mapping[tuple[str, str], int]]:
    """(format, clips, fingerprint) of a dataset and how many clips have each licence and consent."""
    try:
        kind = format_of(place)
        if kind != "built":
            return (kind, "not counted", "in the fingerprint above"), {}
        dataset = open_built_dataset(place)
        frame = dataset.clips if split is None else dataset.clips.filter(pl.col("split") == split)
        rights_of = ["licence", "consent"]
        chosen = frame.select(rights_of).collect() if where is None else matching(frame, where, rights_of)
        counts = chosen.group_by(rights_of).len().rows()
    except (DataEngineError, pl.exceptions.PolarsError):
        return ("not found when the card was written", "–", "in the fingerprint above"), {}
    rights = Counter({(licence or "unknown", consent or "not stated"): number for licence, consent, number in counts})
    return (kind, f"{sum(rights.values()):,}", f"`{dataset.manifest['fingerprint']}`"), rights


def _name(place: str) -> str:
    """The last parts of a path or url that name a dataset, without where it lies."""
    parts = [part for part in place.rstrip("/").split("/") if part not in ("", ".", "..")]
    return parts[-2] if len(parts) > 1 and parts[-1] == "dataset" else parts[-1] if parts else place


def _without_paths(config: Config) -> dict[str, Any]:
    """The configuration's tables, with datasets and files by name only."""
    tables = config.to_toml()
    data = {
        key: [_name(place) for place in value] if key in ("train", "val") else value
        for key, value in tables["data"].items()
    }
    named: dict[str, Any] = _named(tables | {"data": data})
    return named


def _named(value: Any) -> Any:
    """Tables with names of files in place of paths on this machine."""
    if isinstance(value, Mapping):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    return _name(value) if isinstance(value, str) and value.startswith(("/", "~")) else value


def _results(by_path: Mapping[str, Measured]) -> str:
    if not by_path:
        return "## Results\n\nNone were measured: judge it on data of your own before you rely on it."
    parts = []
    for name, measured in by_path.items():
        where = f", on {', '.join(map(plain, dict.fromkeys(measured.data)))}" if measured.data else ""
        parts.append(f"From `{plain(name)}`{where}:\n\n{table(measured.results)}")
    more = "Baselines are what a figure must be compared with; intervals are named by how they were found."
    return "\n".join(["## Results\n", *parts, more])


def _limits(run: TrainedNetwork) -> str:
    classes = run.backbone.num_classes
    lines = [
        "It sees joints, not pictures: objects, faces and hands that the joints do not show cannot be told apart by "
        "it.",
        "Its input comes from pose estimates; people who are estimated worse (far away, cut off, covered, dressed "
        "unusually) are judged worse.",
        "Figures hold for data like that of the results above. Other cameras, frame rates and joint layouts must be "
        "measured anew.",
        f"It always names one of its {classes:,} classes, also for motions that are none of them." if classes
        else "Its features say how motions resemble each other, not what they mean.",
        "It must not be used to identify people, nor for decisions about them.",
        "Clips that are taken down from a dataset after training are still in the weights: train again without them.",
    ]  # fmt: skip
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(licence: str | None) -> str:
    stated = (
        "The licence of these weights is **not stated**: they may not be used until whoever trained them says how."
        if licence is None
        else f"The weights are given under {plain(licence)}."
    )
    return (
        f"## Licence\n\n{stated} The program that made and loads them, dataengine {dataengine.__version__}, is under "
        "Apache-2.0. "
        "The rights in the clips, listed under Data, are their owners' and not changed by either."
    )
