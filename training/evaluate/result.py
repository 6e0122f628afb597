"""One measured value with its interval, baselines and details, as strict JSON and as a line of text."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.core.markdown import cell
from dataengine.io.storage import write_durably
from training.evaluate.confidence_intervals import Interval, over_seeds

SPREAD = "baseline spread"
"""Key of `details`: the standard deviation of each baseline that is a mean, by name."""


@dataclass(frozen=True)
class Result:
    """A measured value of one metric.

    Attributes:
        name: of what was evaluated, such as "linear probe".
        metric: such as "top-1".
        value: in [0, 1] where `unit` is "%", and shown times 100.
        per_seed: one value per seed, where there are several.
        interval: confidence interval of the value, or None.
        baselines: values to compare with, by name: chance, a random network, a nearest neighbour on coordinates.
        details: everything else that can be written as JSON: other metrics, options, counts.
        unit: "%", or the unit of the value.
    """

    name: str
    metric: str
    value: float
    per_seed: tuple[float, ...] = ()
    interval: Interval | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "%"

    def __post_init__(self) -> None:
        wrong = {
            name: float(v) for name, v in {self.metric: self.value, **self.baselines}.items() if not math.isfinite(v)
        }
        if wrong:
            raise TrainingError(f"{self.name}: a result needs finite values; given {wrong}")

    def with_baselines(self, **baselines: float) -> Result:
        """A copy with further baselines; underscores in their names become spaces."""
        named = {name.replace("_", " "): float(value) for name, value in baselines.items()}
        return dataclasses.replace(self, baselines={**self.baselines, **named})

    def as_dict(self) -> dict[str, Any]:
        """Plain values only: numbers that are not finite in `details` become None, arrays lists."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The JSON text, without NaN. With a path, the text is also written there atomically."""
        text = json.dumps(self.as_dict(), allow_nan=False, ensure_ascii=False, indent=1) + "\n"
        if path is not None:
            write_durably(Path(path), text.encode())
        return text

    @staticmethod
    def from_json(dataset: str | os.PathLike[str]) -> Result:
        """A result from a file that `to_json` wrote.

        Raises:
            TrainingError: the file is absent, or holds no result.
        """
        try:
            return Result.of_dict(json.loads(Path(dataset).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{os.fspath(dataset)}: no result can be read: {error}") from error

    @staticmethod
    def of_dict(values: Mapping[str, Any]) -> Result:
        """A result from the output of `as_dict`.

        Raises:
            ValueError: the values are no result.
        """
        try:
            interval = None if values["interval"] is None else Interval(**values["interval"])
            return Result(**{**values, "per_seed": tuple(values["per_seed"]), "interval": interval})
        except (TypeError, KeyError, TrainingError) as error:
            raise ValueError(f"no result: {error!r}") from error

    def cells(self) -> tuple[str, str, str]:
        """Value, interval and baselines as cells of a table."""
        interval, span = self.interval, "-"
        if interval is not None and interval.low is not None and interval.high is not None:
            low, high = self._shown_bounds(interval.low, interval.high)
            span = f"{low} to {high} ({interval.method}, n {interval.n})"
        return f"{self._shown(self.value)} {self.unit}", span, self._baselines() or "-"

    def __str__(self) -> str:
        """Such as `linear probe  top-1 95.5 %  [94.9, 96.1] t over seeds, n 5  |  chance 8.0, random network 89.3`."""
        parts = [f"{self.name}  {self.metric} {self._shown(self.value)}{' %' if self.unit == '%' else ' ' + self.unit}"]
        if self.interval is not None and self.interval.low is not None and self.interval.high is not None:
            low, high = self._shown_bounds(self.interval.low, self.interval.high)
            parts.append(f"[{low}, {high}] {self.interval.level * 100:g} % {self.interval.method}, n {self.interval.n}")
        elif self.interval is not None:
            parts.append(self.interval.method)
        line = "  ".join(parts)
        if not self.baselines:
            return line
        return f"{line}  |  {self._baselines()}"

    def _baselines(self) -> str:
        """Such as `chance 8.0, random network 89.3 ± 1.2`: where there are several values, with their deviation."""
        spread = self.details.get(SPREAD, {})
        shown = [
            f"{name} {self._shown(value)}" + (f" ± {self._shown(spread[name])}" if name in spread else "")
            for name, value in self.baselines.items()
        ]
        return ", ".join(shown)

    def _shown_bounds(self, low: float, high: float) -> tuple[str, str]:
        """An interval as text; that of a share is shown within 0 and 100 %, whatever few seeds allow."""
        if self.unit == "%" and 0 <= self.value <= 1:
            low, high = max(low, 0.0), min(high, 1.0)
        return self._shown(low), self._shown(high)

    def _shown(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.unit == "%" else f"{value:.3g}"


def of_seeds(name: str, metric: str, values: Iterable[float], level: float = 0.95, **more: Any) -> Result:
    """A result of one value per seed: the mean, and Student's t interval."""
    per_seed = tuple(float(value) for value in values)
    interval = over_seeds(per_seed, level)
    return Result(name, metric, interval.mean, per_seed, interval, **more)


def table(results: Iterable[Result]) -> str:
    """Results as a Markdown table, one per row."""
    lines = ["| evaluation | metric | value | interval | baselines |", "|---|---|---|---|---|"]
    for result in results:
        lines.append(f"| {cell(result.name)} | {result.metric} | {' | '.join(result.cells())} |")
    return "\n".join(lines) + "\n"


WORST = 20
"""Classes that a table names; of more, those with the lowest accuracy."""


def class_table(results: Iterable[Result]) -> str:
    """Accuracy by class of the first result that holds it, the lowest first, as a Markdown table; "" without one."""
    result = next((result for result in results if result.details.get("per class")), None)
    if result is None:
        return ""
    classes = sorted(result.details["per class"].items(), key=lambda item: (item[1]["accuracy"], item[0]))
    lines = [f"| {cell(result.name)}, class | clips | right | mostly taken for |", "|---|---|---|---|"]
    for name, found in classes[:WORST]:
        other = "-" if found["taken for"] is None else cell(found["taken for"])
        lines.append(f"| {cell(name)} | {found['clips']} | {100 * found['accuracy']:.1f} % | {other} |")
    if len(classes) > WORST:
        lines.append(f"| {len(classes) - WORST} more, of higher accuracy: see --json | | | |")
    return "\n".join(lines) + "\n"


def plain(value: Any) -> Any:
    """A value as JSON allows it: numpy values as those of Python, numbers that are not finite as None, keys as strings.

    Raises:
        TrainingError: a value of another kind.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    raise TrainingError(f"a result holds numbers, texts, lists and tables; given {type(value).__name__}")
