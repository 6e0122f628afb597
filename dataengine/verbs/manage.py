"""The verbs that change what is kept, or hand it on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataengine.core.console import show
from dataengine.core.errors import DataEngineError
from dataengine.core.progress import ConsoleProgress, Progress
from dataengine.verbs.options import JsonOption, OutArgument, app


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
