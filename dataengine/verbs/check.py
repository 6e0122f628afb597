"""The verbs that show what a build has done, and check it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dataengine.core.console import show
from dataengine.core.failures import in_one_line
from dataengine.core.progress import ConsoleProgress, Progress
from dataengine.verbs.options import ClipArgument, JsonOption, OutArgument, app


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
def report(out: OutArgument, as_json: JsonOption = False) -> None:
    """Write the self-contained dataset/report.html and the dataset card README.md."""
    from dataengine.inspect.build import job_of
    from dataengine.passes.report import write_pages

    with in_one_line(out):
        write_pages(job_of(out))
    page, card = (out / "dataset" / name for name in ("report.html", "README.md"))
    show({"report": str(page), "card": str(card)} if as_json else str(page))


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
def generations(out: OutArgument, as_json: JsonOption = False) -> None:
    """Show what students learned from a build, what the gate said, and where their weights lie."""
    from dataengine.inspect.generations import generations as find
    from dataengine.inspect.generations import to_text

    found = find(out)
    show(found if as_json else to_text(found))
