"""Boosted trees as plain arrays: fitted with scikit-learn, evaluated by a compiled loop without scikit-learn or
pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dataengine.core.errors import WeightsError
from dataengine.core.jit import compiled
from dataengine.core.types import Bool, Float, Int


@dataclass(frozen=True)
class BoostedTrees:
    """A sum of regression trees.

    A node sends a row to the left child where the value of `feature` is at most `threshold`, or is NaN and `lost` is
    set. Other rows go to the right child. A leaf has feature -1 and adds its `value`.

    Attributes:
        feature: (N,) int32, the value of a row that a node compares.
        threshold: (N,) float64.
        left, right: (N,) int32, indices of later nodes.
        lost: (N,) bool, whether NaN goes left.
        value: (N,) float64, 0 except in leaves.
        roots: (K,) int32, first node of every tree.
        begin: () float64, the sum before any tree.
        width: () int64, number of values per row.
    """

    feature: Int
    threshold: Float
    left: Int
    right: Int
    lost: Bool
    value: Float
    roots: Int
    begin: Float
    width: Int

    @classmethod
    def from_sklearn(cls, model: Any) -> BoostedTrees:
        """The trees of a fitted HistGradientBoostingRegressor, or of a HistGradientBoostingClassifier of two classes.

        Trees with categories are not supported. The attributes `_predictors` and `_baseline_prediction` of scikit-learn
        (1.6 to 1.9) hold the trees.
        """
        trees = [predictor.nodes for (predictor,) in model._predictors]
        sizes = np.array([len(nodes) for nodes in trees], np.int32)
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        nodes = np.concatenate(trees)
        first = np.repeat(roots, sizes)
        leaf = nodes["is_leaf"].astype(bool)
        return cls(
            feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int32),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
            left=np.where(leaf, 0, nodes["left"] + first).astype(np.int32),
            right=np.where(leaf, 0, nodes["right"] + first).astype(np.int32),
            lost=nodes["missing_go_to_left"].astype(bool) & ~leaf,
            value=np.where(leaf, nodes["value"], 0.0),
            roots=roots,
            begin=np.array(np.ravel(model._baseline_prediction)[0], np.float64),
            width=np.array(model.n_features_in_, np.int64),
        )

    def __call__(self, rows: Float) -> Float:
        """(N, width) -> (N,) float64 sums: predictions of a regressor, log-odds of a classifier."""
        out: Float = np.full(len(rows), self.begin)
        _sum(
            np.ascontiguousarray(rows, np.float64),
            self.feature,
            self.threshold,
            self.left,
            self.right,
            self.lost,
            self.value,
            self.roots,
            out,
        )
        return out

    def arrays(self, prefix: str) -> dict[str, Any]:
        """The arrays by name, each name with `prefix` and a dot before it."""
        return {f"{prefix}.{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def read(cls, arrays: Mapping[str, Any], prefix: str) -> BoostedTrees:
        """The reverse of `arrays`.

        Raises:
            WeightsError: an array is missing or of another type, or a child or a feature does not exist.
        """
        try:
            trees = cls(**{f.name: arrays[f"{prefix}.{f.name}"] for f in fields(cls)})
        except KeyError as error:
            raise WeightsError(f"trees {prefix!r} lack the array {error}") from error
        trees._check(prefix)
        return trees

    def _check(self, prefix: str) -> None:
        kinds = {
            "feature": "i4", "threshold": "f8", "left": "i4", "right": "i4", "lost": "b1", "value": "f8",
            "roots": "i4", "begin": "f8", "width": "i8",
        }  # fmt: skip
        nodes = len(self.feature) if self.feature.ndim else 0
        for name, kind in kinds.items():
            array = getattr(self, name)
            shape = () if name in ("begin", "width") else array.shape if name == "roots" else (nodes,)
            if array.dtype != np.dtype(kind) or array.shape != shape:
                raise WeightsError(f"trees {prefix!r}: array {name} has type {array.dtype} and shape {array.shape}")
        inner, index = self.feature >= 0, np.arange(nodes)
        later = (self.left > index) & (self.left < nodes) & (self.right > index) & (self.right < nodes)
        if (
            not later[inner].all()
            or (self.feature >= self.width).any()
            or not ((self.roots >= 0) & (self.roots < nodes)).all()
        ):
            raise WeightsError(f"trees {prefix!r}: a node points to a node or a value that does not exist")


@compiled
def _sum(
    rows: Any, feature: Any, threshold: Any, left: Any, right: Any, lost: Any, value: Any, roots: Any, out: Any
) -> None:
    for first in range(0, len(rows), 64):  # a tree stays in the cache for a block of rows
        for root in roots:
            for n in range(first, min(first + 64, len(rows))):
                node = root
                while feature[node] >= 0:
                    x = rows[n, feature[node]]
                    node = left[node] if (x <= threshold[node] or (x != x and lost[node])) else right[node]
                out[n] += value[node]
