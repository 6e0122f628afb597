"""Writes tables of figures from the committed results, the newest of each name: docs/benchmarks.md, and those of the
pages of lifting, of training and of learning.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
LIFT = ROOT / "docs" / "explanation" / "lift.md"
TRAIN = ROOT / "docs" / "how-to" / "train.md"
README = ROOT / "README.md"
LEARN = ROOT / "docs" / "explanation" / "learning.md"


def newest() -> dict[str, tuple[str, dict[str, Any]]]:
    """Date and result of the newest run of each benchmark, by name."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
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
        reached = ("yes" if result["holds"] else "**no**") + (", quick run" if result.get("quick") else "")
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


def write(text: str, made: str | None = None) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table() if made is None else made}\n{END}{after}"


def lifting(result: dict[str, Any]) -> str:
    """The two tables of the page of lifting."""
    rows = ["| millimetres | MPJPE | P-MPJPE | N-MPJPE | velocity |", "|---|---|---|---|---|"]
    for name, row in sorted(result["details"]["hdm05"].items(), key=lambda item: item[1]["mpjpe"]["mean"]):
        rows.append(
            f"| {name} | {' | '.join(_interval(row[key]) for key in ('mpjpe', 'p_mpjpe', 'n_mpjpe', 'velocity'))} |"
        )
    real = result["details"]["four_cameras"]
    kinds = ("", ", rigid fit", ", fit with scale")
    names = [name for name in real if not name.endswith(kinds[1:])]
    rows += [
        "",
        "| millimetres from the triangulated joints | root at the hips | rigid fit | fit with scale |",
        "|---|---|---|---|",
    ]
    rows += [f"| {name} | {' | '.join(_interval(real[name + kind]) for kind in kinds)} |" for name in names]
    return "\n".join(rows)


def public_sets(result: dict[str, Any]) -> str:
    """The table of the page of training: the default small recipe on sets that nothing was tuned on."""
    rows = [
        "| set | `unik_small`, top-1 | seeds | nearest neighbour | ridge | random network |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in sorted(result["data"].items()):
        found = result["details"][name]
        floors = " | ".join(
            f"{found['floors'][floor]:.1f}" for floor in ("nearest neighbour", "ridge", "random network")
        )
        short, seeds = title.split(";")[0].split(" (")[0], len(found["top-1"]["each"])
        rows.append(f"| {short} | {_interval(found['top-1'], 1)} | {seeds} | {floors} |")
    return "\n".join(rows)


def all_methods(result: dict[str, Any]) -> str:
    """The table of all methods, of the page on learning."""
    protocol = result["details"]["protocol"]
    told = (
        f"{protocol['steps']} steps of {protocol['batch']} clips each, then {protocol['tuning']} of fine-tuning; "
        f"seeds: {result['details']['seeds']}. Floors of the linear probe: "
    )
    floors = ", ".join(f"{name} {value:.1f}" for name, value in result["baselines"].items())
    return "\n".join([*result["details"]["table"], "", told + floors + "."])


def all_methods_short(result: dict[str, Any]) -> str:
    """The table of all methods, of the first page: figures alone."""
    kinds, text = ("linear", "few", "fine-tuned"), "11-way, motion to text, top-1"
    lines = [
        "| method | linear probe | of 10 % of labels | fine-tuned with 10 % | found by text |",
        "|---|---|---|---|---|",
    ]
    rows = {name: row["figures"] for name, row in result["spread"].items() if row["figures"]}
    for name in sorted(rows, key=lambda name: -rows[name].get("linear", {"mean": -1.0})["mean"]):
        cells = [f"{rows[name][kind]['mean']:.1f}" if kind in rows[name] else "-" for kind in (*kinds, text)]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(figure: dict[str, Any], digits: int = 0) -> str:
    ends = f" ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})" if "low" in figure else ""
    return f"{figure['mean']:.{digits}f}{ends}"


OF_RESULTS: tuple[tuple[str, Callable[[dict[str, Any]], str], Path], ...] = (
    ("lift", lifting, LIFT),
    ("public_sets", public_sets, TRAIN),
    ("all_methods", all_methods, LEARN),
    ("all_methods", all_methods_short, README),
)
"""Name of a benchmark, what makes a table of its result, and the page that it stands on."""


def pages() -> dict[Path, str]:
    """Every page with its table made anew."""
    found = {PAGE: write(PAGE.read_text(encoding="utf-8"))}
    results = newest()
    for name, made, page in OF_RESULTS:
        if name in results:
            found[page] = write(page.read_text(encoding="utf-8"), made(results[name][1]))
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
