"""Code in the documentation: TOML that the strict loaders take, Python whose names exist, links that lead somewhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

from dataengine.core import settings
from dataengine.core.settings import Table
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline.cluster_kinds import ClusterSettings
from tests.support.documents import ROOT, WRITTEN, Block, blocks, spans

PYTHON = blocks("python")
TOML = blocks("toml")


def named(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", TOML, ids=named)
def test_toml_is_taken_by_the_strict_loaders(block: Block) -> None:
    tables = tomllib.loads(block.code)
    if block.about == 'title="recipe"':
        base = settings.read(ROOT / "recipes" / "posecap.toml")
        recipes.validate(settings.merge(base, tables), block.page, None)
    elif block.about == 'title="cluster"':
        ClusterSettings(**tables)
    elif block.about == 'title="training configuration"':
        pytest.importorskip("torch")
        from training import config

        config.validate(tables, block.page)
    else:
        assert re.fullmatch(r'title="(pyproject\.toml|manifests/\w+\.toml)"', block.about), (
            f"{block.name}: {block.about}"
        )


@pytest.mark.parametrize("block", PYTHON, ids=named)
def test_python_compiles_and_its_names_exist(block: Block) -> None:
    tree = ast.parse(block.code)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
                aliases[name.asname or name.name] = name.name
        elif isinstance(node, ast.ImportFrom) and node.module != "mypackage":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            assert hasattr(importlib.import_module(aliases[node.value.id]), node.attr), ast.unparse(node)


@pytest.mark.parametrize("block", [block for block in PYTHON if block.runs], ids=named)
def test_marked_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a snippet saves goes away
    module = types.ModuleType("shown")
    monkeypatch.setitem(sys.modules, "shown", module)  # dataclasses look their module up
    exec(compile(block.code, block.page, "exec"), module.__dict__)


def test_dotted_names_in_sentences_exist() -> None:
    """`table.key` is a key of a recipe or of a training configuration; `dataengine.x` is a Python name."""
    pytest.importorskip("torch")
    from tools.reference.api import find
    from tools.reference.recipes import models
    from training import registry
    from training.config import Config

    tables: dict[str, set[str]] = {}
    for whole in (recipes.Recipe, Config):
        for name, model in models(whole).items():
            tables.setdefault(name, set()).update(model.model_fields)
    for table, kind in (("method", "methods"), ("backbone", "backbones")):  # each has options of its own
        for name in registry.names(kind):
            tables[table].update(inspect.signature(registry.find(kind, name)).parameters)
    for page, text in spans():
        if page == "docs/glossary.md":
            continue
        if re.fullmatch(r"(dataengine|training)(\.\w+)+", text):
            find(text)
        elif match := re.fullmatch(r"\[?([a-z]+)\]?[. ]([a-z_]+)(?: = .*)?", text):
            table, key = match.groups()
            if table in tables and key not in ("toml", "NAME"):
                assert key in tables[table], f"{page}: {text} is no key"


def test_files_in_sentences_exist() -> None:
    for page, text in spans():
        if "NAME" not in text and re.fullmatch(
            r"(benchmarks|manifests|recipes|dataengine|training|tests|tools|docs)/[\w./-]+\.\w+", text
        ):
            assert (ROOT / text).exists(), f"{page}: {text}"


@pytest.mark.parametrize(
    "path", [*WRITTEN, ROOT / "manifests" / "README.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text):
        generated = path.is_relative_to(ROOT / "docs") and "reference/" in target
        assert generated or (path.parent / target).exists(), f"{path.name}: {target}"


def test_recipes_and_configurations_are_complete() -> None:
    assert {"posecap", "posetics"} <= set(recipes.available())
    assert issubclass(recipes.Recipe, Table)
