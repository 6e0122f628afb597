"""Texts of labels, made from sets of templates, and the one text of a clip.

T-MOR (D. Yang, thesis of the PoseCap data set, chapter 6; arXiv 2606.21607) pairs a clip with its action
name or a description made of it and gives no templates; the set `label` is the first, the others are ours.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.settings import find_manifest
from dataengine.labels.taxonomy import Taxonomy, taxonomy

_SLOT = re.compile(r"\{(.*?)\}")
_GERUND = re.compile(r"[a-z]*[aeiouy][a-z]*ing", re.IGNORECASE)  # a vowel before it: "thing" and "ring" are none


def template_sets(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Name of a set -> its templates; without a path, of the nearest `manifests/prompts.toml`.

    Raises:
        ComponentError: the file is not found, or something in it is wrong; names the set and the template.
    """
    found = path or find_manifest("prompts.toml")
    if found is None or not found.is_file():
        raise ComponentError(
            f"the templates {found or 'manifests/prompts.toml'} are not there; give the path of a .toml"
        )
    return dict(_read(found.resolve(), found.stat().st_mtime_ns))


def phrase(label: str, known: Taxonomy | None = None) -> str:
    """The label as it follows "a person": of the taxonomy, else the label itself ("doing" before it where no word of it ends in -ing)."""
    entry = (known or taxonomy()).entries.get(label)
    if entry is not None:
        return entry.phrase
    words = " ".join(label.replace("_", " ").split())
    return words if any(_GERUND.fullmatch(word) for word in words.split()) else f"doing {words}"


@dataclass(frozen=True)
class Prompts:
    """One set of templates and the taxonomy that gives the phrases; for many clips, made once.

    Attributes:
        name: of the set.
        templates: each with `{label}` or `{phrase}`.
    """

    name: str
    templates: tuple[str, ...]
    known: Taxonomy

    def texts(self, label: str) -> list[str]:
        """Every text of a label, in the order of the templates."""
        words = {"label": label, "phrase": phrase(label, self.known)}
        return [_SLOT.sub(lambda slot: words[slot[1]], template) for template in self.templates]

    def text_of(self, clip_id: str, label: str) -> str:
        """The text of one clip: of the texts of its label, the one that a hash of the clip's id picks.

        The same on every machine and in every run; over many clips each template comes about as often.
        """
        digest = hashlib.blake2b(f"{self.name}\0{clip_id}".encode(), digest_size=8).digest()
        return self.texts(label)[int.from_bytes(digest, "big") % len(self.templates)]


def prompts(template_set: str = "person", known: Taxonomy | None = None, path: Path | None = None) -> Prompts:
    """The set of templates of that name.

    Args:
        template_set: name of a set of `prompts.toml`.
        known: taxonomy for the phrases; without, the nearest `verbs.csv`.
        path: another file of templates.

    Raises:
        ComponentError: there is no such set.
    """
    sets = template_sets(path)
    if template_set not in sets:
        raise ComponentError(f"there is no set of templates {template_set!r}{suggestion(template_set, sets)}")
    return Prompts(template_set, sets[template_set], known or taxonomy())


def texts(label: str, template_set: str = "person") -> list[str]:
    """Every text of a label; see `Prompts.texts`."""
    return prompts(template_set).texts(label)


def text_of(clip_id: str, label: str, template_set: str = "person") -> str:
    """The text of one clip; see `Prompts.text_of`."""
    return prompts(template_set).text_of(clip_id, label)


@lru_cache(maxsize=8)
def _read(path: Path, _written: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ComponentError(f"{path} cannot be read: {error}") from error
    if not tables:
        raise ComponentError(f'{path}: it holds no set; want [NAME] with templates = ["a person {{phrase}}", ...]')
    return tuple((name, _templates(f"{path} [{name}]", table)) for name, table in tables.items())


def _templates(where: str, table: object) -> tuple[str, ...]:
    if not isinstance(table, dict):
        raise ComponentError(f"{where}: want a table with templates = [...]")
    for key in table:
        if key not in ("about", "templates"):
            raise ComponentError(f"{where} has no key {key!r}{suggestion(key, ('about', 'templates'))}")
    given = table.get("templates")
    if not isinstance(given, list) or not given or not all(isinstance(template, str) for template in given):
        raise ComponentError(f"{where} templates: want a list of one text or more")
    for number, template in enumerate(given, 1):
        slots = _SLOT.findall(template)
        if len(slots) != 1 or slots[0] not in ("label", "phrase"):
            raise ComponentError(f"{where} template {number} {template!r}: it holds {{label}} or {{phrase}}, once")
    if len(set(given)) < len(given):
        raise ComponentError(f"{where} templates: one is given twice")
    return tuple(given)
