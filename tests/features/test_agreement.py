"""Agreement of labels with features: equal to the slow obvious loop; proposals are rows, labels stay as they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.core.errors import ComponentError
from dataengine.features.agreement import REVIEW_COLUMNS, agreement, cosines, review


def made_up(seed=0, clips=40, classes=7, dim=12, unlabelled=5):
    rng = np.random.default_rng(seed)
    video, text = rng.normal(size=(clips, dim)), rng.normal(size=(classes, dim))
    labels = rng.integers(0, classes, clips)
    labels[:unlabelled] = -1
    return video, text, labels


def test_equals_the_slow_loop():
    video, text, labels = made_up()
    found = agreement(video, text, labels)
    for n, label in enumerate(labels):
        all_cosines = [float(video[n] @ t / np.linalg.norm(video[n]) / np.linalg.norm(t)) for t in text]
        by_size = sorted(range(len(text)), key=lambda k: -all_cosines[k])
        assert found.nearest[n] == by_size[0]
        assert found.lead[n] == pytest.approx(all_cosines[by_size[0]] - all_cosines[by_size[1]])
        assert found.nearest_cosine[n] == pytest.approx(all_cosines[by_size[0]])
        if label < 0:
            assert np.isnan(found.cosine[n]) and np.isnan(found.margin[n]) and found.rank[n] == 0
        else:
            assert found.cosine[n] == pytest.approx(all_cosines[label])
            assert found.margin[n] == pytest.approx(
                all_cosines[label] - max(c for k, c in enumerate(all_cosines) if k != label)
            )
            assert found.rank[n] == by_size.index(label) + 1
            assert (found.margin[n] > 0) == (found.rank[n] == 1)


def test_length_and_float_type_of_features_do_not_matter():
    video, text, _ = made_up(1)
    unit = (video / np.linalg.norm(video, axis=1, keepdims=True)).astype(np.float16)
    np.testing.assert_allclose(cosines(unit, 3 * text), cosines(video, text), atol=2e-3)


def test_one_class_has_no_rival():
    found = agreement(np.ones((2, 3)), np.ones((1, 3)), [0, -1])
    assert np.isnan(found.margin).all() and np.isnan(found.lead).all() and found.rank.tolist() == [1, 0]
    assert [row["clip_id"] for row in review(found, ["a", "b"], ["x", None], ["x"])] == ["b"]


def test_filtering_leaves_clips_without_a_label_alone():
    video, text, labels = made_up(2)
    found = agreement(video, text, labels)
    kept = found.keeps(min_cosine=0.1, min_margin=0.0)
    assert kept[labels < 0].all()
    np.testing.assert_array_equal(kept[labels >= 0], ((found.cosine >= 0.1) & (found.rank == 1))[labels >= 0])
    assert found.keeps().all()


def test_proposals_are_rows_and_the_surest_comes_first(tmp_path):
    video, text, labels = made_up(3)
    classes = [f"class {k}" for k in range(len(text))]
    names = [None if k < 0 else classes[k] for k in labels]
    ids = [f"clip-{n}" for n in range(len(video))]
    found = agreement(video, text, labels)
    rows = review(found, ids, names, classes, min_margin=0.05)
    assert [row["margin"] for row in rows] == sorted((row["margin"] for row in rows), reverse=True)
    wrong = {ids[n] for n in range(len(ids)) if found.nearest[n] != labels[n]}
    told = {row["clip_id"] for row in rows}
    assert told <= wrong and all(row["proposed"] != row["label"] and row["margin"] >= 0.05 for row in rows)
    for n in np.flatnonzero((labels >= 0) & (found.rank > 1)):
        assert (ids[n] in told) == (-found.margin[n] >= 0.05)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "review.parquet")
    assert tuple(pq.read_table(tmp_path / "review.parquet").column_names) == REVIEW_COLUMNS


def test_what_does_not_fit_is_refused():
    video, text, labels = made_up(4)
    for given, message in (
        ((video[:, :3], text, labels), "same model"),
        ((video, text[:0], labels), "same model"),
        ((video, text, labels[:3]), "one label a clip"),
        ((video, text, labels + 1), "one label a clip, -1 to 6"),
    ):
        with pytest.raises(ComponentError, match=message):
            agreement(*given)
