"""Verbs that measure what a run knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataengine.core.console import show
from dataengine.core.markdown import cell
from training.verbs.options import (
    AnySplitOption,
    BlocksOption,
    DataOption,
    DeviceOption,
    JsonOption,
    PromptsOption,
    RunArgument,
    SplitOption,
    TextOption,
    ValOption,
    all_clips,
    app,
    device_of,
    loaded_run,
    open_clips,
    progress_of,
    report,
)


@app.command()
def predict(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="The table's file, .csv or .parquet.")],
    data: DataOption = None,
    split: AnySplitOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the class that a classifier says of every clip, and how probable it is, as a table."""
    loaded, where = loaded_run(run), device_of(device)
    from training.evaluate.result import class_table, table
    from training.runs.predict import predict as write

    found = write(loaded, all_clips(loaded, data, split), to, where, progress_of(as_json))
    if as_json:
        show(found.to_dict())
        return
    results = [] if found.result is None else [found.result]
    said = ", ".join(f"{cell(name)} {count}" for name, count in found.counts.items())
    show("\n".join([str(found.path), said, *(part(results) for part in (table, class_table) if results)]))


@app.command()
def probe(
    run: RunArgument,
    data: DataOption = None,
    val: ValOption = None,
    split: Annotated[str | None, typer.Option(help="What the probe is fitted on; '' all. Default: train.")] = None,
    val_split: SplitOption = None,
    label_fraction: Annotated[
        list[float] | None,
        typer.Option(help="Also with this fraction of the training labels, for example 0.1; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Subsets of the labels for each fraction.")] = 5,
    knn: Annotated[bool, typer.Option("--knn", help="Also nearest neighbours.")] = False,
    fuse: Annotated[
        Path | None, typer.Option(help="A second classifier, such as one on bones: both streams added.", metavar="RUN")
    ] = None,
    floors: Annotated[
        bool,
        typer.Option(
            help="Beside nearest neighbour and ridge on the coordinates that the network is given, and random networks."
        ),
    ] = True,
    blocks: BlocksOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure frozen features by a linear probe, beside floors: what coordinates and random networks reach."""
    loaded, where = loaded_run(run), device_of(device)
    from training.runs import probe as probing

    train, test = open_clips(loaded, data, val, "train", split), open_clips(loaded, data, val, "val", val_split)
    second = None if fuse is None else loaded_run(fuse)
    fractions, progress = label_fraction or (), progress_of(as_json)
    report(probing.probe(loaded, train, test, fractions, seeds, knn, where, second, progress, floors, blocks), as_json)


@app.command()
def zeroshot(
    run: RunArgument,
    data: DataOption = None,
    split: SplitOption = None,
    prompts: PromptsOption = None,
    text: TextOption = None,
    fuse: Annotated[
        str | None, typer.Option(help="Stored video feature whose own scores are added, such as viclip_video.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Name motions by the nearest text, with classes that were never trained."""
    loaded, where = loaded_run(run), device_of(device)
    from training.runs import zero_shot

    features = zero_shot.zeroshot_features(zero_shot.class_text(loaded, text, prompts), fuse)
    test = open_clips(loaded, data, None, "val", split, features)
    report(zero_shot.zeroshot(loaded, test, text, prompts, fuse, where), as_json)


@app.command()
def retrieve(
    run: RunArgument,
    data: DataOption = None,
    split: SplitOption = None,
    by: Annotated[str | None, typer.Option(help="text or video. Default: text, where the run knows texts.")] = None,
    prompts: PromptsOption = None,
    text: TextOption = None,
    ways: Annotated[int, typer.Option(min=2, help="Choices of a question; at most the number of classes.")] = 15,
    seeds: Annotated[int, typer.Option(min=1, help="Sets of questions.")] = 5,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find motions by texts or videos and the other way round, and choose one of fifteen."""
    loaded, where = loaded_run(run), device_of(device)
    from training.runs import zero_shot

    test = open_clips(loaded, data, None, "val", split, zero_shot.retrieval_features(loaded, by, text, prompts))
    report(zero_shot.retrieve(loaded, test, by, text, prompts, ways, seeds, where), as_json)


@app.command()
def retarget(
    run: RunArgument,
    data: DataOption = None,
    val: ValOption = None,
    val_split: SplitOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the pairs of clips and the cameras.")] = 0,
    pictures: Annotated[bool, typer.Option(help="Draw pictures and a video.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure how well an autoencoder carries motions to other bodies and views, and draw what it makes of them."""
    loaded = loaded_run(run)
    from training.runs.retarget import retarget as measure

    train, test = open_clips(loaded, data, val, "train", None), open_clips(loaded, data, val, "val", val_split)
    report(measure(loaded, train, test, seed, pictures, progress_of(as_json)), as_json)
