"""The reference is whole: each key, column, option, member, reason and public name is described."""

from __future__ import annotations

import re
from typing import Any

import pydantic
import pytest

from dataengine.core import registry
from dataengine.core.describe import descriptions, section, summary
from dataengine.core.reasons import REASONS
from dataengine.dataset import descriptions as described
from dataengine.pipeline.recipe import Recipe
from tests.support.documents import ROOT
from tools.reference import api, components, datasets, recipes

pytest.importorskip("torch")

from tools.reference import training
from tools.reference.site import pages
from training import registry as train_registry
from training.config import Config
from training.transforms.preprocess import Preprocess
from training.transforms.view import STEPS, View

MORE: dict[str, type[Any]] = {"preprocess": Preprocess, "view": View}


@pytest.mark.parametrize("whole", [Recipe, Config])
def test_every_key_of_a_settings_file_is_described(whole: type[pydantic.BaseModel]) -> None:
    for table, model in recipes.models(whole).items():
        if table in ("backbone", "method"):
            continue
        told = descriptions(model) | (descriptions(MORE[table]) if table in MORE and whole is Config else {})
        lacking = [key for key in model.model_fields if len(told.get(key, "")) < 5]
        assert not lacking, f"[{table}] {lacking}: say below each key, or in the docstring, what it means"
        assert ":" in summary(model), f"[{table}]: what the table is for"


@pytest.mark.parametrize("table", sorted(datasets.schemas()))
def test_every_column_of_the_index_is_described_and_no_other(table: str) -> None:
    told = {name for name in described.COLUMNS[table] if "<" not in name}
    assert told == set(datasets.schemas()[table].names)
    assert table in described.TABLES


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in registry.COMPONENTS for n in registry.COMPONENTS[k]])
def test_every_option_of_a_component_is_described(kind: str, name: str) -> None:
    cls = registry.component_class(kind, name)
    lacking = [f.name for f in components.options(cls) if len(descriptions(cls).get(f.name, "")) < 5]
    assert not lacking, f"{cls.__name__}: say in `Attributes:` what {lacking} mean"
    assert kind in components.KINDS


NETWORKS = [("backbones", name) for name in train_registry.names("backbones")]
METHODS = [("methods", name) for name in train_registry.names("methods")]


@pytest.mark.parametrize(("kind", "name"), NETWORKS + METHODS)
def test_every_option_of_a_network_and_method_is_described(kind: str, name: str) -> None:
    for option, _, _, meaning in training.rows(train_registry.find(kind, name)):
        assert len(meaning) > 4, f"{name}: say in `Args:` what {option} means"


@pytest.mark.parametrize("name", list(training.formats()))
def test_every_option_of_a_format_is_described(name: str) -> None:
    for option, _, _, meaning in training.rows(training.formats()[name]):
        assert len(meaning) > 4, f"{name}: say in `Args:` what {option} means"


@pytest.mark.parametrize("name", list(STEPS))
def test_every_option_of_a_step_is_described(name: str) -> None:
    told = section(STEPS[name].function.__doc__ or "", "Args")
    lacking = sorted(option for option in STEPS[name].options() - {"chance"} if len(told.get(option, "")) < 5)
    assert not lacking, f"{STEPS[name].function.__name__}: say in `Args:` what {lacking} mean"


def test_reasons_have_meanings() -> None:
    assert all(re.fullmatch(r"[a-z_]+", reason) and len(meaning) > 10 for reason, meaning in REASONS.items())


@pytest.mark.parametrize("path", [path for paths in api.PUBLIC.values() for path in paths])
def test_public_names_are_described(path: str) -> None:
    assert len(summary(api.find(path))) > 15


def test_everything_the_packages_offer_is_public() -> None:
    import dataengine

    public = {path for paths in api.PUBLIC.values() for path in paths}
    assert {f"dataengine.{name}" for name in dataengine.__all__ if name != "__version__"} <= public


def test_pages_are_whole() -> None:
    made = pages()
    text = "\n".join(page for _, page in made.values())
    for kind in registry.COMPONENTS:
        assert f"reference/components/{kind}.md" in made
    for word in (*REASONS, *described.JSON_KEYS, *(f"KEY.{entry}" for entry in described.ENTRIES)):
        assert f"`{word}`" in text, word
    assert len({title for title, _ in made.values()}) == len(made)


def test_samples_hold_what_is_described(tmp_path: Any) -> None:
    """Members and JSON keys of a sample, as `pack` writes them."""
    from dataengine.dataset.verify_shards import FEATURES

    assert {f"<feature>{ending}" for ending in FEATURES} <= set(described.ENTRIES)
    assert described.entry_meaning("viclip_video.npy") and not described.entry_meaning("other.npy")


def test_the_chain_of_passes_in_the_explanation_is_the_list() -> None:
    text = (ROOT / "docs" / "explanation" / "build.md").read_text(encoding="utf-8")
    chain = re.search(r"```text\n(plan -> .*)\n```", text)
    assert chain
    names = [name for name in chain[1].split(" -> ") if name not in ("plan", "download")]
    assert names == list(registry.kind("passes").builtin)
    assert all(f"\n| {name} | " in text for name in names)
