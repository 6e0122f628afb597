"""Draws the house: every room with the rooms that it imports.

    python -m tests.support.draw_house

A room is a folder of Python files. The top files of a package (`builder`, `cli`, ...) stand in a line each.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dataengine", "training", "tools")


@dataclass(frozen=True)
class Module:
    """One Python file.

    Attributes:
        name: dotted module name. path: the file.
        imports: dotted names of the modules of our packages that it imports, at the top or inside functions;
            imports for type checking alone are left out.
    """

    name: str
    path: Path
    imports: frozenset[str]

    @property
    def room(self) -> str:
        """The folder it stands in, dotted; a top file of a package is a room of its own."""
        return room_of(self.name, self.path.name == "__init__.py")

    @property
    def house(self) -> str:
        """The package: dataengine, training or tools."""
        return self.name.partition(".")[0]


def room_of(module: str, is_package: bool) -> str:
    """The room of a module: its folder, or itself for a file at the top of a package."""
    parts = module.split(".")
    folder = parts if is_package else parts[:-1]
    return ".".join(folder) if len(folder) > 1 else module


def top_room(room: str) -> str:
    """The room at the top of the package that a nested room belongs to, without the package's name."""
    return room.split(".")[1] if "." in room else room


def module_name(path: Path, root: Path = ROOT) -> str:
    """Dotted name of the module in a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> dict[str, Module]:
    """Every module of the packages by dotted name, with what it imports of them."""
    files = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    names = {module_name(path, root): path for path in files}
    return {name: Module(name, path, _imports(name, path, names)) for name, path in names.items()}


def _imports(own: str, path: Path, names: Mapping[str, Path]) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for part in block.body
        for node in ast.walk(part)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in names else node.module)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{path}: relative import; write the whole name")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name for name in found if name in names and name != own)


def arrows(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Room -> the other rooms that it imports."""
    found: dict[str, set[str]] = {module.room: set() for module in modules.values()}
    for module in modules.values():
        found[module.room] |= {modules[name].room for name in module.imports} - {module.room}
    return found


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected, more than one node), by Tarjan 1972."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def draw(modules: Mapping[str, Module]) -> str:
    """The tree of rooms, each with its number of files and lines and its arrows."""
    graph = arrows(modules)
    lines = []
    for package in PACKAGES:
        members = [module for module in modules.values() if module.house == package]
        rooms = sorted({module.room for module in members if module.path.parent != ROOT / package})
        lines.append(f"{package}/  {len(rooms)} rooms, {len(members)} files")
        for room in sorted({module.room for module in members} - {package}):
            files = [module for module in members if module.room == room]
            count = sum(len(module.path.read_text(encoding="utf-8").splitlines()) for module in files)
            is_folder = files[0].path.parent != ROOT / package
            name = "  " * room.count(".") + room.rpartition(".")[2] + ("/" if is_folder else ".py")
            size = f"{len(files):>3} files {count:>6} lines" if is_folder else f"{'':>9} {count:>6} lines"
            targets = sorted(other.removeprefix(f"{package}.") for other in graph[room] if other != package)
            lines.append(f"{name:<28}{size}" + (f"  -> {', '.join(targets)}" if targets else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    print(draw(read_modules()))
