"""The verbs that make a dataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.core.console import show
from dataengine.core.errors import DataEngineError, suggestion
from dataengine.core.progress import ConsoleProgress, Progress
from dataengine.verbs.options import JsonOption, app

if TYPE_CHECKING:
    from dataengine.pipeline.engine import Engine
    from dataengine.pipeline.recipe import Recipe


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
    from dataengine.pipeline.notes import notes
    from dataengine.pipeline.recipe import merged

    layers = building.layers(recipe, sources, overlay, overrides or ())
    resolved = merged(layers)
    how = _engine(engine, resolved, scheduler, cluster, workers, dashboard)
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
    from dataengine import builder as building
    from dataengine.importer import import_poses
    from dataengine.pipeline import cluster_kinds
    from dataengine.pipeline.engine import Engine

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
        size=None if size is None else _sides(size),
        layout=layout,
        scale=scale,
        splits=splits,
        split=split,
        table=None if table is None else str(table.absolute()),
    )
    show(result.to_dict() if as_json else building.result_text(result))


def _engine(
    kind: str, recipe: Recipe, scheduler: str | None, cluster: str | None, workers: str | None, dashboard: bool
) -> Engine:
    """How the work is run, from the options of `build` and the recipe's table [engine]."""
    from dataengine.pipeline import cluster_kinds
    from dataengine.pipeline.engine import Engine

    if kind not in ("dask", "serial"):
        raise DataEngineError(f"--engine {kind!r}{suggestion(kind, ('dask', 'serial'))}")
    unused = {"--scheduler": scheduler, "--cluster": cluster, "--workers": workers}
    if kind == "serial" and any(unused.values()):
        given = " and ".join(option for option, value in unused.items() if value)
        raise DataEngineError(f"--engine serial runs everything in this process: leave out {given}, or --engine serial")
    return Engine(
        serial=kind == "serial",
        dashboard=dashboard,
        clip_deadline=recipe.engine.clip_deadline,
        host_failures=recipe.engine.host_failures,
        failure_share=recipe.engine.failure_share,
        cluster=cluster_kinds.read(cluster, scheduler, workers),
    )


def _sides(size: str) -> list[int]:
    """Width and height of a text such as 1920x1080."""
    sides = re.fullmatch(r"(\d{1,40})\s*[xX*,]\s*(\d{1,40})", size.strip())
    if sides is None:
        raise DataEngineError(f"--size {size!r}: give WIDTHxHEIGHT in pixels, such as 1920x1080")
    return [int(sides[1]), int(sides[2])]
