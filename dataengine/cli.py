"""The `dataengine` command: each subcommand calls a public function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dataengine.core import registry
from dataengine.core.console import application, execute, show
from dataengine.core.errors import DataEngineError
from dataengine.core.failures import in_one_line
from dataengine.core.progress import ConsoleProgress, Progress

app = application("dataengine", "Build human-motion datasets from video, inspect them, and check them.")

OutArgument = Annotated[Path, typer.Argument(help="Folder of a build (its --out), or of a dataset.", metavar="OUT")]
ClipArgument = Annotated[str, typer.Argument(help="Id of a clip, kept or rejected.", metavar="CLIP_ID")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


@app.command()
def build(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe (see `dataengine list recipes`) or path of a .toml file.", metavar="RECIPE"
        ),
    ],
    sources: Annotated[
        str | None,
        typer.Option(help="NAME[=PATH],... instead of the sources of the recipe; PATH holds media and annotations."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the build. Default: builds/RECIPE.")] = None,
    engine: Annotated[str, typer.Option(help="dask, or serial for debugging.")] = "dask",
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, instead of a local cluster.", metavar="ADDR")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="How workers are started: local, ssh:HOST,HOST, slurm or another batch system, or FILE.toml.",
            metavar="KIND",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="How many processes; MIN..MAX grows with the work. Default: one per core.", metavar="N"),
    ] = None,
    overlay: Annotated[
        str | None, typer.Option(help="Committed variant of the recipe; 'core' needs neither torch nor a download.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Plan only the first clips.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="table.key=TOML value, for example filters.pose_coverage.min=0.6; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option(help="Folder with one folder per source, for sources without a PATH.", envvar="DATAENGINE_DATA"),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep what this pass made with other code, other libraries or another kind of device, now and in "
            "later builds; the lock and the manifest say so. Repeatable.",
            metavar="PASS",
        ),
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            help="Run clips that failed for this reason again, worth another try or not; repeatable.", metavar="REASON"
        ),
    ] = None,
    release: Annotated[
        list[str] | None,
        typer.Option(help="Take this clip out of quarantine and run it again; repeatable.", metavar="CLIP_ID"),
    ] = None,
    dashboard: Annotated[bool, typer.Option(help="Serve Dask's dashboard on 127.0.0.1:8787.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what a build would do and cost, without doing it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a dataset; run it again to resume, extend or update it."""
    from dataengine import builder as building
    from dataengine.core.errors import suggestion
    from dataengine.pipeline import cluster_kinds
    from dataengine.pipeline.engine import Engine
    from dataengine.pipeline.notes import notes
    from dataengine.pipeline.recipe import merged

    if engine not in ("dask", "serial"):
        raise DataEngineError(f"--engine {engine!r}{suggestion(engine, ('dask', 'serial'))}")
    unused = {"--scheduler": scheduler, "--cluster": cluster, "--workers": workers}
    if engine == "serial" and any(unused.values()):
        given = " and ".join(option for option, value in unused.items() if value)
        raise DataEngineError(f"--engine serial runs everything in this process: leave out {given}, or --engine serial")
    layers = building.layers(recipe, sources, overlay, overrides or ())
    resolved = merged(layers)
    remarks = notes(layers)
    for remark in remarks:
        typer.echo(f"note: {remark}", err=True)
    progress = Progress() if as_json else ConsoleProgress()
    name = f"{resolved.recipe.name} v{resolved.recipe.version}" + (
        f" with overlay {resolved.overlay}" if resolved.overlay else ""
    )
    target = out or Path("builds") / resolved.recipe.name
    if dry_run:
        from dataengine import dry_run as estimates

        report = {**estimates.dry_run(resolved, target, limit, data_root, device, accept or ()), "notes": remarks}
        show(report if as_json else f"{name} -> {target}\n" + estimates.dry_run_text(report))
        return
    progress.say(f"{name} -> {target}")
    how = Engine(
        serial=engine == "serial",
        dashboard=dashboard,
        clip_deadline=resolved.engine.clip_deadline,
        host_failures=resolved.engine.host_failures,
        failure_share=resolved.engine.failure_share,
        cluster=cluster_kinds.read(cluster, scheduler, workers),
    )
    result = building.build(
        recipe,
        sources,
        target,
        overlay=overlay,
        overrides=overrides or (),
        engine=how,
        device=device,
        limit=limit,
        data_root=data_root,
        retry=retry or (),
        release=release or (),
        accept=accept or (),
        progress=progress,
    )
    show(result.to_dict() if as_json else building.result_text(result))
    if result.retryable:
        raise typer.Exit(3)


@app.command(name="import")
def import_(
    path: Annotated[Path, typer.Argument(help="File or folder that another program wrote.", metavar="PATH")],
    format_: Annotated[str, typer.Option("--format", help="pyskl, coco, unik, openpose or alphapose.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the build. Default: builds/import-NAME.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second, where the files do not tell. Default: 30.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT of the picture, where the files do not tell.", metavar="WIDTHxHEIGHT"),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Skeleton of the saved joints. Default: by their number.", metavar="NAME")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Coordinates: auto, pixels, unit (0..1), signed (-1..1), centred (-0.5..0.5), screen (UNIK's)."
        ),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(help="Which of several sets of splits, such as xsub. Default: the first.", metavar="NAME"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of clips that the files give none: train, val or test. Default: train.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Names of classes by number: a line each, or a JSON list.", metavar="FILE")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV of facts by `name` of a clip: label, split, subject, licence, consent, fps, width, height.",
            metavar="CSV",
        ),
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option(help="Filters that leave clips out, separated by commas. Default: none.", metavar="NAME,..."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Use the filters and thresholds of this recipe.", metavar="RECIPE")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(help="How many processes. Default: by the number of clips.", metavar="N")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Import only the first clips.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="table.key=TOML value of the recipe `import`; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a dataset of poses that another program saved; run it again to resume or update it."""
    import re

    from dataengine import builder as building
    from dataengine.importer import import_poses
    from dataengine.pipeline import cluster_kinds
    from dataengine.pipeline.engine import Engine

    sides = None if size is None else re.fullmatch(r"(\d{1,40})\s*[xX*,]\s*(\d{1,40})", size.strip())
    if size is not None and sides is None:
        raise DataEngineError(f"--size {size!r}: give WIDTHxHEIGHT in pixels, such as 1920x1080")
    result = import_poses(
        path,
        format_,
        out,
        filters=[name.strip() for name in (filters or "").split(",") if name.strip()],
        recipe=recipe,
        overrides=overrides or (),
        classes=classes,
        engine=None if workers is None else Engine(cluster=cluster_kinds.read(None, None, workers)),
        limit=limit,
        progress=Progress() if as_json else ConsoleProgress(),
        fps=fps,
        size=None if sides is None else [int(sides[1]), int(sides[2])],
        layout=layout,
        scale=scale,
        splits=splits,
        split=split,
        table=None if table is None else str(table.absolute()),
    )
    show(result.to_dict() if as_json else building.result_text(result))


@app.command()
def status(out: OutArgument, as_json: JsonOption = False) -> None:
    """Show units done and left in each pass, rate, time left, and failures by kind."""
    from dataengine.inspect.status import status as look
    from dataengine.inspect.status import to_text

    state = look(out)
    show(state if as_json else to_text(state))


@app.command()
def verify(
    out: OutArgument,
    work: Annotated[bool, typer.Option("--work", help="Check the intermediates against their records, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every file, digest, count and cross-reference of the dataset; list mistakes and exit 1."""
    from dataengine.dataset.verify import verify as check
    from dataengine.inspect.verify_work import verify_work

    progress = Progress() if as_json else ConsoleProgress()
    problems = check(out, progress) + (verify_work(out, progress) if work else [])
    if as_json:
        show({"ok": not problems, "problems": [{"path": p.path, "what": p.what} for p in problems]})
    else:
        show(
            "\n".join(f"{p.path}: {p.what}" for p in problems)
            if problems
            else "ok: every file, digest, count and cross-reference is right"
        )
    if problems:
        raise typer.Exit(1)


@app.command()
def audit(
    out: OutArgument,
    query: Annotated[
        str | None, typer.Argument(help="A named query. Default: list the queries.", metavar="[QUERY]")
    ] = None,
    sql: Annotated[str | None, typer.Option(help="SQL over the tables clips, tracks, joints and rejects.")] = None,
    output: Annotated[str, typer.Option("--format", help="table, json, csv or parquet.")] = "table",
) -> None:
    """Query the tables of a dataset: named queries, or SQL over clips, tracks, joints and rejects."""
    from dataengine.dataset import queries
    from dataengine.dataset.dataset import open as open_dataset

    dataset = open_dataset(out)
    if query is None and sql is None:
        show("\n".join(f"{name:<22} {description}" for name, (description, _) in queries.QUERIES.items()))
        return
    content = queries.to_text(queries.run(dataset, query=query, sql=sql), output)
    if isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        show(content)


@app.command()
def report(out: OutArgument) -> None:
    """Write the self-contained dataset/report.html and the dataset card README.md."""
    from dataengine.inspect.build import job_of
    from dataengine.passes.report import write_pages

    with in_one_line(out):
        write_pages(job_of(out))
    show(str(out / "dataset" / "report.html"))


@app.command()
def explain(out: OutArgument, clip_id: ClipArgument, as_json: JsonOption = False) -> None:
    """Show every decision about one clip, kept or rejected."""
    from dataengine.inspect.explain import explain as tell
    from dataengine.inspect.explain import to_text

    story = tell(out, clip_id)
    show(story if as_json else to_text(story))


@app.command()
def view(
    out: OutArgument,
    clip_id: ClipArgument,
    to: Annotated[
        Path | None, typer.Option(help="Output file: .mp4 for a video, .png for one frame. Default: CLIP_ID.mp4.")
    ] = None,
    experts: Annotated[bool, typer.Option(help="Show the pose of every expert next to the fused pose.")] = False,
) -> None:
    """Draw the skeletons of a clip on its video."""
    from dataengine.inspect.view import view as draw

    show(str(draw(out, clip_id, to or Path(f"{clip_id}.mp4"), experts)))


@app.command()
def calibrate(
    out: OutArgument,
    to: Annotated[Path, typer.Option(help="The .json file to write, for `pose.calibration` of a recipe.")] = Path(
        "scores.json"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make the scores of a build's experts comparable, from how the experts agree; no annotations are needed."""
    from dataengine.inspect.calibrate import calibrate as fit
    from dataengine.inspect.calibrate import to_text

    result = fit(out, to)
    show(result if as_json else to_text(result))


@app.command()
def takedown(
    out: OutArgument,
    reason: Annotated[str, typer.Option(help="Reason for the record.")],
    clip_id: Annotated[list[str] | None, typer.Option(help="Clip to take down; repeatable.")] = None,
    video_id: Annotated[
        list[str] | None, typer.Option(help="Video whose clips to take down, also later ones; repeatable.")
    ] = None,
    listed: Annotated[Path | None, typer.Option("--list", help="File of clip or video ids, one per line.")] = None,
    by: Annotated[str | None, typer.Option(help="Who signs the record. Default: the name of the user.")] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Rewrite the shards and remove intermediates at once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take clips down: readers skip them at once, and no later build brings them back."""
    from dataengine.dataset import takedown as acts
    from dataengine.exports.placing import exports_of

    ids = [*(clip_id or ()), *(video_id or ()), *(acts.read_list(listed) if listed is not None else ())]
    if not ids:
        raise DataEngineError("takedown names nothing: give --clip-id, --video-id or --list FILE")
    record = acts.takedown(out, ids, reason, by=by)
    if rewrite:
        from dataengine.builder import rewrite_and_clean

        result = rewrite_and_clean(out, progress=None if as_json else ConsoleProgress())
        record |= {"rewritten": result is not None and result.changed, "dataset": result and result.dataset}
    if made := exports_of(out):
        record |= {"exports": made}
    show(record if as_json else acts.to_text(record, rewrite))
    for path in made:
        typer.echo(f"note: {path} was exported before and may hold them: export it again with --replace", err=True)


@app.command()
def export(
    out: OutArgument,
    format: Annotated[
        str, typer.Option("--format", help="A format of `dataengine list exports`, such as pyskl, coco or hf.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="File or folder to write. Default: OUT/exports/FORMAT with the format's ending.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition over the table clips, for example 'confidence_mean > 0.5'.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="train, val or test; repeatable. Default: all.")] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="Export clips of this licence only; repeatable.", metavar="NAME")
    ] = None,
    consent: Annotated[
        list[str] | None, typer.Option(help="Export clips of this consent only; repeatable.", metavar="VALUE")
    ] = None,
    unknown_licence: Annotated[
        bool | None,
        typer.Option(
            "--unknown-licence/--no-unknown-licence",
            help="Export clips of unknown licence, or leave them out. Default: export them, except to hf.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Option of the format, for example layout=openpose18; repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a former export; nothing else is ever replaced.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the dataset in the format of another program."""
    from dataengine.exports.run import export as write
    from dataengine.exports.run import options_of, to_text

    result = write(
        out,
        format,
        to,
        where=where,
        splits=split or (),
        licences=licence or (),
        consents=consent or (),
        unknown_licence=unknown_licence,
        replace=replace,
        progress=Progress() if as_json else ConsoleProgress(),
        **options_of(format, overrides or ()),
    )
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    show(result.to_dict() if as_json else to_text(result))


@app.command()
def generations(out: OutArgument, as_json: JsonOption = False) -> None:
    """Show what students learned from a build, what the gate said, and where their weights lie."""
    from dataengine.inspect.generations import generations as find
    from dataengine.inspect.generations import to_text

    found = find(out)
    show(found if as_json else to_text(found))


@app.command()
def gc(
    out: OutArgument,
    keep: Annotated[
        int, typer.Option(min=1, help="Of how many recipes to keep what each pass made; the present one counts.")
    ] = 2,
    as_json: JsonOption = False,
) -> None:
    """Remove intermediates that neither the dataset nor one of the last recipes needs."""
    from dataengine.inspect.status import clean

    removed, freed = clean(out, keep)
    show({"removed": removed, "bytes": freed} if as_json else f"removed {removed} files, {freed / 1e6:.1f} MB")


@app.command(name="list")
def list_components(
    kind: Annotated[
        str,
        typer.Argument(
            help="recipes, or a kind of component: " + ", ".join(registry.kinds_of("dataengine")) + ".", metavar="KIND"
        ),
    ],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show summaries and options.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List recipes, sources, experts, filters and other components."""
    from dataengine.core.catalogue import to_text
    from dataengine.inspect.catalogue import catalogue

    found = catalogue(kind, verbose)
    show(found if as_json else to_text(found))


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show what works on this machine: processors, devices, extras, weights, encoders, disk."""
    from dataengine.inspect.doctor import examine, to_text

    findings = examine()
    show(findings if as_json else to_text(findings))


@app.command()
def weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Files to download. Default: list all known files.", metavar="[NAME]..."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the weight files of components, or download some of them."""
    from dataengine.builder import get_weights
    from dataengine.io import weights as files

    known = files.manifest()
    if not names:
        rows = [{**entry.described(), "here": files.file_of(name).is_file()} for name, entry in known.items()]
        show(rows if as_json else "\n".join(files.line(entry) for entry in known.values()))
        return
    files.names_known(names)
    get_weights(names, ConsoleProgress())
    where = {name: str(files.locate(name)) for name in names}
    show(where if as_json else "\n".join(where.values()))


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Output folder.", metavar="DIR")],
    clips: Annotated[int, typer.Option(min=12, help="Approximate number of clips.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the rendered people.")] = 0,
) -> None:
    """Render a small corpus of moving people with exact joints, in the layout of Kinetics and of CAP."""
    from dataengine.sources.synthetic import write_corpus

    progress = ConsoleProgress()
    with progress.step("render", None):
        write_corpus(folder, clips, seed)
    show(f"try:  dataengine build posecap --overlay core --sources kinetics700={folder}/kinetics,cap={folder}/cap")


def main() -> None:
    """Entry point; see `dataengine.core.console.execute`."""
    execute(app, "dataengine")


if __name__ == "__main__":
    main()
