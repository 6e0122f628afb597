"""Compare runs: every figure in a folder of runs by evaluation and clips measured on, the best first.

    lines = compare("runs")
    print(to_table(lines))

The figures of a run are in its folder: summary.json of training, and the JSON of every evaluation, that is every JSON
file with `results` there and in its folder `measured`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.core.errors import TrainingError
from dataengine.core.markdown import cell
from training.evaluate.result import Result, plain


@dataclass(frozen=True)
class Line:
    """One figure of one run.

    Attributes:
        run: the folder of the run.
        method, network: names; `start` is the run or file that the network's weights came from, or "".
        trained_on: names of the datasets.
        measured_on: the clips behind the figure, see `training.runs.splits.facts`; only figures with one fingerprint
            can be compared.
        result: the figure; None for a run without any.
    """

    run: str
    method: str
    network: str
    start: str
    trained_on: tuple[str, ...]
    measured_on: Mapping[str, Any]
    result: Result | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values


def compare(under: str | os.PathLike[str]) -> list[Line]:
    """Figures of all runs in a folder, at any depth; runs without any come last.

    A file that cannot be read is left out with a warning.

    Raises:
        TrainingError: there is no run.
    """
    folders = sorted(path.parent for path in Path(under).glob("**/run.toml"))
    if not folders:
        raise TrainingError(
            f"{os.fspath(under)} holds no run; give the folder that the --out of `dataengine-train pretrain` lies in"
        )
    return sorted((line for folder in folders for line in _lines(folder)), key=_order)


def to_table(lines: Sequence[Line]) -> str:
    """Markdown: one line per figure, one heading per evaluation on the same clips."""
    head = ("| run | method | network | trained on | value | interval | baselines |", "|---|---|---|---|---|---|---|")
    shown: list[str] = []
    for _, same in itertools.groupby(lines, lambda line: _order(line)[:4]):
        group = list(same)
        shown += ["", _title(group[0]), "", *head] if shown else [_title(group[0]), "", *head]
        shown += [_row(line) for line in group]
    return "\n".join(shown) + "\n"


def _title(line: Line) -> str:
    if line.result is None:
        return "nothing measured yet"
    on = line.measured_on
    clips = f"{on['clips']:,} clips of {', '.join(on['names'])} ({on['fingerprint'][:8]})"
    return f"{line.result.name}, {line.result.metric}, {clips}"


def _row(line: Line) -> str:
    method = f"{line.method}, from {Path(line.start).name}" if line.start else line.method
    figure = ("-", "-", "-") if line.result is None else line.result.cells()
    facts = map(cell, (line.run, method, line.network, ", ".join(line.trained_on)))
    return f"| {' | '.join([*facts, *figure])} |"


def _order(line: Line) -> tuple[Any, ...]:
    result = line.result
    if result is None:
        return (True, "", "", "", 0.0, line.run)
    return (False, result.name, result.metric, line.measured_on["fingerprint"], -result.value, line.run)


def _lines(folder: Path) -> Iterator[Line]:
    try:
        tables = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
        method, network, start = (
            str(tables["method"]["name"]),
            str(tables["backbone"]["name"]),
            str(tables["run"].get("start") or ""),
        )
        facts = (str(folder), method, network, start, tuple(Path(name).name for name in tables["data"]["train"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{folder / 'run.toml'} is no configuration of a run and was left out: {error!r}", stacklevel=2)
        return
    shown: set[tuple[str, str, str, float]] = set()
    for path in [*sorted(folder.glob("*.json")), *sorted(folder.glob("measured/*/*.json"))]:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(report, dict) or "results" not in report:
                continue
            results = [Result.of_dict(row) for row in report["results"]]
            measured_on = (
                {name: report["measured_on"][name] for name in ("names", "clips", "fingerprint")} if results else {}
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} holds no results and was left out: {error!r}", stacklevel=2)
            continue
        for result in results:
            figure = (result.name, result.metric, str(measured_on["fingerprint"]), result.value)
            if figure not in shown:  # training and a probe measure the same classifier
                shown.add(figure)
                yield Line(*facts, measured_on, result)
    if not shown:
        yield Line(*facts, {}, None)
