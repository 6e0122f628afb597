"""The structure of the house: who may import whom, and what importing costs.

`python -m tests.support.draw_house` draws it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.draw_house import Module, arrows, circles, draw, read_modules, top_room

ROOT = Path(__file__).resolve().parents[1]
MODULES = read_modules()

SIDE_BY_SIDE = {"sources", "fetch", "experts", "tracking", "fusion", "filters", "labels", "features", "lift"}
"""Rooms of one step of the work each; none imports another."""

LAYERS: dict[str, list[set[str]]] = {
    "dataengine": [
        {"core"},
        {"io", "media", "rendering", "testing"},
        SIDE_BY_SIDE,
        {"refine"},
        {"dataset"},
        {"pipeline"},
        {"report", "exports"},
        {"passes"},
        {"inspect"},
        {"builder", "dry_run"},
        {"importer"},
        {"verbs"},
        {"cli"},
    ],
    "training": [
        {"distributed", "registry"},
        {"data"},
        {"transforms", "backbones", "evaluate"},
        {"methods"},
        {"engine", "config", "config_tables"},
        {"runs"},
        {"catalogue"},
        {"verbs"},
        {"cli"},
    ],
    "tools": [{"anchor_pose", "synthetic_experts", "lifter", "reference"}],
}
"""The rooms of each package, lowest first. A room imports rooms of its own layer or below."""

TRAINING_MAY = {"core", "io", "dataset", "labels", "features", "media", "experts", "rendering"}
"""Rooms of dataengine that `training` may import."""

MOST_ROOMS = {"dataengine": 28, "training": 15}


def layer(package: str, room: str) -> int:
    """The layer of a room; a top `__init__` lies below all, since it imports lazily."""
    if room == package:
        return -1
    return next(n for n, names in enumerate(LAYERS[package]) if room in names)


def house(package: str) -> list[Module]:
    return [module for module in MODULES.values() if module.house == package]


@pytest.mark.parametrize("package", LAYERS)
def test_every_room_has_its_layer(package: str) -> None:
    here = {top_room(module.room) for module in house(package)} - {package}
    assert here == set().union(*LAYERS[package]), "a room was added or removed: put it into its layer here"


@pytest.mark.parametrize("package", LAYERS)
def test_imports_point_downwards(package: str) -> None:
    wrong = []
    for module in house(package):
        own = top_room(module.room)
        for name in sorted(module.imports):
            other = top_room(MODULES[name].room)
            if MODULES[name].house != package or other in (own, package) or own == package:
                continue
            if layer(package, other) > layer(package, own):
                wrong.append(f"{module.name} imports {name}, which lies above it")
            if {own, other} <= SIDE_BY_SIDE:
                wrong.append(f"{module.name} imports {name}: neither of two rooms side by side may import the other")
    assert not wrong, "\n".join(wrong)


def test_rooms_make_no_circle() -> None:
    graph = {room: others - {"dataengine", "training"} for room, others in arrows(MODULES).items()}
    assert circles(graph) == []


def test_files_make_no_circle() -> None:
    assert circles({name: module.imports for name, module in MODULES.items()}) == []


@pytest.mark.parametrize("package", MOST_ROOMS)
def test_the_house_stays_small(package: str) -> None:
    rooms = {module.room for module in house(package) if module.path.parent != ROOT / package}
    assert len(rooms) <= MOST_ROOMS[package], sorted(rooms)


def test_packages_keep_to_what_they_may_import() -> None:
    wrong = []
    for module in MODULES.values():
        for name in module.imports:
            other = MODULES[name]
            allowed = (
                other.house == module.house
                or module.house == "tools"
                or (other.house == "dataengine" and top_room(other.room) in TRAINING_MAY | {"dataengine"})
            )
            if not allowed:
                wrong.append(f"{module.name} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_media_imports_a_video_library() -> None:
    for module in MODULES.values():
        if top_room(module.room) != "media":
            tree = ast.parse(module.path.read_text(encoding="utf-8"))
            names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not names & {"av", "decord", "torchcodec"}, module.path


def test_no_junk_drawers() -> None:
    names = {module.path.name for module in MODULES.values()}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == [["a", "b", "c"]]


def test_the_drawing_names_every_room() -> None:
    drawing = draw(MODULES)
    for module in MODULES.values():
        assert module.room in LAYERS or f"{module.room.rpartition('.')[2]}" in drawing


@pytest.mark.parametrize("arguments", [["-c", "import dataengine"], ["-m", "dataengine.cli", "--help"]])
def test_starting_is_cheap(arguments: list[str]) -> None:
    """Starting loads no heavy library; seconds are not asserted, since machines are shared."""
    run = f"runpy.run_module({arguments[1]!r}, run_name='__main__')" if arguments[0] == "-m" else arguments[1]
    code = (
        f"import sys, runpy\nsys.argv = {['dataengine', *arguments[2:]]!r}\n"
        f"try:\n    {run}\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'av', 'decord', 'cv2', 'onnxruntime', 'numba', 'polars', 'distributed', 'pyarrow', "
        "'scipy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "HEAVY []"
