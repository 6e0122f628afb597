"""Collapse of a representation: spread, rank, alignment and uniformity of features, cheap enough for every log line.

Each function takes (N, D) features as a torch tensor on any device or as an array, and returns a Python float.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError

Features: TypeAlias = torch.Tensor | NDArray[np.floating]
MOST = 2048
"""Rows compared with each other for uniformity. Of more rows, this many evenly spaced ones are used."""


def _unit(features: Features) -> torch.Tensor:
    rows = torch.as_tensor(features).detach().float()
    if rows.ndim != 2 or len(rows) < 2:
        raise TrainingError(f"collapse needs at least two features, (clips, values); given {tuple(rows.shape)}")
    return torch.nn.functional.normalize(rows, dim=1)


def spread(features: Features) -> float:
    """Mean over dimensions of the standard deviation of unit features, times the root of D: 0 collapsed, 1 all over the
    sphere.

    Chen and He 2021 (SimSiam, section 4.1) print the same without the root.
    """
    rows = _unit(features)
    return float(rows.std(0, correction=0).mean()) * float(np.sqrt(rows.shape[1]))


def effective_rank(features: Features) -> float:
    """Exponential of the entropy of the normalised singular values of unit features, from 1 to D (Roy and Vetterli
    2007, definition 1)."""
    values = torch.linalg.svdvals(_unit(features).double())
    probabilities = values / values.sum().clamp_min(1e-30)
    return float(torch.exp(-(torch.special.xlogy(probabilities, probabilities)).sum()))


def uniformity(features: Features, t: float = 2.0) -> float:
    """Log of the mean of exp(-t |x - y|^2) over pairs of unit features (Wang and Isola 2020, section 4.1.2): lower is
    more even, 0 collapsed."""
    rows = _unit(features)
    if len(rows) > MOST:
        rows = rows[torch.linspace(0, len(rows) - 1, MOST, device=rows.device).long()]
    squares = (2 - 2 * (rows @ rows.T)).clamp_min(0)
    above = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    pairs = (-t * squares[above[0], above[1]]).double()
    return float(torch.logsumexp(pairs, 0)) - float(np.log(len(pairs)))


def alignment(first: Features, second: Features, alpha: float = 2.0) -> float:
    """Mean distance of the unit features of two views of the same clips, to the power alpha (Wang and Isola 2020,
    section 4.1.1): 0 is equal."""
    a, b = _unit(first), _unit(second)
    if a.shape != b.shape:
        raise TrainingError(f"two views of the same clips have one shape; given {tuple(a.shape)} and {tuple(b.shape)}")
    return float((a - b).norm(dim=1).pow(alpha).mean())


def statistics(features: Features, other: Features | None = None) -> dict[str, float]:
    """All statistics by name for a log. A second view of the same clips adds the alignment."""
    values = {
        "spread": spread(features),
        "effective_rank": effective_rank(features),
        "uniformity": uniformity(features),
    }
    return values if other is None else {**values, "alignment": alignment(features, other)}
