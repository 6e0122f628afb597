"""The `dataengine-train` command: subcommands call public functions. Heavy imports wait until a command needs them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dataengine.core.console import application, execute, show
from dataengine.core.errors import DataEngineError, MissingExtraError, suggestion
from dataengine.core.extras import installed
from dataengine.core.failures import in_one_line
from dataengine.core.progress import ConsoleProgress, Progress

if TYPE_CHECKING:
    from training.config import Config
    from training.data.types import SkeletonDataset
    from training.runs.clip_features import ClipFeatures
    from training.runs.report import Report
    from training.runs.run import Run

app = application("dataengine-train", "Train networks on what dataengine builds, and measure what they know.")

KINDS = ("backbones", "methods", "configs", "formats", "runs")

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


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _ready() -> None:
    """Refuse, in one line, where training is not installed; make warnings lines, too."""
    if not installed("train"):
        raise MissingExtraError("dataengine-train", "train")
    warnings.showwarning = _note  # type: ignore[assignment]


def _note(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if category is UserWarning:
        _say(f"note: {message}")


def _progress(as_json: bool) -> Progress:
    return Progress() if as_json else ConsoleProgress()


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
    _ready()
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
    _ready()
    from training.config import finetuning

    _train(finetuning(configuration, start, overrides or ()).on(data or (), val or ()), out, as_json, seeds, device)


def _train(config: Config, out: Path | None, as_json: bool, seeds: int, device: str, quiet: bool = False) -> None:
    from training.distributed import rank
    from training.evaluate.result import class_table, table
    from training.runs import train as runs
    from training.runs.run_progress import RunProgress

    _device(device)
    folder = out or Path("runs") / config.run.name
    if seeds > 1:
        _train_seeds(config, folder, as_json, seeds, device)
        return
    with in_one_line(folder), RunProgress(_say) as shown:
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
    show("\n".join([*lines, *map(str, result.plots), f"next     dataengine-train probe {folder}"]))


def _train_seeds(config: Config, folder: Path, as_json: bool, seeds: int, device: str) -> None:
    from training.evaluate.result import table
    from training.runs.run_progress import RunProgress
    from training.runs.seeds import train_seeds

    with RunProgress(_say) as shown:
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
    _device(device)
    folder = out or Path("runs") / config.run.name
    with RunProgress(_say) as shown:
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
    _ready()
    where = _device(device)
    from training.evaluate.result import class_table, plain, table
    from training.runs import fuse as fusing
    from training.runs.predict import check_ending, write_table

    if to is not None:
        check_ending(to)
    by_seed = fusing.load_seeds(runs)
    reports = []
    for own in by_seed:
        clips = fusing.open_clips(own, data or (), val or (), split, val_split, fusing.learns(own, floors))
        report, scores = fusing.fuse(own, clips, weight or (), where, _progress(as_json), floors)
        report.write()
        reports.append(report)
        if to is not None:
            write_table(to, clips.test[0], fusing.names_of(own, clips), scores)
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
    _ready()
    if space and untrimmed is not None:
        raise DataEngineError("example: --space writes clips, and --untrimmed sequences in pictures; give one of them")
    from training.runs.example import write_example, write_untrimmed

    with in_one_line(to):
        path = write_example(to, clips, seed, space) if untrimmed is None else write_untrimmed(to, untrimmed, seed)
    verb = "train lac_retarget_small" if space else "train unik_small"
    verb = verb if untrimmed is None else "segment segment_small"
    show({"example": str(path)} if as_json else f"{path}\nnext     dataengine-train {verb} --data {path}")


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
    loaded, where = _load(run), _device(device)
    from training.evaluate.result import class_table, table
    from training.runs.predict import predict as write

    found = write(loaded, _open(loaded, data, None, "train", split or ""), to, where, _progress(as_json))
    if as_json:
        show(found.to_dict())
        return
    results = [] if found.result is None else [found.result]
    said = ", ".join(f"{name} {count}" for name, count in found.counts.items())
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
    loaded, where = _load(run), _device(device)
    from training.runs import probe as probing

    train, test = _open(loaded, data, val, "train", split), _open(loaded, data, val, "val", val_split)
    second = None if fuse is None else _load(fuse)
    fractions, progress = label_fraction or (), _progress(as_json)
    _report(probing.probe(loaded, train, test, fractions, seeds, knn, where, second, progress, floors, blocks), as_json)


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
    loaded, where = _load(run), _device(device)
    from training.runs import zero_shot

    features = zero_shot.zeroshot_features(zero_shot.class_text(loaded, text, prompts), fuse)
    test = _open(loaded, data, None, "val", split, features)
    _report(zero_shot.zeroshot(loaded, test, text, prompts, fuse, where), as_json)


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
    _ready()
    from training.runs.segment import is_run_of_segment, write_events
    from training.runs.segment import segment as measure

    folder = Path(what)
    if not is_run_of_segment(folder):
        from training.config import segmenting

        config = segmenting(what, start, overrides or ()).on(data or (), val or ())
        folder = out or Path("runs") / config.run.name
        _train(config, folder, as_json, 1, device, quiet=True)
        data = val = None
    run, where = _load(folder), _device(device)
    if to is not None:
        path, count = write_events(
            run, _open(run, data, val, "val", split), to, device=where, progress=_progress(as_json)
        )
        show({"events": str(path), "count": count} if as_json else f"{path}: {count} events")
        return
    train, test = _open(run, data, val, "train", None) if floors else [], _open(run, data, val, "val", split)
    others = [_load(other) for other in beside or ()]
    _report(measure(run, train, test, others, floors, timelines, device=where, progress=_progress(as_json)), as_json)


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
    loaded, where = _load(run), _device(device)
    from training.runs import zero_shot

    test = _open(loaded, data, None, "val", split, zero_shot.retrieval_features(loaded, by, text, prompts))
    _report(zero_shot.retrieve(loaded, test, by, text, prompts, ways, seeds, where), as_json)


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
    loaded = _load(run)
    from training.runs.retarget import retarget as measure

    train, test = _open(loaded, data, val, "train", None), _open(loaded, data, val, "val", val_split)
    _report(measure(loaded, train, test, seed, pictures, _progress(as_json)), as_json)


@app.command()
def embed(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="The table's file, .parquet.")],
    data: DataOption = None,
    split: AnySplitOption = None,
    blocks: BlocksOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the network's features of every clip as a Parquet table, to be joined by clip_id."""
    loaded, where = _load(run), _device(device)
    from training.runs.embed import embed as write

    datasets = _open(loaded, data, None, "train", split or "")
    path = write(loaded, datasets, to, device=where, progress=_progress(as_json), blocks=blocks)
    show({"features": str(path)} if as_json else str(path))


@app.command()
def rank(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, or a table that `embed` wrote.", metavar="RUN|FEATURES")
    ],
    to: Annotated[Path, typer.Option(help="The plan, .csv: people fill in its column label. A page lies beside it.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many clips are to be annotated.")] = 100,
    by: Annotated[str, typer.Option(help="k-centre, classifier (Motion-R3) or random.")] = "k-centre",
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
    from training.runs.rank import check_plan, write_plan
    from training.runs.rank import rank as order

    check_plan(to)
    features, opened, run = _clip_features(source, data, split, device, as_json)
    known = {} if labels is None else read_labels(labels, features.clip_ids)
    ranking = order(features, count, by, list(known), seed, _progress(as_json))
    joints_of, axes = (None, (0, 1, True)) if run is None else (run.preprocess.joints, _axes(run))
    plan = write_plan(features, ranking, to, known, opened, joints_of, axes, seed)
    if as_json:
        show(plan.to_dict())
        return
    lines = [
        f"{plan.path}: {plan.clips} of {len(features.clip_ids)} clips; the farthest other clip lies {plan.radius:.3f} "
        f"from one of them ({plan.random_radius:.3f} from as many drawn at random)"
    ]
    lines += [] if plan.page is None else [str(plan.page)]
    show("\n".join([*lines, f"next     dataengine-train annotate {source} --labels {plan.path} --to proposals.csv"]))


@app.command()
def annotate(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, or a table that `embed` wrote.", metavar="RUN|FEATURES")
    ],
    labels: Annotated[
        Path, typer.Option(help="CSV of clip_id and label; several labels of a clip are separated by `;`.")
    ],
    to: Annotated[Path, typer.Option(help="The proposals, .csv or .parquet.")],
    data: DataOption = None,
    split: AnySplitOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of a label, where clips have several.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the annotator.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Learn from what people labelled, in seconds: propose labels of all other clips, and doubt wrong ones."""
    from training.evaluate.result import table
    from training.runs.annotate import annotate as write
    from training.runs.clip_features import read_labels

    features, _, _ = _clip_features(source, data, split, device, as_json)
    found = write(features, read_labels(labels, features.clip_ids), to, threshold, seed, _progress(as_json))
    if as_json:
        show(found.to_dict())
        return
    said = f"{found.path}: {found.proposed} clips got proposals, {found.doubted} given labels are doubted"
    show(said if found.result is None else f"{said}\n{table([found.result])}")


def _clip_features(
    source: Path, data: list[str] | None, split: str | None, device: str, as_json: bool
) -> tuple[ClipFeatures, list[SkeletonDataset], Run | None]:
    """Features of a run's clips, these clips and the run; or those of a table alone."""
    from training.runs.clip_features import of_clips, of_table

    if source.suffix == ".parquet":
        _ready()
        if data or split:
            raise DataEngineError(f"{source} holds features already: leave out --data and --split, or give a run")
        return of_table(source), [], None
    run, where = _load(source), _device(device)
    opened = _open(run, data, None, "train", split or "")
    return of_clips(run, opened, where, _progress(as_json)), opened, run


def _axes(run: Run) -> tuple[int, int, bool]:
    """How joints are drawn: the coordinate across, the one up, and whether up is its negative direction."""
    if run.channels - run.preprocess.score < 3:
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
    loaded = _load(run)
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
        _ready()
    if kind == "runs":
        from training.runs.compare import compare, to_table

        lines = compare(under)
        show([line.to_dict() for line in lines] if as_json else to_table(lines))
        return
    from dataengine.core.catalogue import to_text
    from training.catalogue import catalogue

    entries = catalogue(kind, verbose)
    show(entries if as_json else to_text(entries))


def _load(run: Path) -> Run:
    _ready()
    from training.runs.run import load_run

    loaded = load_run(run)
    if not loaded.done:
        _say(f"note: {run} is not finished; this is its network at step {loaded.step}")
    return loaded


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise DataEngineError(f"--device {name!r}{suggestion(name, ('auto', 'cpu', 'cuda'))}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise DataEngineError("--device cuda: torch finds no GPU here; take --device cpu")
    return "cuda" if there and name != "cpu" else "cpu"


def _open(
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


def _report(report: Report, as_json: bool) -> None:
    report.write()
    show(report.to_dict() if as_json else report.text())


def main() -> None:
    """Entry point; see `dataengine.core.console.execute`."""
    execute(app, "dataengine-train")


if __name__ == "__main__":
    main()
