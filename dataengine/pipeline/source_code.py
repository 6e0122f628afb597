"""Which source code results depend on: the modules that a module imports, and a digest of each.

Imports are read from the sources and nothing is imported, so that a network that is loaded when it is first used
counts, too. `if TYPE_CHECKING:` is left out.

**Digest.** A module's digest is that of its syntax tree without docstrings and positions, not of its bytes. What the
interpreter runs is a function of that tree alone, so a comment, a docstring or another layout of lines costs nobody
the poses of a million clips, and nothing that can change a number is missed. Fields that are empty are left out, so
that the digest is the same under every version of Python that reads the source.

**Framework.** Modules of `FRAMEWORK` plan, run, store and report. What they do to bytes is told by
`FRAMEWORK_VERSION`, not by their sources: another line in the command line must not recompute poses.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from dataengine.core.errors import ComponentError

OWN = "dataengine"
"""The package whose modules count wherever they are imported."""

FRAMEWORK_VERSION = 1
"""Raise it when a module of FRAMEWORK changes what passes write: how arrays are stored, how a unit is put together."""

FRAMEWORK = (
    *(f"{OWN}.core.{name}" for name in ("catalogue", "component", "console", "describe", "devices", "errors")),
    *(f"{OWN}.core.{name}" for name in ("extras", "failures", "former_names", "gpu_claim", "markdown", "nvml")),
    *(f"{OWN}.core.{name}" for name in ("progress", "reasons", "registry", "resources", "settings")),
    *(f"{OWN}.passes.{name}" for name in ("base", "job", "progress", "table_pass", "unit_pass")),
    *(f"{OWN}.dataset.{name}" for name in ("dataset", "index")),
    *(f"{OWN}.{room}" for room in ("io", "pipeline", "inspect", "builder", "dry_run", "cli", "testing")),
)
"""Modules, and rooms with all modules in them, that are counted by FRAMEWORK_VERSION."""

_HEX = 16
"""Digits of a digest that are kept."""


@dataclass(frozen=True)
class Code:
    """What a set of modules consists of.

    Attributes:
        modules: name of a module -> digest of its source.
        libraries: top-level names of what the modules import beside those, such as 'numpy'.
    """

    modules: Mapping[str, str]
    libraries: frozenset[str]


@dataclass(frozen=True)
class _Module:
    """A module that was read: its digest, and the names that it imports (of modules, or of things in them)."""

    digest: str
    imports: frozenset[str]


def closure(modules: Iterable[str], unused: Iterable[str] = ()) -> Code:
    """The modules given, those of their packages that they import, and so on.

    Args:
        modules: names of modules. Their top-level packages, and this package, are followed; all else is a library.
        unused: modules that are imported and not run; they and what they import are left out.

    Raises:
        ComponentError: a source cannot be read or is no Python.
    """
    waiting, left_out = list(dict.fromkeys(modules)), set(unused)
    followed = {OWN, *(name.partition(".")[0] for name in waiting)}
    found: dict[str, str] = {}
    libraries: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name in left_out or is_framework(name):
            continue
        module = _read(name)
        found[name] = module.digest
        for imported in module.imports:
            top = imported.partition(".")[0]
            if top in followed:
                waiting += _with_packages(imported)
            elif top not in sys.stdlib_module_names:
                libraries.add(top)
    return Code(dict(sorted(found.items())), frozenset(libraries))


def is_framework(name: str) -> bool:
    """Whether a module is counted by FRAMEWORK_VERSION. The lists of names in `__init__` of the package and of its
    passes are, too."""
    return name in (OWN, f"{OWN}.passes") or any(name == f or name.startswith(f + ".") for f in FRAMEWORK)


@functools.cache
def package_digests(package: str = OWN) -> Mapping[str, str]:
    """Path of every source file of a package, relative to the folder that holds it -> digest of its bytes."""
    found = {}
    for folder in _folders(package):
        for path in sorted(folder.rglob("*.py")):
            found[path.relative_to(folder.parent).as_posix()] = _digest(path.read_bytes())
    return found


def _with_packages(name: str) -> Iterator[str]:
    """The module that an imported name is, or is in, and the packages that importing it runs."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if _file(module) is not None:
            yield module


def _digest(content: bytes) -> str:
    return blake3(content).hexdigest()[:_HEX]


@functools.cache
def _folders(package: str) -> tuple[Path, ...]:
    """The folders of a top-level package; none where it is a single file or is not here."""
    spec = _spec(package)
    return tuple(map(Path, (spec.submodule_search_locations or ()) if spec is not None else ()))


def _spec(top: str) -> importlib.machinery.ModuleSpec | None:
    """Where a top-level module comes from; None where it is not here, or was made by hand or is the running script."""
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # it is loaded and has no spec
        return None


@functools.cache
def _file(name: str) -> Path | None:
    """The file of a module: its source, or the compiled extension; None where there is neither."""
    top, _, rest = name.partition(".")
    if not rest:
        spec = _spec(top)
        origin = getattr(sys.modules.get(top), "__file__", None) if spec is None else spec.origin
        return None if origin is None else Path(origin)
    for folder in _folders(top):
        place = folder.joinpath(*rest.split("."))
        tried = [place.with_name(place.name + end) for end in (".py", *importlib.machinery.EXTENSION_SUFFIXES)]
        found = next((path for path in (place / "__init__.py", *tried) if path.is_file()), None)
        if found is not None:
            return found
    return None


@functools.cache
def _read(name: str) -> _Module:
    path = _file(name)
    if path is None or not path.is_file():
        return _Module("absent", frozenset())  # a namespace package, or a module of an archive
    content = path.read_bytes()
    if path.suffix != ".py":
        return _Module(_digest(content), frozenset())
    try:
        return _parse(content, name if path.name == "__init__.py" else name.rpartition(".")[0])
    except (SyntaxError, ValueError) as error:
        raise ComponentError(f"{path} cannot be read as Python: {error}") from error


@functools.lru_cache(maxsize=1024)
def _parse(content: bytes, package: str) -> _Module:
    """What a source says; `package` is where its relative imports begin."""
    collecting = gc.isenabled()
    gc.disable()  # a tree makes no garbage, and looking for it takes most of the time
    try:
        texts: list[str] = []
        imports: set[str] = set()
        _walk(ast.parse(content), package, texts, imports)
        return _Module(_digest("\n".join(texts).encode("utf-8", "surrogatepass")), frozenset(imports))
    finally:
        if collecting:
            gc.enable()


def _walk(node: ast.AST, package: str, texts: list[str], imports: set[str]) -> None:
    """Collect what a tree consists of and what it imports."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)):
        imports.update(_imported(node, package))
    texts.append(node.__class__.__name__)
    for field in node._fields:
        value = getattr(node, field, None)
        if value is None or value == []:
            continue
        texts.append(field)
        if isinstance(value, list):
            parts = value[1:] if field == "body" and _is_docstring(node, value[0]) else value
            for part in parts:
                if not isinstance(part, ast.AST):
                    texts.append(repr(part))
                elif not _is_for_types(part):
                    _walk(part, package, texts, imports)
            texts.append("end")
        elif isinstance(value, ast.AST):
            _walk(value, package, texts, imports)
        else:
            texts.append(repr(value))


def _is_docstring(node: ast.AST, first: object) -> bool:
    owns = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    return owns and _is_text(first)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_for_types(node: ast.AST) -> bool:
    """Whether a statement is read by type checkers alone."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """Names that one node imports: modules, and for `from a import b` also a.b, which may be one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0]
        if called in ("import_module", "__import__") and isinstance(first, ast.Constant) and first.value:
            yield str(first.value)
