"""Retired words are gone from keys, columns, components, options and modules, and users are told the new ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataengine.core import registry
from dataengine.core.former_names import FORMER_NAMES
from dataengine.dataset import index
from dataengine.pipeline.recipe import Recipe
from tests.support.documents import ROOT
from tools.reference import components, recipes

KEYS = {"people", "trust", "near_share", "lanes", "ahead_mb"}
CONFIGURATION = {"share", "decay", "clip"}
FUSION = {"hold", "power", "gate"}
MODULES = [
    "looking",
    "watching",
    "obtain",
    "agree",
    "state",
    "sights",
    "evidence",
    "sides",
    "pictures",
    "ahead",
    "carry",
    "actor",
    "gather",
    "pace",
    "forms",
    "places",
    "lite",
    "naming",
    "wording",
    "assess",
    "matching",
    "intervals",
    "told",
]
"""File names whose words the glossary has replaced."""

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def test_no_recipe_key_has_a_former_name() -> None:
    for table, model in recipes.models(Recipe).items():
        assert not KEYS & set(model.model_fields), table


def test_no_configuration_key_has_a_former_name() -> None:
    pytest.importorskip("torch")
    from training.config import Config

    for table, model in recipes.models(Config).items():
        assert not CONFIGURATION & set(model.model_fields), table


def test_no_component_or_option_of_a_fusion_has_a_former_name() -> None:
    for kind, known in registry.COMPONENTS.items():
        assert not set(FORMER_NAMES) & set(known), kind
    for name in registry.COMPONENTS["fusion"]:
        options = {field.name for field in components.options(registry.component_class("fusion", name))}
        assert not FUSION & options, name


def test_no_index_column_has_a_former_name() -> None:
    for name, schema in {**index.TABLES, **index.MORE_TABLES}.items():
        assert not (set(FORMER_NAMES) - {"path", "mode", "clip"}) & set(schema.names), name
        assert not [column for column in schema.names if "agreement" in column and "dis" not in column], name


@pytest.mark.parametrize("package", ["dataengine", "training", "tools"])
def test_no_module_has_a_retired_name(package: str) -> None:
    stems = {path.stem: path for path in (ROOT / package).rglob("*.py")}
    assert not [str(stems[word]) for word in MODULES if word in stems]


def test_former_names_are_in_the_changelog() -> None:
    text = Path(ROOT, "CHANGELOG.md").read_text(encoding="utf-8").partition("### Changed")[0]
    words = set(re.findall(r"[a-z_0-9]+", text))
    for former, now in FORMER_NAMES.items():
        assert former in words and words & set(now), f"{former} -> {now} is not under `Renamed`"


def test_a_word_has_one_row() -> None:
    words = re.findall(r"^\| ([a-z_, -]+) \|", GLOSSARY, re.M)
    single = [word.strip() for row in words for word in row.split(",") if word.strip() != "word"]
    assert len(single) == len(set(single)), sorted(word for word in single if single.count(word) > 1)
    for row in re.findall(r"^\| [a-z].*$", GLOSSARY, re.M):
        assert len(row.strip("| ").split(" | ")) >= 2, row
