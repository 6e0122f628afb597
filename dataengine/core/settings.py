"""Settings in TOML: files of tables read, merged and overridden key by key, and errors that say where.

Recipes and the configurations of training runs are both made of strict tables: an unknown key is an
error that names the nearest allowed one.
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from dataengine.core.errors import RecipeError, suggestion


class Table(pydantic.BaseModel):
    """A table of settings: unknown keys are refused, values do not change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def find_folder(name: str) -> list[Path]:
    """Folders that hold recipes or manifests, nearest first: ./NAME, the checkout's, the packaged copies."""
    package = Path(__file__).resolve().parents[1]
    return [folder for folder in (Path.cwd() / name, package.parent / name, package / f"_{name}") if folder.is_dir()]


def find_manifest(file: str) -> Path | None:
    """The nearest manifest of that file name; None when there is none."""
    return next((path for folder in find_folder("manifests") if (path := folder / file).is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        RecipeError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `top` over it, table by table."""
    merged = dict(base)
    for key, value in top.items():
        merged[key] = (
            merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def override(tables: dict[str, Any], text: str) -> None:
    """Change one key of the tables in place, as `table.key=TOML value` says.

    Raises:
        RecipeError: the text is not of this form.
    """
    key, sign, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not sign or len(parts) < 2 or not all(parts):
        raise RecipeError(f"--set {text!r}: give table.key=VALUE, for example --set filters.pose_coverage.min=0.6")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(
            f"--set {text!r}: {value!r} is not a TOML value ({error}); quote strings: --set '{key}=\"{value}\"'"
        ) from error
    table = tables
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {text!r}: {part!r} is a value, not a table")
    table[parts[-1]] = parsed


def explain(error: pydantic.ValidationError, whole: type[pydantic.BaseModel]) -> str:
    """The first thing that is wrong with the tables of a `whole`: the place, what was given, what is allowed."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place == ["use"]:
        return "[sources] use: name at least one source"
    table = f"[{place[0]}]" + ("" if len(place) == 1 else f" {'.'.join(place[1:])}")
    if first["type"] == "extra_forbidden":
        table = f"[{'.'.join(place[:-1]) or place[0]}]"
        return f"{table} unknown key {place[-1]!r}{suggestion(place[-1], _keys(whole, place[:-1]))}"
    if first["type"] == "missing":
        return f"{table} is missing"
    return f"{table} = {first.get('input')!r}: {first['msg'].removeprefix('Value error, ')}"


def _keys(whole: Any, tables: Sequence[str]) -> list[str]:
    """Names of the keys of a table within tables, or of an optional one."""
    table = whole
    for name in tables:
        if name not in table.model_fields:
            break
        annotation = table.model_fields[name].annotation
        inner = [kind for kind in (annotation, *typing.get_args(annotation)) if hasattr(kind, "model_fields")]
        if not inner:
            break
        table = inner[0]
    return list(table.model_fields)
