"""Partners: clips that are drawn beside each clip of a batch, such as the same motion of another body.

    DataLoader(datasets, transform, partners={"other": Partner(other=("motion", "body")),
                                              "cross": Partner(same=("motion", ("body", "other")))})

Here "other" is a clip of another motion and of another body, and "cross" is the clip's own motion on the body of
"other". A sample transform finds the partners of a clip in `sequence.partners`. Which clips they are is a pure function
of the seed, the epoch and the position in the epoch, as everything that the loader draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dataengine.core.errors import TrainingError, suggestion
from training.data.types import Numbers, SkeletonDataset

Condition: TypeAlias = "str | tuple[str, str]"
"""A column, compared with that of the clip itself; or a column and the name of an earlier partner to compare with."""
TRIES = 16
"""Draws from all clips of a group before the clips that fulfil the other conditions are searched for."""


@dataclass(frozen=True)
class Partner:
    """Which clip is drawn beside a clip: any that fulfils all conditions, each equally often; never the clip itself.

    Attributes:
        same: columns in which it agrees. A clip without a value agrees with none.
        other: columns in which it differs.
        required: whether every clip must have such a partner; otherwise a clip may be without.
    """

    same: tuple[Condition, ...] = ()
    other: tuple[Condition, ...] = ()
    required: bool = True

    def text(self) -> str:
        """The conditions in words, for messages."""
        parts = [f"the same {_words(one)}" for one in self.same] + [f"another {_words(one)}" for one in self.other]
        return f"a clip of {' and '.join(parts)}" if parts else "a second clip"


def _words(condition: Condition) -> str:
    return condition if isinstance(condition, str) else f"{condition[0]} as its {condition[1]!r}"


def _column(condition: Condition) -> str:
    return condition if isinstance(condition, str) else condition[0]


class PartnerDraw:
    """Draws the partners of clips by rules.

    Args:
        datasets: all clips.
        rules: by name; a rule may compare with partners of earlier ones.

    Attributes:
        names: of the partners.
        groups: by name of a rule (N,) int64, a number that clips share which agree in all columns that the rule
            compares with the clip itself; a number of its own for a clip without a value, and for all clips of rules
            that compare no column so.

    Raises:
        TrainingError: a dataset has no such column, or a rule compares with an unknown partner.
    """

    def __init__(self, datasets: Sequence[SkeletonDataset], rules: Mapping[str, Partner]) -> None:
        self.names = tuple(rules)
        self._rules = dict(rules)
        self._keys = [key for dataset in datasets for key in dataset.keys]
        self._check(datasets)
        columns = {_column(one) for rule in rules.values() for one in (*rule.same, *rule.other)}
        self._codes = {name: _coded(name, datasets) for name in sorted(columns)}
        self._order: dict[str, Numbers] = {}
        self._starts: dict[str, Numbers] = {}
        self._group: dict[str, Numbers] = {}
        self._known: dict[str, dict[tuple[int, ...], int]] = {}
        self.groups: dict[str, Numbers] = {}
        for name, rule in rules.items():
            self._sort(name, [_column(one) for one in rule.same])
            own = [_column(one) for one in rule.same if isinstance(one, str)]
            count = len(self._keys)
            numbers = self._numbers(own)[0] if own else np.arange(count)
            self.groups[name] = np.where(numbers < 0, count + np.arange(count), numbers)

    def _check(self, datasets: Sequence[SkeletonDataset]) -> None:
        """Raises TrainingError, see the class."""
        for number, (name, rule) in enumerate(self._rules.items()):
            for one in (*rule.same, *rule.other):
                if not isinstance(one, str) and one[1] not in self.names[:number]:
                    raise TrainingError(
                        f"partner {name!r} is compared with {one[1]!r}, which is no earlier partner"
                        f"{suggestion(one[1], self.names[:number])}"
                    )
                for dataset in datasets:
                    if _column(one) not in dataset.columns:
                        raise TrainingError(
                            f"{dataset.name}: partner {name!r} is {rule.text()}, and its clips have no "
                            f"{_column(one)!r}{suggestion(_column(one), dataset.columns)}; give a value a clip, for "
                            f"example as the array {_column(one)!r} of an npz file"
                        )

    def _numbers(self, columns: Sequence[str]) -> tuple[Numbers, dict[tuple[int, ...], int]]:
        """(N,) number of the tuple of values of each clip, -1 where one has no value; and the numbers by tuple."""
        table = np.stack([self._codes[column] for column in columns], 1)
        unique, inverse = np.unique(table, axis=0, return_inverse=True)
        numbers = inverse.reshape(-1).astype(np.int64)
        numbers[(table < 0).any(1)] = -1
        return numbers, {tuple(row): number for number, row in enumerate(unique.tolist()) if min(row) >= 0}

    def _sort(self, name: str, columns: Sequence[str]) -> None:
        """Clips by group of the columns in which the partner agrees."""
        if not columns:
            self._order[name], self._starts[name] = np.arange(len(self._keys)), np.array([0, len(self._keys)])
            self._known[name] = {(): 0}
            return
        numbers, self._known[name] = self._numbers(columns)
        self._order[name] = np.argsort(numbers, kind="stable")
        count = max(int(numbers.max(initial=-1)) + 1, len(self._known[name]))
        self._starts[name] = np.searchsorted(numbers[self._order[name]], np.arange(count + 1))

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, int]:
        """The partners of a clip by name, numbers of clips; -1 where there is none and none is required.

        Raises:
            TrainingError: a clip without a required partner.
        """
        drawn: dict[str, int] = {}
        for name, rule in self._rules.items():
            drawn[name] = self._one(name, rule, index, drawn, rng)
            if drawn[name] < 0 and rule.required:
                raise TrainingError(
                    f"clip {self._keys[index]!r} has no partner {name!r}: there is not {rule.text()}; leave such clips "
                    "out with data.where, or give the others, too"
                )
        return drawn

    def _one(self, name: str, rule: Partner, index: int, drawn: Mapping[str, int], rng: np.random.Generator) -> int:
        def value(condition: Condition) -> int:
            reference = index if isinstance(condition, str) else drawn[condition[1]]
            return -1 if reference < 0 else int(self._codes[_column(condition)][reference])

        number = self._known[name].get(tuple(value(one) for one in rule.same), -1)
        if number < 0:
            return -1
        first, last = self._starts[name][number : number + 2].tolist()
        members = self._order[name][first:last]
        differing = [(self._codes[_column(one)], value(one)) for one in rule.other]

        def allowed(clips: Any) -> Any:
            fits = clips != index
            for codes, unlike in differing:
                fits = fits & (codes[clips] != unlike) & (codes[clips] >= 0) & (unlike >= 0)
            return fits

        for _ in range(TRIES if len(members) > TRIES else 0):
            clip = int(members[int(rng.random() * len(members))])
            if allowed(np.int64(clip)):
                return clip
        rest = members[allowed(members)]
        return int(rest[int(rng.random() * len(rest))]) if len(rest) else -1


def _coded(name: str, datasets: Sequence[SkeletonDataset]) -> Numbers:
    """(N,) int64, equal where the values of a column are equal as texts, over all datasets; -1 where there is none."""
    values = [value for dataset in datasets for value in dataset.columns[name]]
    known = np.array([value is not None and value == value for value in values], bool)
    codes = np.full(len(values), -1, np.int64)
    if known.any():
        codes[known] = np.unique([str(value) for value in values if value is not None and value == value],
                                 return_inverse=True)[1]  # fmt: skip
    return codes
