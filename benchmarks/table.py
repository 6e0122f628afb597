"""Writes docs/benchmarks.md's table of figures from the committed results: the newest of each name.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def newest() -> dict[str, tuple[str, dict[str, object]]]:
    """Date and result of the newest run of each benchmark, by name."""
    found: dict[str, tuple[str, dict[str, object]]] = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        date = path.stem.rsplit("_", 1)[-1]
        if date >= found.get(result["name"], ("",))[0]:
            found[result["name"]] = (date, result)
    return dict(sorted(found.items()))


def table() -> str:
    """One row per benchmark."""
    lines = ["| benchmark | value | unit | goal | reached | machine | date |", "|---|---|---|---|---|---|---|"]
    for name, (date, result) in newest().items():
        reached = "yes" if result["holds"] else "**no**"
        cells = (shown(result["value"]), result["unit"], shown(result["goal"]), reached, result["hardware"], date)
        lines.append(f"| `{name}` | {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def shown(value: object) -> str:
    """A cell: numbers to four digits, several by name."""
    if value is None:
        return "none set"
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')}: {shown(each)}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(write(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
