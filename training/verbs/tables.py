"""Verbs that write what a run knows as tables and files, and the lists of what there is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.core.console import show
from dataengine.core.errors import DataEngineError, suggestion

if TYPE_CHECKING:
    from training.data.types import SkeletonDataset
    from training.runs.clip_features import ClipFeatures
    from training.runs.run import Run

from training.verbs.options import (
    AnySplitOption,
    BlocksOption,
    DataOption,
    DeviceOption,
    JsonOption,
    RunArgument,
    all_clips,
    app,
    device_of,
    loaded_run,
    progress_of,
    ready,
)

KINDS = ("backbones", "methods", "configs", "formats", "runs")


@app.command()
def embed(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="The table's file, .parquet.")],
    data: DataOption = None,
    split: AnySplitOption = None,
    blocks: BlocksOption = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Features of the frames of every clip, for `annotate --frames`.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the network's features of every clip as a Parquet table, to be joined by clip_id."""
    if frames and blocks:
        raise DataEngineError("embed: --blocks is of whole clips, and --frames of their frames; give one of them")
    loaded, where = loaded_run(run), device_of(device)
    from training.runs.embed import embed as write
    from training.runs.frame_features import ClipsOfRun
    from training.runs.frame_table import embed_frames

    datasets = all_clips(loaded, data, split)
    if frames:
        path = embed_frames(ClipsOfRun(loaded, datasets, where), to, progress_of(as_json))
        show({"features": str(path)} if as_json else str(path))
        return
    path = write(loaded, datasets, to, device=where, progress=progress_of(as_json), blocks=blocks)
    show({"features": str(path)} if as_json else str(path))


@app.command()
def rank(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, or a table that `embed` wrote.", metavar="RUN|FEATURES")
    ],
    to: Annotated[Path, typer.Option(help="The plan, .csv: people fill in its column label. A page lies beside it.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many clips are to be annotated.")] = 100,
    by: Annotated[
        str, typer.Option(help="facility-location, k-means, k-centre, classifier (Motion-R3) or random.")
    ] = "facility-location",
    labels: Annotated[
        Path | None, typer.Option(help="CSV of clip_id and label: what is annotated already.", metavar="CSV")
    ] = None,
    data: DataOption = None,
    split: AnySplitOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random draws and of the classifier.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write an annotation plan: the clips that stand for all others, the most representative first."""
    from training.runs.clip_features import read_labels
    from training.runs.rank import check_plan, check_way, write_plan
    from training.runs.rank import rank as order

    check_plan(to)
    check_way(by)
    if labels is not None:
        read_labels(labels)  # before features are computed
    features, opened, run = _clip_features(source, data, split, device, as_json)
    known = {} if labels is None else read_labels(labels, features.clip_ids)
    total, features = len(features.clip_ids), features.with_pose()
    ranking = order(features, count, by, list(known), seed, progress_of(as_json))
    joints_of, axes = (None, (0, 1, True)) if run is None else (run.preprocess.joints, _axes(run))
    plan = write_plan(features, ranking, to, known, opened, joints_of, axes, seed)
    if as_json:
        show(plan.to_dict())
        return
    lines = [
        f"{plan.path}: {plan.clips} of {total} clips; the farthest other clip lies {plan.radius:.3f} "
        f"from one of them ({plan.random_radius:.3f} from as many drawn at random)"
    ]
    lines += [] if plan.page is None else [str(plan.page)]
    given = [*(f"--data={path}" for path in data or ()), *([] if split is None else [f"--split={split}"])]
    then = shlex.join([str(source), *given, "--labels", str(plan.path), "--to", "proposals.csv"])
    show("\n".join([*lines, f"next     dataengine-train annotate {then}"]))


@app.command()
def annotate(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, or a table that `embed` wrote.", metavar="RUN|FEATURES")
    ],
    labels: Annotated[
        list[Path],
        typer.Option(
            help="CSV of clip_id and label; several labels of a clip are separated by `;`. With --frames: table of "
            "clip_id, label, start, end; repeatable."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The proposals, .csv or .parquet.")],
    frames: Annotated[
        bool, typer.Option("--frames", help="What happens when: spans are learnt and proposed, not labels of clips.")
    ] = False,
    data: DataOption = None,
    split: AnySplitOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of a label, where clips or frames have several.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the annotator.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Learn from what people labelled, in seconds: propose labels of all other clips, and doubt wrong ones."""
    from training.evaluate.result import table
    from training.runs.annotate import annotate as write
    from training.runs.annotate import check_labels
    from training.runs.clip_features import read_labels
    from training.runs.tables import table_file

    if frames:
        _annotate_frames(source, labels, to, data, split, threshold, seed, device, as_json)
        return
    if len(labels) > 1:
        raise DataEngineError(f"--labels {labels[1]}: labels of clips stand in one file; --frames takes several tables")
    table_file(to, "proposals")
    labelled = read_labels(labels[0])  # what is wrong with the file is told before features are computed
    if source.suffix != ".parquet":
        check_labels(labelled)
    features, _, _ = _clip_features(source, data, split, device, as_json)
    found = write(features, read_labels(labels[0], features.clip_ids), to, threshold, seed, progress_of(as_json))
    if as_json:
        show(found.to_dict())
        return
    said = f"{found.path}: {found.proposed} clips got proposals, {found.doubted} given labels are doubted"
    show(said if found.result is None else f"{said}\n{table([found.result])}")


def _annotate_frames(
    source: Path,
    labels: list[Path],
    to: Path,
    data: list[str] | None,
    split: str | None,
    threshold: float,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """`annotate --frames`."""
    ready()
    from training.evaluate.result import table
    from training.runs.annotate_frames import annotate_frames, read_span_labels
    from training.runs.frame_features import ClipsOfRun
    from training.runs.frame_table import ClipsOfTable
    from training.runs.tables import table_file

    said, target = read_span_labels(labels), table_file(to, "proposals")
    clips: ClipsOfRun | ClipsOfTable
    if source.suffix == ".parquet":
        if data or split:
            raise DataEngineError(f"{source} holds features already: leave out --data and --split, or give a run")
        clips = ClipsOfTable(source)
    else:
        run, where = loaded_run(source), device_of(device)
        clips = ClipsOfRun(run, all_clips(run, data, split), where)
    found = annotate_frames(clips, said, target, threshold, seed, progress=progress_of(as_json))
    if as_json:
        show(found.to_dict())
        return
    lines = [
        f"{found.path}: {found.spans} spans proposed in {found.proposed} clips; learnt from {found.learnt} clips in "
        f"{found.seconds:g} s"
    ]
    lines += [] if found.result is None else [table([found.result]).rstrip()]
    names = ", ".join(json.dumps(str(path), ensure_ascii=False) for path in (*labels, found.path))
    show(
        "\n".join([*lines, f"next     name the tables in a recipe: [curate] spans = [{names}], min_probability = ..."])
    )


@app.command()
def check(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, or a table that `embed` wrote.", metavar="RUN|FEATURES")
    ],
    to: Annotated[Path, typer.Option(help="The findings, .csv or .parquet: people fill in label, keep and why.")],
    data: DataOption = None,
    split: AnySplitOption = None,
    texts: Annotated[
        bool,
        typer.Option(
            "--texts", help="Also how motions agree with the texts of their labels, by a run that learnt beside texts."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find labels that look wrong, clips that look alike, and clips like no other."""
    from training.runs.check import check as look
    from training.runs.tables import table_file

    table_file(to, "findings")
    features, opened, run = _clip_features(source, data, split, device, as_json, texts)
    joints_of, axes = (None, (0, 1, True)) if run is None else (run.preprocess.joints, _axes(run))
    margins = None
    if texts and run is not None:
        from training.runs.zero_shot import text_margins

        margins = text_margins(run, opened, device_of(device))
    found = look(features, to, opened, joints_of, axes, margins, seed, progress_of(as_json))
    if as_json:
        show(found.to_dict())
        return
    lines = [
        f"{found.path}: {found.doubted} of {found.labelled} labels are doubted, {found.alike} of {found.clips} clips "
        f"look like another, {found.far} like no other"
    ]
    if found.unjudged:
        lines.append(f"{found.unjudged} labels are not judged: their classes have too few clips")
    lines += [] if found.page is None else [str(found.page)]
    show("\n".join([*lines, "next     fill in label or keep, and name the file in curate.annotations of a build"]))


def _clip_features(
    source: Path, data: list[str] | None, split: str | None, device: str, as_json: bool, texts: bool = False
) -> tuple[ClipFeatures, list[SkeletonDataset], Run | None]:
    """Features of a run's clips, these clips and the run; or those of a table alone. Clips of pictures are not given:
    pages draw joints."""
    from training.runs.clip_features import of_clips, of_table

    if source.suffix == ".parquet":
        ready()
        if data or split or texts:
            raise DataEngineError(
                f"{source} holds features already: leave out --data, --split and --texts, or give a run"
            )
        return of_table(source), [], None
    run, where = loaded_run(source), device_of(device)
    needed: tuple[str, ...] = ()
    if texts:
        from training.runs.zero_shot import class_text, zeroshot_features

        needed = zeroshot_features(class_text(run, None, None), None)
    opened = all_clips(run, data, split, needed)
    features = of_clips(run, opened, where, progress_of(as_json))
    return features, [] if run.backbone.takes_pictures else opened, run


def _axes(run: Run) -> tuple[int, int, bool]:
    """How joints are drawn: the coordinate across, the one up, and whether up is its negative direction."""
    if run.data_channels - run.preprocess.score < 3:
        return 0, 1, True
    return 0, "xyz".index(run.preprocess.up), False


@app.command()
def export(
    run: RunArgument,
    output: Annotated[str, typer.Option("--format", help="onnx, torchscript or safetensors.")] = "onnx",
    to: Annotated[Path | None, typer.Option(help="The file. Default: in RUN.")] = None,
    what: Annotated[
        str | None,
        typer.Option("--output", help="logits, features, embedding or frames. Default: what the run learnt."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, written into the file and the card.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the network as a file that runs without this package, checked against the network, and its model card
    beside it."""
    loaded = loaded_run(run)
    from training.runs.export import FORMATS
    from training.runs.export import export as write
    from training.runs.model_card import card

    endings = dict(zip(FORMATS, (".onnx", ".pt", ".safetensors")))
    if output not in endings:
        raise DataEngineError(f"--format {output!r}{suggestion(output, endings)}")
    exported = write(
        loaded, to or run / f"exported{endings[output]}", output, output=what, licence=licence or "not stated"
    )
    about = card(loaded, exported.path, licence)
    facts = {
        "path": str(exported.path),
        "card": str(about),
        "output": exported.output,
        "dynamic": list(exported.dynamic),
        "difference": exported.difference,
    }
    show(
        facts
        if as_json
        else f"{exported.path}: {exported.output}, axes of any size: {', '.join(exported.dynamic) or 'none'}\n{about}"
    )


@app.command(name="list")
def list_names(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS) + ".", metavar="KIND")],
    under: Annotated[Path, typer.Argument(help="Of runs: the folder they lie in.", metavar="FOLDER")] = Path("runs"),
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With what each is and its options.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List networks, methods, configurations and formats of data; or runs, with all their figures."""
    if kind not in KINDS:
        raise DataEngineError(f"there is no list of {kind!r}{suggestion(kind, KINDS)}")
    if verbose or kind == "runs":
        ready()
    if kind == "runs":
        from training.runs.compare import compare, to_table

        lines = compare(under)
        show([line.to_dict() for line in lines] if as_json else to_table(lines))
        return
    from dataengine.core.catalogue import to_text
    from training.catalogue import catalogue

    entries = catalogue(kind, verbose)
    show(entries if as_json else to_text(entries))
