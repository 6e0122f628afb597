"""infonce.npz: contrastive losses, queue and momentum as plain loops over float64 numbers.

    python -m tests.golden.make_losses [--write]

q, k (6, 16) and the rows of the queue (40, 16) have unit length and were drawn once; the rest is computed from them.
`positive` (6, 40) marks rows of the queue that are positives besides the own key.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.golden.stored import Arrays, main


def log_sum(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def infonce(row: list[float], positive: list[bool]) -> float:
    """Own key against everything."""
    return log_sum(row) - row[0]


def sum_inside_log(row: list[float], positive: list[bool]) -> float:
    return log_sum(row) - log_sum([s for s, p in zip(row, positive) if p])


def mean_of_terms(row: list[float], positive: list[bool]) -> float:
    terms = [log_sum(row) - s for s, p in zip(row, positive) if p]
    return sum(terms) / len(terms)


def negatives_only(row: list[float], positive: list[bool]) -> float:
    """Each positive against itself and the true negatives."""
    negative = [s for s, p in zip(row, positive) if not p]
    terms = [log_sum([s, *negative]) - s for s, p in zip(row, positive) if p]
    return sum(terms) / len(terms)


def each(loss: Callable[..., float], a: Arrays, q: np.ndarray, temperature: float, alone: bool = False) -> np.ndarray:
    values = []
    for i in range(len(q)):
        row = [float(q[i] @ key) / temperature for key in (a["k"][i], *a["queue"])]
        positive = [True, *(not alone and bool(p) for p in a["positive"][i])]
        values.append(loss(row, positive))
    return np.array(values)


def gradient(loss: Callable[..., float], a: Arrays, temperature: float) -> np.ndarray:
    """d mean(loss) / d q: the share that softmax gives each similarity less the share it ought to have."""
    out = np.zeros_like(a["q"])
    for i in range(len(out)):
        keys = [a["k"][i], *a["queue"]]
        row = np.array([a["q"][i] @ key for key in keys]) / temperature
        positive = [True, *a["positive"][i]]
        own = [True] + [False] * len(a["queue"])
        chosen = own if loss is infonce else positive
        share = np.exp(row - log_sum(list(row)))
        weight = np.array(chosen, float)
        weight *= (
            np.exp(row - log_sum([s for s, p in zip(row, chosen) if p])) if loss is sum_inside_log else 1 / weight.sum()
        )
        out[i] = (share - weight) @ np.array(keys) / temperature / len(out)
    return out


def pairs(own: np.ndarray, others: np.ndarray, temperature: float) -> float:
    """Row i of one against all rows of the other; row i is right."""
    rows = [[float(x @ y) / temperature for y in others] for x in own]
    return sum(log_sum(row) - row[i] for i, row in enumerate(rows)) / len(rows)


def two_view(a: Arrays, temperature: float) -> float:
    """All 2 N rows, each against the others; its other view is right."""
    rows, total = [*a["q"], *a["k"]], 0.0
    for i, x in enumerate(rows):
        scores = [float(x @ y) / temperature for y in rows]
        total += log_sum([s for j, s in enumerate(scores) if j != i]) - scores[(i + len(rows) // 2) % len(rows)]
    return total / len(rows)


def make(a: Arrays) -> Arrays:
    out = {}
    forms = {
        "infonce": infonce, "multi_sum_inside_log": sum_inside_log, "multi_mean_ce": mean_of_terms,
        "multi_mean_ce_negatives_only": negatives_only,
    }  # fmt: skip
    for temperature in (0.07, 0.2):
        for name, loss in forms.items():
            values = each(loss, a, a["q"], temperature, alone=loss is infonce)
            out[f"{name}_T{temperature}"] = values.mean()
            if loss is not negatives_only:
                out[f"{name}_each_T{temperature}"] = values
                out[f"{name}_grad_q_T{temperature}"] = gradient(loss, a, temperature)
        rows, columns = pairs(a["q"], a["k"], temperature), pairs(a["k"], a["q"], temperature)
        out |= {f"clip_rows_T{temperature}": rows, f"clip_columns_T{temperature}": columns}
        out |= {
            f"clip_symmetric_T{temperature}": (rows + columns) / 2,
            f"two_view_T{temperature}": two_view(a, temperature),
        }
    ring, at, states, pointers = a["ring_start"].copy(), 0, [], []
    for batch in a["ring_keys"]:
        for row in batch:
            ring[at], at = row, (at + 1) % len(ring)
        states.append(ring.copy())
        pointers.append(at)
    target, moved = a["momentum_start"], []
    for step in range(3):
        target = 0.999 * target + 0.001 * a["momentum_online"] * (step + 1)
        moved.append(target)
    return out | {"ring_states": states, "ring_pointers": pointers, "momentum_states": moved}


MAKERS = {"infonce": make}

if __name__ == "__main__":
    main(MAKERS)
