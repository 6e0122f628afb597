"""Whole datasets through a network: order, parts, and which joints decide."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import RecipeError
from dataengine.core.skeletons import Skeleton
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.config import load
from training.data.loader import DataLoader
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.runs import features
from training.runs.classify import class_probabilities, learnt_mirrored
from training.runs.features import THREE_CROPS, extract_features, joint_weights, mirror_view, workers_for, workers_of
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

PREPROCESS = Preprocess("body13")


def test_rows_stand_in_the_order_of_the_source_whatever_the_batch():
    dataset = Motions(10, 3)
    torch.manual_seed(0)
    network = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4).train()
    one, labels = extract_features(network, dataset, PREPROCESS, 16, batch=3)
    other, _ = extract_features(network.features, dataset, PREPROCESS, 16, batch=10)
    assert network.training and (labels == dataset.label_ids).all()
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_parts_are_averaged():
    dataset = Motions(4, 3)

    def first(motion):
        return motion[:, :, 0, :, 0].flatten(1)

    parts = [extract_features(first, dataset, PREPROCESS, 8, (span,))[0] for span in THREE_CROPS]
    np.testing.assert_allclose(
        extract_features(first, dataset, PREPROCESS, 8, THREE_CROPS)[0], np.mean(parts, 0), rtol=1e-5
    )
    assert np.abs(parts[0] - parts[2]).max() > 0.01, "parts begin at different frames"
    chances, _ = extract_features(first, dataset, PREPROCESS, 8, THREE_CROPS, softmax=True)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)


def test_mirror_images_count_where_the_network_learnt_from_them():
    dataset = Motions(4, 3)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    network(torch.zeros(1, 2, 8, 13, Motions(1, 1).read([0])[0].keypoints.shape[0]))
    flip, still = '[{ name = "flip" }]', '[{ name = "crop", min = 0.5 }]'
    both, plain = (load("unik_small", ["view.frames=8", f"view.steps={steps}"]) for steps in (flip, still))
    said, labels, _ = class_probabilities(network, [dataset], PREPROCESS, both)
    images = mirror_view(PREPROCESS, 8)
    parts = [extract_features(network, dataset, PREPROCESS, 8, (span,), softmax=True)[0] for span in THREE_CROPS]
    alone = class_probabilities(network, [dataset], PREPROCESS, plain).rows
    np.testing.assert_allclose(alone, np.mean(parts, 0), atol=1e-6)
    mirrored, _ = extract_features(network, dataset, PREPROCESS, 8, softmax=True, view=images)
    whole, _ = extract_features(network, dataset, PREPROCESS, 8, softmax=True, mirrored=True)
    np.testing.assert_allclose(whole, (parts[0] + mirrored) / 2, atol=1e-6)
    assert np.abs(said - alone).max() > 1e-4 and (labels == dataset.label_ids).all()
    nameless = Skeleton("dots", tuple("abcdefghijklm"), ())
    assert learnt_mirrored(both, PREPROCESS) and not learnt_mirrored(plain, PREPROCESS)
    assert not learnt_mirrored(both, Preprocess(nameless)), "without left and right nothing is mirrored"


def test_random_views_are_drawn_by_the_seed_whatever_the_batch():
    dataset = Motions(6, 3)
    turned = View(8, ({"name": "rotate", "degrees": 90},), "body13")
    one, labels = extract_features(
        lambda motion: motion.flatten(1), dataset, PREPROCESS, 8, THREE_CROPS, batch=2, view=turned, seed=1
    )
    again, _ = extract_features(lambda motion: motion.flatten(1), dataset, PREPROCESS, 8, batch=6, view=turned, seed=1)
    other, _ = extract_features(lambda motion: motion.flatten(1), dataset, PREPROCESS, 8, view=turned, seed=2)
    plain, _ = extract_features(lambda motion: motion.flatten(1), dataset, PREPROCESS, 8)
    assert (one == again).all() and (labels == dataset.label_ids).all() and (np.abs(one - other).max(1) > 0.01).all()
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), np.linalg.norm(plain, axis=1), rtol=1e-5)


def test_joints_that_decide_weigh_more():
    """Classes 0 and 1 differ in the arms alone."""
    arms = Motions(32, 4, classes=2)
    torch.manual_seed(0)
    network = create_backbone("stgcn", 2, "body13", 2, people=1, channels_base=8)
    method = create_method("supervised", backbone=network)
    fit(
        method,
        DataLoader(arms, method.sample_transform(PREPROCESS, View(16, "none")), 16),
        TrainSettings(epochs=10, optim=OptimSettings(lr=0.05)),
    )
    weights = joint_weights(network, arms, PREPROCESS, 16)
    assert weights.shape == (13,) and weights.sum() == pytest.approx(1)
    wrists, feet = weights[[5, 6]].mean(), weights[[11, 12]].mean()
    assert wrists > 1.5 * feet, weights


def test_workers_are_as_many_as_the_machine_has_cores_for(monkeypatch):
    monkeypatch.setattr(features, "cpu_count", lambda: 6)
    assert [workers_of("auto", "cuda", devices) for devices in (1, 2, 6, 12)] == [5, 2, 1, 1]
    assert workers_of("auto", torch.device("cpu")) == 0 and workers_of(3, "cpu") == 3
    monkeypatch.setattr(features, "cpu_count", lambda: 64)
    assert workers_of("auto", "cuda:0") == features.MOST_USEFUL
    assert workers_for([Motions(10, 3)], "auto", "cuda") == 0
    with pytest.raises(RecipeError, match='many is not allowed; allowed: 0 to 64, or "auto"'):
        load("unik_small", ['run.workers="many"'])
