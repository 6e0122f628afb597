"""What a class says about itself: its summary, and a description of each field or parameter.

Tables of settings carry a string below each field, or a pydantic description. Components list their options in a
section `Attributes:` or `Args:` of the docstring. All are read here, for the command `list` and for the reference of
the documentation.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from typing import Any

_SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Yields):\s*$")
_ENTRY = re.compile(r"^([A-Za-z_]\w*(?:\s*\(.*?\))?(?:,\s*[A-Za-z_]\w*)*):\s+(.*)$")


def summary(described: Any) -> str:
    """The first paragraph of the docstring of a class, function or module, as one line; '' without a docstring."""
    return " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split())


def details(described: Any) -> str:
    """The docstring between the first paragraph and the first section, as it is written."""
    lines = (inspect.getdoc(described) or "").splitlines()
    end = next((n for n, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    return "\n".join(lines[:end]).partition("\n\n")[2].strip()


def section(text: str, *names: str) -> dict[str, str]:
    """The entries of the named sections of a docstring: name -> description in one line."""
    found: dict[str, str] = {}
    inside, indent, keys = False, 0, list[str]()
    for line in inspect.cleandoc(text).splitlines():
        if match := _SECTION.match(line):
            inside, indent, keys = match[1] in names, 0, []
            continue
        if not inside or not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        indent = indent or depth
        if depth < indent:
            inside = False
        elif depth == indent and (match := _ENTRY.match(line.strip())):
            keys = [key.split("(")[0].strip() for key in match[1].split(",")]
            found.update(dict.fromkeys(keys, match[2].strip()))
        else:
            found.update({key: f"{found[key]} {line.strip()}".strip() for key in keys})
    return found


def descriptions(cls: type[Any]) -> dict[str, str]:
    """What each field or constructor parameter of a class means; base classes are read first."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith(("builtins", "typing", "pydantic", "torch")):
            continue
        found |= section(base.__dict__.get("__doc__") or "", "Attributes", "Args")
        constructor = base.__dict__.get("__init__")
        found |= section(getattr(constructor, "__doc__", None) or "", "Args")
        found |= _strings_below_fields(base)
    fields: dict[str, Any] = getattr(cls, "model_fields", {})
    return found | {name: field.description for name, field in fields.items() if field.description}


def _strings_below_fields(cls: type[Any]) -> dict[str, str]:
    """Descriptions that stand as a string below the field they describe."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for field, below in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            found[field.target.id] = " ".join(below.value.value.split())
    return found
