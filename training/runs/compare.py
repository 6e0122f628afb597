"""Runs side by side: every figure that a folder of runs holds, those of one evaluation on one side under each other,
the best first.

    lines = compare("runs")
    print(to_table(lines))

A run's figures are what it left beside its network: summary.json of training, and the JSON of every verb that measured
it, that is every JSON file with `results`.
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
from training.evaluate.result import Result, plain


@dataclass(frozen=True)
class Line:
    """One figure of one run.

    Attributes:
        run: its folder.
        method, network: their names; `start` is the run or file that the network's weights came from, or "".
        trained_on: names of the datasets.
        measured_on: the clips behind the figure, see `training.runs.splits.facts`; only figures with one fingerprint
            can be compared.
        result: the figure; None for a run that has none yet.
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
        found: dict[str, Any] = plain(dataclasses.asdict(self))
        return found


def compare(under: str | os.PathLike[str]) -> list[Line]:
    """Figures of all runs in a folder, at any depth; runs without any come last.

    What cannot be read is named by a warning and left out.

    Raises:
        TrainingError: there is no run.
    """
    places = sorted(path.parent for path in Path(under).glob("**/run.toml"))
    if not places:
        raise TrainingError(
            f"{os.fspath(under)} holds no run; give the folder that the --out of `dataengine-train pretrain` lies in"
        )
    found = [line for place in places for line in _lines(place)]
    return sorted(found, key=_order)


def to_table(lines: Sequence[Line]) -> str:
    """Markdown, one line a figure; a heading for each evaluation on the same clips."""
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
    return f"| {' | '.join([line.run, method, line.network, ', '.join(line.trained_on), *figure])} |"


def _order(line: Line) -> tuple[Any, ...]:
    result = line.result
    if result is None:
        return (True, "", "", "", 0.0, line.run)
    return (False, result.name, result.metric, line.measured_on["fingerprint"], -result.value, line.run)


def _lines(place: Path) -> Iterator[Line]:
    try:
        tables = tomllib.loads((place / "run.toml").read_text(encoding="utf-8"))
        method, network, start = (
            str(tables["method"]["name"]),
            str(tables["backbone"]["name"]),
            str(tables["run"].get("start") or ""),
        )
        facts = (str(place), method, network, start, tuple(Path(name).name for name in tables["data"]["train"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{place / 'run.toml'} is no configuration of a run and was left out: {error!r}", stacklevel=2)
        return
    empty = True
    for path in sorted(place.glob("*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(told, dict) or "results" not in told:
                continue
            results = [Result.of_dict(given) for given in told["results"]]
            side = {name: told["measured_on"][name] for name in ("names", "clips", "fingerprint")} if results else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} holds no results and was left out: {error!r}", stacklevel=2)
            continue
        for result in results:
            empty = False
            yield Line(*facts, side, result)
    if empty:
        yield Line(*facts, {}, None)
