"""The program that the verbs belong to, and the options that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataengine.core.console import application

app = application("dataengine", "Build human-motion datasets from video, inspect them, and check them.")

OutArgument = Annotated[Path, typer.Argument(help="Folder of a build (its --out), or of a dataset.", metavar="OUT")]
ClipArgument = Annotated[str, typer.Argument(help="Id of a clip, kept or rejected.", metavar="CLIP_ID")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
