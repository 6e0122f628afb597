"""metric_*.npz: frame mAP by scikit-learn, event mAP, edit score and F1 at overlaps as plain loops.

    python -m tests.golden.make_metrics [--write]

Labels, scores and events were drawn once; the rest is computed from them.
"""

from __future__ import annotations

import itertools

import numpy as np

from tests.golden.stored import Arrays, main


def frame_map(a: Arrays) -> Arrays:
    """Average precision of each class over frames, as scikit-learn counts equal scores; no positive: NaN."""
    from sklearn.metrics import average_precision_score

    def of(score: np.ndarray, label: np.ndarray) -> np.ndarray:
        columns = zip(score.T, label.T)
        return np.array([average_precision_score(t, s) if t.any() else np.nan for s, t in columns])

    valid = a["valid"]
    found = {"": of(a["score"], a["label"]), "_ties": of(a["score_ties"], a["label"])}
    found["_valid"] = of(a["score"][valid], a["label"][valid])
    out = {f"ap{ending}": ap for ending, ap in found.items()}
    out |= {f"mean_ap{ending}": np.nanmean(ap) for ending, ap in found.items()}
    return out | {"ap_micro": average_precision_score(a["label"].ravel(), a["score"].ravel())}


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two spans (start, end)."""
    both = min(one[1], other[1]) - max(one[0], other[0])
    return max(both, 0.0) / ((one[1] - one[0]) + (other[1] - other[0]) - max(both, 0.0))


def event_ap(truth: np.ndarray, found: np.ndarray, least: float) -> tuple[float, float]:
    """Average precision of one class, interpolated and not; rows are video, class, start, end (, score)."""
    taken, hits = set(), []
    for row in found[np.argsort(-found[:, 4], kind="stable")]:
        free = [(overlap(row[2:4], t[2:4]), n) for n, t in enumerate(truth) if t[0] == row[0] and n not in taken]
        free = [(o, -n) for o, n in free if o >= least]
        hits.append(bool(free))
        if free:
            taken.add(-max(free)[1])
    right = np.cumsum(hits)
    precision, recall = right / np.arange(1, len(hits) + 1), right / len(truth)
    steps = np.diff(recall, prepend=0.0)
    falling = [max(precision[n:]) for n in range(len(precision))]
    return float(np.dot(steps, falling)), float(np.dot(steps, precision))


def event_map(a: Arrays) -> Arrays:
    classes = sorted({*a["truth"][:, 1]})
    each = np.array(
        [
            [
                event_ap(a["truth"][a["truth"][:, 1] == c], a["prediction"][a["prediction"][:, 1] == c], t)
                for c in classes
            ]
            for t in a["thresholds"]
        ]
    )
    ap = each[..., 0]
    return {"ap": ap, "ap_not_interpolated": each[..., 1], "mean_ap": ap.mean(1), "average": ap.mean()}


def segments(labels: np.ndarray, left_out: int | None) -> list[tuple[int, int, int]]:
    """Runs of one label: (label, first frame, one past the last)."""
    runs, at = [], 0
    for label, frames in itertools.groupby(labels.tolist()):
        size = len(list(frames))
        runs.append((label, at, at + size))
        at += size
    return [run for run in runs if run[0] != left_out]


def edit(found: list[int], truth: list[int]) -> float:
    """100 (1 - Levenshtein distance / longer list)."""
    row = list(range(len(truth) + 1))
    for i, x in enumerate(found, 1):
        above, row[0] = row[:], i
        for j, y in enumerate(truth, 1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
    return 100 * (1 - row[-1] / max(len(found), len(truth), 1))


def counts(found: list[tuple[int, int, int]], truth: list[tuple[int, int, int]], least: float) -> tuple[int, int, int]:
    """Right, wrong and missed segments: each takes the truth of its label that it overlaps most, if that is free."""
    taken, right = set(), 0
    for label, start, end in found:
        shares = [
            (min(end, e) - max(start, s)) / (max(end, e) - min(start, s)) if label == other else -1.0
            for other, s, e in truth
        ]
        best = int(np.argmax(shares)) if shares else -1
        if best >= 0 and shares[best] >= least and best not in taken:
            right += 1
            taken.add(best)
    return right, len(found) - right, len(truth) - right


def segment_metrics(a: Arrays) -> Arrays:
    out: Arrays = {"frame_accuracy": 100 * (a["prediction"] == a["truth"]).mean()}
    for ending, left_out in (("with_all", None), ("without_0", 0)):
        both = [(segments(p, left_out), segments(t, left_out)) for p, t in zip(a["prediction"], a["truth"])]
        edits = [edit([s[0] for s in p], [s[0] for s in t]) for p, t in both]
        table = np.array([[counts(p, t, least) for p, t in both] for least in a["overlaps"]])
        right, wrong, missed = table.sum(1).T
        out |= {f"edit_each_{ending}": edits, f"edit_{ending}": np.mean(edits), f"counts_tp_fp_fn_{ending}": table}
        out[f"f1_{ending}"] = 100 * 2 * right / (2 * right + wrong + missed)
    return out


MAKERS = {"metric_frame_map": frame_map, "metric_event_map": event_map, "metric_segments": segment_metrics}

if __name__ == "__main__":
    main(MAKERS)
