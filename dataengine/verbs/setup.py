"""The verbs about this machine and this package, and a corpus to try them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataengine.core import registry
from dataengine.core.console import show
from dataengine.core.progress import ConsoleProgress
from dataengine.verbs.options import JsonOption, app


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
