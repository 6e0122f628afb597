"""Where public copies of data sets are: the tables of a mirror list."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pydantic

from dataengine.core.errors import RecipeError, suggestion
from dataengine.core.settings import find_manifest

EVALUATION_LISTS = "evaluation_lists"
"""Table of a mirror list: name of a list for `plan.leak_guard` -> its url."""


class File(pydantic.BaseModel):
    """A file of a mirror: `path` below its base, or at another `url` where the base is the official one."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    path: str
    url: str | None = None
    md5: str | None = pydantic.Field(default=None, pattern=r"^[0-9a-f]{32}$")
    into: str = ""


class Mirror(pydantic.BaseModel):
    """One table of a mirror list.

    Attributes:
        base: url that paths are below; ends with a slash.
        official: whether `base` is the one of the table, not one that a recipe names.
        homepage, licence: shown to people.
        annotations: lists of clips; without any, the archives hold them.
        lists: split -> path of a text file with the url or path of one archive a line.
        archives: single archives; `into` is the folder to unpack them to, a split where all members are of it.
        by_class: splits whose archives are named by the label of their clips.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    base: str = pydantic.Field(pattern=r"^https?://.*/$")
    official: str = ""
    homepage: str = ""
    licence: str
    annotations: list[File] = []
    lists: dict[str, str] = {}
    archives: list[File] = []
    by_class: list[str] = []

    def url(self, file: File) -> str:
        return file.url if file.url and not self.official else self.at(file.path)

    def at(self, path: str) -> str:
        """The url of a path, or of a url: one below the official base is looked for below this one."""
        return urljoin(self.base, self.below(path))

    def below(self, path: str) -> str:
        """The path that a url has below the official base; anything else as it is."""
        official = re.sub("^https?:", "", self.official or self.base)
        rest = re.sub("^https?:", "", path)
        return rest[len(official) :] if rest.startswith(official) else path


def load_mirrors(path: Path) -> dict[str, Any]:
    """The tables of a mirror list, unchecked, `lists_kept_out` apart.

    Raises:
        RecipeError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"[fetch] mirrors: {path} cannot be read as TOML: {error}") from error


def mirror(tables: Mapping[str, Any], source: str, base: str | None, where: str) -> Mirror | None:
    """The mirror of a source; `base` is a url that a recipe names in place of the official one.

    Raises:
        RecipeError: the table or the url is not valid, or a base is named for a source without a table.
    """
    if source not in tables:
        if base is not None:
            raise RecipeError(
                f"[sources.{source}] mirror: {where} has no table for {source!r}{suggestion(source, tables)}"
            )
        return None
    if base is not None and "@" in urlsplit(base).netloc:
        raise RecipeError(
            f"[sources.{source}] mirror: recipes are kept and shown, so they hold no secrets: "
            "give them in ~/.netrc or [fetch] cookies"
        )
    try:
        found = Mirror(**tables[source])
        if base is None:
            return found
        changed = {"base": base if base.endswith("/") else f"{base}/", "official": found.base}
        return Mirror(**{**found.model_dump(), **changed})
    except (pydantic.ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, pydantic.ValidationError) else {"loc": (), "msg": str(error)}
        raise RecipeError(f"{where} [{source}] {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def mirror_tables(name: str) -> tuple[str, dict[str, Any]]:
    """A mirror list, by path or by its name in manifests/: (where it lies, its tables)."""
    path = Path(name) if name.endswith(".toml") else find_manifest(f"{name}.toml")
    if path is None or not path.is_file():
        raise RecipeError(
            f"[fetch] mirrors = {name!r}: no such list; give the path of a .toml, or the name of one in manifests/"
        )
    return str(path), load_mirrors(path)
