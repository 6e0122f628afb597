"""Every command is documented and helped, every component described, and the README's commands are real."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from dataengine.cli import app
from dataengine.core import registry
from dataengine.core.reasons import REASONS
from dataengine.inspect.catalogue import catalogue
from training.cli import app as train_app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
APPS = {"dataengine": app, "dataengine-train": train_app}
GROUPS = {program: typer.main.get_command(made) for program, made in APPS.items()}


def readme_lines() -> list[tuple[str, str]]:
    """Program and arguments of every command line shown."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.S)
    found = [
        re.search(r"(dataengine(?:-train)?) (.*)", line.strip()) for block in blocks for line in block.splitlines()
    ]
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize(
    ("program", "name"), [(program, name) for program in GROUPS for name in sorted(GROUPS[program].commands)]
)
def test_every_command_is_in_the_readme_and_has_help(program: str, name: str) -> None:
    assert f"`{program} {name}" in README
    answer = CliRunner().invoke(APPS[program], [name, "--help"])
    assert answer.exit_code == 0 and "Usage:" in answer.output
    for parameter in GROUPS[program].commands[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize(("program", "line"), readme_lines())
def test_the_commands_of_the_readme_parse(program: str, line: str) -> None:
    verb, *rest = shlex.split(line.split("  #")[0])
    assert verb in GROUPS[program].commands
    GROUPS[program].commands[verb].make_context(verb, rest)


def test_the_readme_names_no_command_that_is_not_there() -> None:
    for program, group in GROUPS.items():
        assert set(re.findall(rf"`{program} ([a-z]+)", README)) <= {*group.commands}


@pytest.mark.parametrize("kind", sorted(registry.COMPONENTS))
def test_every_component_imports_and_is_described(kind: str) -> None:
    for entry in catalogue(kind, verbose=True):
        assert not entry["summary"].startswith("not available"), entry
        assert len(entry["summary"]) > 20, entry


def test_reasons_have_meanings() -> None:
    assert all(re.fullmatch(r"[a-z_]+", reason) and len(meaning) > 10 for reason, meaning in REASONS.items())


def test_relative_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "manifests/README.md"):
        path = ROOT / name
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{name}: {target}"


def test_the_figures_of_the_readme_come_from_committed_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import readme

    assert readme.write(README) == README, "run  python benchmarks/readme.py"
