"""What other programs saved becomes a dataset: the recipe `import`, set from what lies at a path, and built."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from dataengine import builder
from dataengine.core import registry
from dataengine.core.errors import DataEngineError, EnvironmentFailure, SourceError, suggestion
from dataengine.core.failures import free_text
from dataengine.core.progress import Progress
from dataengine.core.skeletons import COMMON
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline.engine import Engine
from dataengine.sources import ids
from dataengine.sources.imported import Imported
from dataengine.sources.imported.formats import Format
from dataengine.sources.imported.saved_clip import SPOOL_LOCK, printable

RECIPE = "import"
FEW = 2000
"""Clips up to which one process is faster than starting several."""
OF_PICTURES = ("camera_cut",)
"""Filters that measure pictures, which saved poses do not have."""


def import_poses(
    path: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str] | None = None,
    *,
    filters: Sequence[str] = (),
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    classes: str | os.PathLike[str] | None = None,
    engine: Engine | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> builder.BuildResult:
    """Make a dataset of saved poses, or finish, extend or update the one in `out`.

    Args:
        path: file or folder that another program wrote.
        format: pyskl, coco, unik, openpose or alphapose.
        out: folder of the build; default builds/import-NAME.
        filters: names of filters that leave clips out.
        recipe: name or path of a recipe whose filters and thresholds are used.
        overrides: 'table.key=TOML value' texts.
        classes: a file of names of classes: a line each, or a JSON list.
        engine: how to run; default in this process for few clips, else one local process a core.
        limit: import only the first clips.
        progress: what tells how far the work is.
        options: of the source `imported`, for example fps=25 or size=(1920, 1080).

    Raises:
        DataEngineError: what is wrong, in one line; no dataset was made then.
    """
    if format not in get_args(Format):
        raise DataEngineError(f"--format {format!r}{suggestion(format, get_args(Format))}")
    place, progress = Path(path).expanduser().absolute(), progress or Progress()
    if not place.exists():
        raise SourceError(f"{path}: there is no such file or folder; give what another program saved")
    if not str(place).isprintable() and any("\ud800" <= sign <= "\udfff" for sign in str(place)):
        raise SourceError(f"{printable(str(path))}: its name is not UTF-8, and a recipe cannot hold it; rename it")
    fps, size = options.get("fps"), options.get("size")
    if fps is not None and not 0.001 <= fps <= 1000:
        raise DataEngineError(f"--fps {fps:g}: give frames per second from 0.001 to 1000, such as 25")
    if size is not None and not all(1 <= side <= 1 << 19 for side in size):
        raise DataEngineError(f"--size {size[0]}x{size[1]}: a side has 1 to {1 << 19} pixels; give such as 1920x1080")
    own = place.name if place.is_dir() else place.stem
    folder = Path(out) if out is not None else Path("builds") / f"import-{ids.slug(own)}"
    given = {"file": str(place), "format": format} | {k: v for k, v in options.items() if v is not None}
    source: Imported = registry.create("sources", "imported", given)
    named = class_names(classes) if classes is not None else None
    chosen = _filters(recipe, filters)
    builder.resolve(RECIPE, overrides=[*_settings(given, COMMON), *chosen, *overrides])  # wrong options first
    cache = folder.absolute() / "work" / "media"
    fresh = not folder.exists()
    try:
        with progress.step("read", None) as advance:
            root = source.spool(cache, advance)
    except SourceError:
        if fresh:
            _remove_empty(cache)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{error.strerror} ({folder}{free_text(folder)}); run the same command again once that is mended"
            raise EnvironmentFailure("disk_full", text) from None
        at = folder if error.filename is None else Path(os.fsdecode(error.filename))
        if at.absolute().is_relative_to(place) and not at.absolute().is_relative_to(folder.absolute()):
            raise SourceError(f"{error.filename}: cannot be read: {error.strerror}; give what can be read") from None
        raise SourceError(
            f"--out {folder} cannot be written to: {error.strerror}; give a folder to write into"
        ) from None
    facts = source.facts(root)
    names = facts["classes"] if named is None else named
    told = [f"{place.name}: {note}" for note in facts["notes"]]
    for note in told:
        progress.say(f"note: {note}")
    settings = _settings(given | ({"classes": names} if names else {}), facts["layout"])
    settings += chosen
    serial = facts["counts"]["taken"] <= FEW
    result = builder.build(
        RECIPE,
        None,
        folder,
        overrides=[*settings, *overrides],
        engine=engine or Engine(serial=serial),
        device="cpu",
        limit=limit,
        progress=progress,
    )
    builder.erase_saved_poses(folder.absolute())
    for old in cache.glob("imported-*"):  # of the file as it was before
        if old != root:
            shutil.rmtree(old, ignore_errors=True)
    return replace(result, notes=[*told, *result.notes])


def _remove_empty(cache: Path) -> None:
    """Remove the folders of a build that was not begun, up to its own, since nothing could be read."""
    (cache / SPOOL_LOCK).unlink(missing_ok=True)
    for folder in (cache, cache.parent, cache.parent.parent):
        with contextlib.suppress(OSError):  # it holds something of another process
            folder.rmdir()


def class_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of classes by number: the lines of a text file, or the list in a .json.

    Raises:
        SourceError: it cannot be read, is empty, or names something twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        names = json.loads(text) if str(path).endswith(".json") else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise SourceError(f"--classes {path}: cannot be read: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"--classes {path}: it holds no list of names; give a line a class, or a JSON list")
    while names and not names[-1]:
        names.pop()
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or "" in names or twice:
        what = f"{twice[0]!r} stands twice" if twice and twice[0] else "a line is empty" if names else "it is empty"
        raise SourceError(f"--classes {path}: {what}; give one name a line, in the order of the numbers")
    return names


def _settings(options: dict[str, Any], layout: str) -> list[str]:
    """Overrides of the recipe for the source's options and for the layout of the joints."""
    lines = [f"sources.imported.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items()]
    return [*lines, f"pose.skeleton={json.dumps(layout)}"]


def _filters(recipe: str | None, filters: Sequence[str]) -> list[str]:
    """Overrides of the recipe for filters."""
    chosen, lines = list(filters), []
    if recipe is not None:
        other = recipes.load(recipe)
        chosen += [name for name in other.curate.filters if name not in (*OF_PICTURES, *chosen)]
        for name, table in other.options.get("filters", {}).items():
            lines += [f"filters.{name}.{key}={json.dumps(value)}" for key, value in table.items()]
    if unfit := [name for name in filters if name in OF_PICTURES]:
        raise DataEngineError(f"--filters {unfit[0]}: it measures pictures, and saved poses have none; leave it out")
    return [*lines, *([f"curate.filters={json.dumps(chosen)}"] if chosen else [])]
