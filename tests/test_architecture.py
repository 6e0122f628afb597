"""The structure of the house: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dataengine"

LAYERS: list[set[str]] = [
    {
        "errors",
        "types",
        "skeletons",
        "registry",
        "compiled",
        "weights",
        "downloads",
        "extras",
        "settings",
        "console",
        "markdown",
        "__init__",
    },
    {"media", "rendering"},
    {"sources", "experts", "tracking", "fusion", "filters", "relabel", "features", "fetch", "duplicates"},
    {
        "devices",
        "npy",
        "storage",
        "shards",
        "index",
        "dataset",
        "recipe",
        "plan",
        "ledger",
        "engine",
        "passes",
        "audit",
        "lock",
    },
    {"builder", "estimates"},
    {"cli"},
]
ROOMS = {"sources", "experts", "tracking", "fusion", "filters", "relabel", "features", "fetch"}
TRAINING_MAY = {
    *("types", "skeletons", "errors", "registry", "extras", "weights", "compiled", "settings", "console", "markdown"),
    *("index", "shards", "dataset", "storage", "npy"),
    *("features", "media", "rendering", "experts"),
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Rooms of dataengine that a file imports, at the top or inside functions; type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    skipped = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dataengine":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("dataengine.")}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(n for n, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = room(path)
    for other in imports(path) - {own, "__version__"}:
        assert layer(other) <= layer(own), f"{path.name} of {own} imports {other}, which lies above it"
        assert not (own in ROOMS and other in ROOMS), f"{own} and {other} are rooms; neither may import the other"


def test_every_room_is_known() -> None:
    here = {room(p) for p in modules()}
    assert here == set().union(*LAYERS), "a room was added or removed: put it into its layer here"


def test_only_media_imports_a_video_library() -> None:
    for path in modules():
        if room(path) != "media":
            names = {
                a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for a in n.names
            }
            names |= {n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
            assert not names & {"av", "decord", "torchcodec"}, path


def test_dataengine_never_imports_training() -> None:
    for path in modules():
        assert "import training" not in path.read_text() and "from training" not in path.read_text(), path


def test_training_keeps_to_what_it_may_import() -> None:
    for path in (ROOT / "training").rglob("*.py"):
        assert imports(path) - {"__version__"} <= TRAINING_MAY, path


def test_no_junk_drawers() -> None:
    names = {p.name for p in [*modules(), *(ROOT / "training").rglob("*.py")]}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}


@pytest.mark.parametrize("arguments", [["-c", "import dataengine"], ["-m", "dataengine.cli", "--help"]])
def test_starting_is_cheap(arguments: list[str]) -> None:
    code = (
        "import sys, runpy, time\n"
        f"sys.argv = {['dataengine', *arguments[2:]]!r}\n"
        "try:\n"
        f"    {'import dataengine' if arguments[0] == '-c' else 'runpy.run_module(' + repr('dataengine.cli') + ', run_name=' + repr('__main__') + ')'}\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'av', 'decord', 'cv2', 'onnxruntime', 'numba', 'polars', 'distributed'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CPU', time.process_time())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    assert answer.startswith("HEAVY [] CPU"), answer
    assert float(answer.split()[-1]) < 0.6, answer
