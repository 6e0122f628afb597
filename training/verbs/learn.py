"""Verbs that make a run, and data to make one of."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.core.console import show
from dataengine.core.errors import DataEngineError
from dataengine.core.failures import in_one_line

if TYPE_CHECKING:
    from training.config import Config

from training.verbs.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    OutOption,
    RunDeviceOption,
    SeedsOption,
    SetOption,
    SplitOption,
    StreamsOption,
    ValOption,
    app,
    device_of,
    loaded_run,
    open_clips,
    progress_of,
    ready,
    report,
    say,
)


@app.command(name="train", help="Train a network as the configuration says, with labels or without: pretrain.")
@app.command()
def pretrain(
    configuration: Annotated[
        str,
        typer.Argument(
            help="Name of a configuration (see `dataengine-train list configs`) or path of a .toml file.",
            metavar="CONFIG",
        ),
    ],
    data: DataOption = None,
    val: ValOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    seeds: SeedsOption = 1,
    streams: StreamsOption = None,
    device: RunDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a network from scratch, with labels or without, as the configuration says."""
    ready()
    from training.config import load

    config = load(configuration, overrides or ()).on(data or (), val or ())
    if streams is not None:
        _train_streams(config, out, as_json, seeds, streams, device)
        return
    _train(config, out, as_json, seeds, device)


@app.command()
def finetune(
    configuration: Annotated[
        str, typer.Argument(help="A configuration, or the folder of a run to go on from.", metavar="CONFIG|RUN")
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="A finished run's folder, or a file of weights. Default: RUN.")
    ] = None,
    data: DataOption = None,
    val: ValOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    seeds: SeedsOption = 1,
    device: RunDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train on with labels: the network as it was left, a new classifier; --set optim.backbone_scale=0 trains the
    classifier alone."""
    ready()
    from training.config import finetuning

    _train(finetuning(configuration, start, overrides or ()).on(data or (), val or ()), out, as_json, seeds, device)


def _train(config: Config, out: Path | None, as_json: bool, seeds: int, device: str, quiet: bool = False) -> None:
    from training.distributed import rank
    from training.evaluate.result import class_table, table
    from training.runs import train as runs
    from training.runs.run_progress import RunProgress

    device_of(device)
    folder = out or Path("runs") / config.run.name
    if seeds > 1:
        _train_seeds(config, folder, as_json, seeds, device)
        return
    with in_one_line(folder), RunProgress(say) as shown:
        result = runs.train(config, folder, shown, device=device)
    if rank() != 0 or quiet:
        return
    if as_json:
        show(result.to_dict())
        return
    summary = result.to_dict()
    lines = [
        f"{folder}: {summary['steps']} steps, {summary['epochs']:g} epochs"
        + (f", loss {summary['loss']:.4f}" if summary["loss"] is not None else "")
    ]
    lines += [part for part in (table(result.results), class_table(result.results)) if part and result.results]
    show("\n".join([*lines, *map(str, result.plots), f"next     dataengine-train probe {shlex.quote(str(folder))}"]))


def _train_seeds(config: Config, folder: Path, as_json: bool, seeds: int, device: str) -> None:
    from training.evaluate.result import table
    from training.runs.run_progress import RunProgress
    from training.runs.seeds import train_seeds

    with RunProgress(say) as shown:
        found = train_seeds(config, folder, seeds, shown, device)
    if as_json:
        show(found.to_dict())
        return
    lines = [f"{folder}: {seeds} runs, of the seeds {', '.join(map(str, found.seeds))}"]
    show("\n".join([*lines, *([table(found.results)] if found.results else []), str(found.path)]))


def _train_streams(config: Config, out: Path | None, as_json: bool, seeds: int, names: str, device: str) -> None:
    from training.evaluate.result import class_table, table
    from training.runs.fuse import train_streams
    from training.runs.run_progress import RunProgress

    if seeds > 1:
        raise DataEngineError(
            "--streams and --seeds: train each stream with --seeds in a folder of its own, then `dataengine-train fuse`"
        )
    device_of(device)
    folder = out or Path("runs") / config.run.name
    with RunProgress(say) as shown:
        found = train_streams(config, folder, [name.strip() for name in names.split(",")], shown, device)
    if as_json:
        show(found.to_dict())
        return
    tables = [part for part in (table(found.results), class_table(found.results)) if part and found.results]
    show("\n".join([f"{folder}: runs {', '.join(found.streams)}", *tables, str(found.path)]))


@app.command()
def fuse(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two or more runs, or folders of runs of several seeds (--seeds).", metavar="RUN RUN ..."),
    ],
    data: DataOption = None,
    val: ValOption = None,
    split: Annotated[
        str | None, typer.Option(help="What floors and probes learn from; '' all. Default: train.")
    ] = None,
    val_split: SplitOption = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="Of each run's probabilities, in the order of the runs. Default: alike.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Also a table of what all together say of every clip, .csv or .parquet.")
    ] = None,
    floors: Annotated[bool, typer.Option(help="Beside what coordinates and random networks reach.")] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add what several networks say, such as those of joints, bones and motion: each alone, and all together."""
    ready()
    where = device_of(device)
    import numpy as np

    from training.evaluate.result import class_table, plain, table
    from training.runs import fuse as fusing
    from training.runs.predict import write_predictions
    from training.runs.tables import table_file

    if to is not None:
        table_file(to, "predictions")
    by_seed = fusing.load_seeds(runs)
    reports = []
    for own in by_seed:
        clips = fusing.open_clips(own, data or (), val or (), split, val_split, fusing.learns(own, floors))
        report, scores = fusing.fuse(own, clips, weight or (), where, progress_of(as_json), floors)
        report.write()
        reports.append(report)
        if to is not None:
            shown = np.asarray(np.isfinite(scores).all(1))
            write_predictions(to, clips.test[0], fusing.names_of(own, clips), scores, shown)
    results = fusing.over_seeds(reports)
    if as_json:
        show({"runs": list(map(str, runs)), "results": plain([result.as_dict() for result in results])})
        return
    paths = [*([to] if to is not None else []), *(report.path for report in reports)]
    show("\n".join([table(results), *filter(None, [class_table(results)]), *map(str, paths)]))


@app.command()
def example(
    to: Annotated[Path, typer.Argument(help="The file, .npz.", metavar="PATH")] = Path("example.npz"),
    clips: Annotated[int, typer.Option(min=80, help="How many clips, ten of each person.")] = 400,
    untrimmed: Annotated[
        int | None, typer.Option(min=10, help="In place of clips, so many sequences of all actions, with their spans.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses people, motions and cameras.")] = 0,
    space: Annotated[
        bool, typer.Option("--space", help="Joints in space, as motion capture, not in pictures.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a data set to learn from: rendered bodies that do eight actions, as joints, in seconds."""
    ready()
    if space and untrimmed is not None:
        raise DataEngineError("example: --space writes clips, and --untrimmed sequences in pictures; give one of them")
    from training.runs.example import write_example, write_untrimmed

    with in_one_line(to):
        path = write_example(to, clips, seed, space) if untrimmed is None else write_untrimmed(to, untrimmed, seed)
    verb = "train lac_retarget_small" if space else "train unik_small"
    verb = verb if untrimmed is None else "segment segment_small"
    then = f"next     dataengine-train {verb} --data {shlex.quote(str(path))}"
    show({"example": str(path)} if as_json else f"{path}\n{then}")


@app.command()
def segment(
    what: Annotated[
        str,
        typer.Argument(
            help="A configuration such as segment_small, to train; the folder of a run, to train a head on its "
            "network; or the folder of a run of segment, to measure it.",
            metavar="CONFIG|RUN",
        ),
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="A finished run's folder, or a file of weights, to start from.")
    ] = None,
    data: DataOption = None,
    val: ValOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="Another run of segment whose figures stand beside, such as one of head window; repeatable."),
    ] = None,
    floors: Annotated[bool, typer.Option(help="Also neighbours, ridge regression and a random network.")] = True,
    timelines: Annotated[int, typer.Option(min=0, help="Clips that are drawn.")] = 8,
    to: Annotated[
        Path | None,
        typer.Option(help="Write the clips' events as a table, .csv or .parquet, and measure nothing."),
    ] = None,
    split: SplitOption = None,
    device: RunDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Tell what happens when in untrimmed clips: train a head per frame, measure it, or write events."""
    ready()
    from training.runs.segment import is_run_of_segment, write_events
    from training.runs.segment import segment as measure

    folder = Path(what)
    if not is_run_of_segment(folder):
        from training.config import segmenting

        config = segmenting(what, start, overrides or ()).on(data or (), val or ())
        folder = out or Path("runs") / config.run.name
        _train(config, folder, as_json, 1, device, quiet=True)
        data = val = None
    run, where = loaded_run(folder), device_of(device)
    if to is not None:
        path, count = write_events(
            run, open_clips(run, data, val, "val", split), to, device=where, progress=progress_of(as_json)
        )
        show({"events": str(path), "count": count} if as_json else f"{path}: {count} events")
        return
    train, test = open_clips(run, data, val, "train", None) if floors else [], open_clips(run, data, val, "val", split)
    others = [loaded_run(other) for other in beside or ()]
    report(measure(run, train, test, others, floors, timelines, device=where, progress=progress_of(as_json)), as_json)
