"""Writes the README's table of figures from the committed results: the newest of each name."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def table() -> str:
    newest: dict[str, tuple[str, dict[str, object]]] = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        date = path.stem.rsplit("_", 1)[-1]
        if date >= newest.get(result["name"], ("",))[0]:
            newest[result["name"]] = (date, result)
    lines = ["| benchmark | value | unit | goal | holds | machine | date |", "|---|---|---|---|---|---|---|"]
    for name, (date, r) in sorted(newest.items()):
        lines.append(
            f"| [{name}](benchmarks/{name}.py) | {shown(r['value'])} | {r['unit']} | {shown(r['goal'])} | {'yes' if r['holds'] else 'no'} "
            f"| {r['hardware']} | {date} |"
        )
    return "\n".join(lines)


def shown(value: object) -> str:
    """A cell: numbers to four digits, several by name."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {shown(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(text: str) -> str:
    """The README with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(write(path.read_text()))
