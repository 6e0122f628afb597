"""Texts of classes: from the templates in `manifests/prompts.toml` and the phrases in `manifests/verbs.csv`, or from a table.

`manifests/README.md` says what the columns and keys of these files mean.
"""

from __future__ import annotations

import csv
import functools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.settings import find_folder, find_manifest

_SLOT = re.compile(r"\{(label|phrase)\}")
_GERUND = re.compile("[a-z]*[aeiouy][a-z]*ing", re.IGNORECASE)  # "thing" and "ring" are none


def manifest(file: str) -> Path:
    """The nearest manifest of that name: ./manifests, the checkout's, the packaged copies.

    Raises:
        TrainingError: there is none.
    """
    found = find_manifest(file)
    if found is None:
        raise TrainingError(f"{file} is in none of {', '.join(map(str, find_folder('manifests')))}; give its path")
    return found


@functools.lru_cache(maxsize=8)
def _templates(path: Path, _written: int) -> dict[str, tuple[str, ...]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        found = {name: tuple(str(template) for template in table["templates"]) for name, table in tables.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: no sets of templates can be read: {error!r}") from error
    wrong = [template for templates in found.values() for template in templates if len(_SLOT.findall(template)) != 1]
    if wrong or not all(found.values()):
        raise TrainingError(
            f"{path}: every set holds templates with {{label}} or {{phrase}} once; given {wrong[:1] or 'an empty set'}"
        )
    return found


@functools.lru_cache(maxsize=8)
def _phrases(path: Path, _written: int) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["label"]: row["phrase"] for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise TrainingError(f"{path}: no column label or phrase can be read: {error!r}") from error


def phrases(labels: Sequence[str], known: str | Path | None = None) -> list[str]:
    """Each label as it follows "a person": of the table, else its words, with "doing" before them where none ends in -ing.

    Args:
        labels: names of classes.
        known: a CSV with the columns label and phrase; without, `manifests/verbs.csv`.
    """
    path = Path(known) if known is not None else manifest("verbs.csv")
    table = _phrases(path, path.stat().st_mtime_ns) if path.is_file() else _phrases(path, 0)
    return [table.get(label) or _plain(label) for label in labels]


def _plain(label: str) -> str:
    words = " ".join(label.replace("_", " ").split())
    return words if any(_GERUND.fullmatch(word) for word in words.split()) else f"doing {words}"


def class_prompts(
    labels: Sequence[str],
    template_set: str = "motion",
    templates: str | Path | None = None,
    known: str | Path | None = None,
) -> list[list[str]]:
    """Every text of each class, for `matching.class_embeddings`.

    Args:
        labels: names of classes.
        template_set: a set of the file: label (the plain name, as T-MOR takes it), person, video, motion.
        templates: another file of sets than `manifests/prompts.toml`.
        known: see `phrases`.

    Raises:
        TrainingError: no such file or set.
    """
    path = Path(templates) if templates is not None else manifest("prompts.toml")
    sets = _templates(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if template_set not in sets:
        raise TrainingError(f"there is no set of templates {template_set!r} in {path}{suggestion(template_set, sets)}")
    said = zip(labels, phrases(labels, known), strict=True)
    return [
        [template.replace("{label}", label).replace("{phrase}", phrase) for template in sets[template_set]]
        for label, phrase in said
    ]


def described(labels: Sequence[str], table: str | Path) -> list[list[str]]:
    """The texts that a table has of each class, one or more.

    What is done, limb by limb, tells motions apart better than the name of a sport: names are near each other for
    other reasons than movements are.

    Args:
        labels: names of classes.
        table: a CSV with the columns label and text; a name without a folder is also looked for among the manifests.

    Raises:
        TrainingError: no such file, other columns, or classes without a text, which are named.
    """
    path = Path(table)
    if not path.is_file() and path.name == str(table):
        path = manifest(path.name)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["label"], row["text"].strip()) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        raise TrainingError(f"{path}: no columns label and text can be read: {error!r}") from error
    found: dict[str, list[str]] = {label: [] for label in labels}
    for label, text in rows:
        if label in found and text:
            found[label].append(text)
    lacking = [label for label, texts in found.items() if not texts]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise TrainingError(f"{path} has no text of {shown}; add a row for each")
    return [found[label] for label in labels]
