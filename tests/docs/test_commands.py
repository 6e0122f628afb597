"""Every command that the documentation shows is real: it parses, its recipe resolves, its SQL runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataengine.core import registry
from dataengine.dataset import index, queries
from dataengine.inspect.catalogue import catalogue
from dataengine.passes import PASSES
from tests.support.documents import ROOT, commands, programs, spans
from tools.reference import commands as reference

GROUPS = programs()
SHOWN = commands()
ALL = [(program, name) for program, group in GROUPS.items() for name in group.commands]


def parsed(program: str, line: list[str]) -> dict[str, Any]:
    verb, *rest = line
    assert verb in GROUPS[program].commands, f"{program} has no command {verb!r}"
    params: dict[str, Any] = GROUPS[program].commands[verb].make_context(verb, rest).params
    return params


@pytest.mark.parametrize(
    ("page", "program", "line"), SHOWN, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_shown_commands_parse(page: str, program: str, line: list[str]) -> None:
    parsed(program, line)


@pytest.mark.parametrize(
    "line", [line for _, program, line in SHOWN if program == "dataengine" and line[0] == "build"], ids=" ".join
)
def test_recipes_of_shown_builds_resolve(line: list[str]) -> None:
    from dataengine import builder

    given = parsed("dataengine", line)
    if given["recipe"].endswith(".toml"):
        pytest.skip("a recipe that a build writes")
    builder.resolve(given["recipe"], given["sources"], given["overlay"], given["overrides"] or ())


@pytest.mark.parametrize(
    "line",
    [
        line
        for _, program, line in SHOWN
        if program == "dataengine-train" and line[0] in ("train", "pretrain", "finetune")
    ],
    ids=" ".join,
)
def test_configurations_of_shown_runs_load(line: list[str]) -> None:
    pytest.importorskip("torch")
    from training import config

    given = parsed("dataengine-train", line)
    if given["configuration"].startswith("runs/"):
        pytest.skip("the folder of a run")
    if line[0] == "finetune":
        config.finetuning(given["configuration"], given["start"], given["overrides"] or ())
    else:
        config.load(given["configuration"], given["overrides"] or ())


def empty_tables() -> dict[str, pl.LazyFrame]:
    columns = [column for name in PASSES for column in registry.component_class("passes", name).columns]
    added = [{"name": c.name, "type": index.type_name(c.type)} for c in columns if c.name not in index.CLIPS.names]
    schemas = {**index.TABLES, **index.MORE_TABLES, "clips": index.clips_schema(added)}
    schemas["tracks"] = index.tracks_schema(["one", "two"], lifted=True)
    made = {name: pl.from_arrow(schema.empty_table()).lazy() for name, schema in schemas.items()}  # type: ignore[union-attr]
    shares = pa.schema([*index.TRACKS, pa.field("expert", pa.string()), pa.field("share", pa.float32())])
    return {**made, "shares": pl.from_arrow(shares.empty_table()).lazy()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line", [line for _, program, line in SHOWN if program == "dataengine" and line[0] == "audit"], ids=" ".join
)
def test_shown_audits_can_be_answered(line: list[str]) -> None:
    given = parsed("dataengine", line)
    assert given["output"] in queries.FORMATS
    if given["query"] is not None:
        assert given["query"] in queries.QUERIES
    if given["sql"] is not None:
        pl.SQLContext(empty_tables()).execute(given["sql"], eager=True)


@pytest.mark.parametrize(("program", "name"), ALL)
def test_every_command_is_in_the_reference_and_has_help(program: str, name: str) -> None:
    command = GROUPS[program].commands[name]
    page = reference.page(program, GROUPS[program])
    assert f"## {program} {name}\n" in page and command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"
    answer = CliRunner().invoke(_app(program), [name, "--help"])
    assert answer.exit_code == 0 and "Usage:" in answer.output


def _app(program: str) -> Any:
    from dataengine.cli import app
    from training.cli import app as train_app

    return app if program == "dataengine" else train_app


@pytest.mark.parametrize(("program", "name"), ALL)
def test_every_command_is_shown_somewhere(program: str, name: str) -> None:
    assert any(shown == program and line[0] == name for _, shown, line in SHOWN) or name in ("sample", "report")


def test_commands_named_in_sentences_exist() -> None:
    for page, text in spans():
        for program, group in GROUPS.items():
            if match := re.match(rf"{program} ([a-z]+)\b", text):
                assert match[1] in group.commands, f"{page}: {text}"


def test_the_readme_is_short_and_starts_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    first = "pip install uv && uv run dataengine build posecap --sources sample\nuv run --all-extras pytest\n"
    assert f"```console\n{first}```" in text


@pytest.mark.parametrize("kind", sorted(registry.COMPONENTS))
def test_every_component_imports_and_is_described(kind: str) -> None:
    for entry in catalogue(kind, verbose=True):
        assert not entry["summary"].startswith("not available"), entry
        assert len(entry["summary"]) > 20, entry


def test_licences_of_extras_are_told() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/explanation/rights.md").read_text(encoding="utf-8"), re.M)
    assert sorted(table) == sorted(extras)


def test_pictures_are_small() -> None:
    for path in Path(ROOT, "docs").rglob("*"):
        assert path.suffix not in (".png", ".jpg") or path.stat().st_size < 300_000, path
