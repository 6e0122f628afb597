"""The program that the verbs belong to, and the options and steps that they share."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dataengine.core.console import application, show
from dataengine.core.errors import DataEngineError, MissingExtraError, suggestion
from dataengine.core.extras import installed
from dataengine.core.progress import ConsoleProgress, Progress

if TYPE_CHECKING:
    from training.data.types import SkeletonDataset
    from training.runs.report import Report
    from training.runs.run import Run


app = application("dataengine-train", "Train networks on what dataengine builds, and measure what they know.")
RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, the --out of pretrain or finetune.", metavar="RUN")]
AnySplitOption = Annotated[str | None, typer.Option("--split", help="Which clips. Default: all.")]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="Built dataset, WebDataset, pyskl pickle, UNIK folder or npz; repeatable.", metavar="PATH"
    ),
]
ValOption = Annotated[
    list[str] | None,
    typer.Option("--val", help="What is measured on. Default: the split val, or test, of --data.", metavar="PATH"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="table.key=TOML value, for example run.batch=32 or 'view.steps=\"strong\"'; repeatable.",
        metavar="KEY=VALUE",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of the run. Default: runs/NAME. The same command again goes on.")
]
TextOption = Annotated[
    str | None, typer.Option(help="Encoder of texts: minilm, ngrams, viclip, open_clip. Default: as trained.")
]
PromptsOption = Annotated[
    str | None,
    typer.Option(help="Set of templates of manifests/prompts.toml, or a CSV of label and text. Default: as trained."),
]
SplitOption = Annotated[str | None, typer.Option(help="Which clips; '' all. Default: val, or test.")]
BlocksOption = Annotated[
    bool, typer.Option("--blocks", help="Also richer features: means and maxima of several blocks of the network.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
RunDeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
SeedsOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Trains so many runs, of the seeds from run.seed on, in folders seedN; figures are means with intervals.",
    ),
]
StreamsOption = Annotated[
    str | None,
    typer.Option(
        help="Trains a run for each of these inputs, in folders of their names, and fuses them, for example "
        "joint,bone,motion.",
        metavar="NAMES",
    ),
]


def say(text: str) -> None:
    typer.echo(text, err=True)


def ready() -> None:
    """Refuse, in one line, where training is not installed; make warnings lines, too."""
    if not installed("train"):
        raise MissingExtraError("dataengine-train", "train")
    warnings.showwarning = _note  # type: ignore[assignment]


def _note(message: Warning | str, category: type[Warning], *_: Any) -> None:
    from training.distributed import is_first

    if category is UserWarning and is_first():
        say(f"note: {message}")


def progress_of(as_json: bool) -> Progress:
    return Progress() if as_json else ConsoleProgress()


def loaded_run(run: Path) -> Run:
    ready()
    from training.runs.run import load_run

    loaded = load_run(run)
    if not loaded.done:
        say(f"note: {run} is not finished; this is its network at step {loaded.step}")
    return loaded


def device_of(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise DataEngineError(f"--device {name!r}{suggestion(name, ('auto', 'cpu', 'cuda'))}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise DataEngineError("--device cuda: torch finds no GPU here; take --device cpu")
    return "cuda" if there and name != "cpu" else "cpu"


def open_clips(
    run: Run,
    data: list[str] | None,
    val: list[str] | None,
    which: Literal["train", "val"],
    split: str | None,
    features: tuple[str, ...] = (),
) -> list[SkeletonDataset]:
    """Clips of the named data, or of the run's own, in the joints of the run."""
    from training.runs.report import open_split_of

    return open_split_of(run, data or (), val or (), which, split, features)


def all_clips(
    run: Run, data: list[str] | None, split: str | None, features: tuple[str, ...] = ()
) -> list[SkeletonDataset]:
    """All clips of the named data, or of the run's own, those that show nobody among them: each gets a row."""
    from training.runs.report import open_split_of

    return open_split_of(run, data or (), (), "train", split or "", features, keep_nobody=True)


def report(report: Report, as_json: bool) -> None:
    report.write()
    show(report.to_dict() if as_json else report.text())
