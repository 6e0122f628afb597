"""Texts of labels: from sets of templates or from a table; and the one text of a clip.

T-MOR (D. Yang, thesis of the PoseCap dataset, chapter 6; arXiv 2606.21607) pairs a clip with its action name, or with a
description made from it, and gives no templates. The set `label` is the action name; the other sets are ours.
"""

from __future__ import annotations

import csv
import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.settings import find_manifest
from dataengine.labels.taxonomy import Taxonomy, taxonomy

_SLOT = re.compile(r"\{(.*?)\}")
_GERUND = re.compile(r"[a-z]*[aeiouy][a-z]*ing", re.IGNORECASE)  # a vowel before it: "thing" and "ring" are none


def template_sets(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Name of a set -> its templates; default: those of the nearest `manifests/prompts.toml`.

    Raises:
        ComponentError: the file is not found, or is wrong; the message names the set and the template.
    """
    found = path or find_manifest("prompts.toml")
    if found is None or not found.is_file():
        raise ComponentError(
            f"the templates {found or 'manifests/prompts.toml'} are not there; give the path of a .toml"
        )
    return dict(_read(found.resolve(), found.stat().st_mtime_ns))


def phrase(label: str, known: Taxonomy | Mapping[str, str] | None = None) -> str:
    """Return the label as it follows "a person".

    A label that is not known gives its own words, with "doing" before them where none ends in -ing.

    Args:
        label: name of a class.
        known: phrases by label, or a taxonomy; without, the nearest `verbs.csv`.
    """
    if isinstance(known, Mapping):
        found = known.get(label)
    else:
        entry = (known or taxonomy()).entries.get(label)
        found = None if entry is None else entry.phrase
    if found is not None:
        return found
    words = " ".join(label.replace("_", " ").split())
    return words if any(_GERUND.fullmatch(word) for word in words.split()) else f"doing {words}"


@dataclass(frozen=True)
class Prompts:
    """One set of templates and the phrases of labels; made once for many clips.

    Attributes:
        name: name of the set.
        templates: texts with `{label}` or `{phrase}`.
        known: taxonomy with the phrases, or phrases by label.
    """

    name: str
    templates: tuple[str, ...]
    known: Taxonomy | Mapping[str, str]

    def texts(self, label: str) -> list[str]:
        """Every text of a label, in the order of the templates."""
        words = {"label": label, "phrase": phrase(label, self.known)}
        return [_SLOT.sub(lambda slot: words[slot[1]], template) for template in self.templates]

    def text_of(self, clip_id: str, label: str) -> str:
        """The text of one clip: a hash of the clip id picks one text of its label.

        The text is the same on every machine and in every run. Over many clips all templates are about equally
        frequent.
        """
        digest = hashlib.blake2b(f"{self.name}\0{clip_id}".encode(), digest_size=8).digest()
        return self.texts(label)[int.from_bytes(digest, "big") % len(self.templates)]


def prompts(
    template_set: str = "person", known: Taxonomy | Mapping[str, str] | None = None, path: Path | None = None
) -> Prompts:
    """The set of templates of that name.

    Args:
        template_set: name of a set of `prompts.toml`: label (the plain name, as T-MOR takes it), person, video, motion.
        known: taxonomy with the phrases, or phrases by label; without, the nearest `verbs.csv`.
        path: another file of templates.

    Raises:
        ComponentError: there is no such set.
    """
    sets = template_sets(path)
    if template_set not in sets:
        raise ComponentError(f"there is no set of templates {template_set!r}{suggestion(template_set, sets)}")
    return Prompts(template_set, sets[template_set], taxonomy() if known is None else known)


def texts(label: str, template_set: str = "person") -> list[str]:
    """Every text of a label; see `Prompts.texts`."""
    return prompts(template_set).texts(label)


def text_of(clip_id: str, label: str, template_set: str = "person") -> str:
    """The text of one clip; see `Prompts.text_of`."""
    return prompts(template_set).text_of(clip_id, label)


def class_prompts(labels: Sequence[str], template_set: str = "motion") -> list[list[str]]:
    """Every text of each class, in the order of `labels`; see `prompts`."""
    made = prompts(template_set)
    return [made.texts(label) for label in labels]


def described(labels: Sequence[str], table: str | Path) -> list[list[str]]:
    """The texts of each class in a table, one or more.

    Descriptions of limb movement separate motions better than names of sports do.

    Args:
        labels: names of classes.
        table: a CSV with the columns label and text; a name without a folder is also looked for among the manifests.

    Raises:
        ComponentError: no such file, other columns, or classes without a text, which are named.
    """
    path = Path(table)
    if not path.is_file() and path.name == str(table):
        path = find_manifest(path.name) or path
    rows = _columns(path, "label", "text")
    found: dict[str, list[str]] = {label: [] for label in labels}
    for label, text in rows:
        if label in found and text:
            found[label].append(text)
    lacking = [label for label, texts in found.items() if not texts]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise ComponentError(f"{path} has no text of {shown}; add a row for each")
    return [found[label] for label in labels]


def phrase_table(path: Path) -> dict[str, str]:
    """Phrases by label of a CSV with the columns label and phrase.

    Raises:
        ComponentError: it cannot be read.
    """
    return {label: text for label, text in _columns(path, "label", "phrase")}


def _columns(path: Path, first: str, second: str) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [(row[first], row[second].strip()) for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise ComponentError(f"{path} is not there, nor among the manifests; give its path") from error
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        raise ComponentError(f"{path}: no columns {first} and {second} can be read: {error!r}") from error


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
