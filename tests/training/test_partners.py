"""Partners: which clips are drawn beside a clip depends on seed, epoch and position alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.data.formats import open_datasets
from training.data.loader import DataLoader
from training.data.partners import TRIES, Partner, PartnerDraw
from training.data.subsets import random_subset
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

RULES = {
    "other": Partner(other=("motion", "body")),
    "cross": Partner(same=("motion", ("body", "other"))),
}


class Bodies(Motions):
    """Every motion on every body."""

    def __init__(self, motions: int = 6, bodies: int = 4, name: str = "bodies") -> None:
        super().__init__(motions * bodies, 1, name)
        motion, body = np.divmod(np.arange(motions * bodies), bodies)
        self.columns = {"motion": [f"m{k}" for k in motion], "body": body.tolist()}


def keys(clip, rng):
    return {name: each.key for name, each in {"own": clip, **clip.partners}.items()}


def drawn(dataset=None, rules=RULES, batch=6, epochs=2, **more):
    loader = DataLoader(dataset or Bodies(), keys, batch, seed=3, partners=rules, **more)
    return [one for _ in range(epochs) for one in loader]


def test_partners_fulfil_their_conditions():
    clips = Bodies()
    names = {key: (clips.columns["motion"][k], clips.columns["body"][k]) for k, key in enumerate(clips.keys)}
    for batch in drawn(clips):
        for row, trio in enumerate(zip(batch["own"], batch["other"], batch["cross"])):
            own, other, cross = (names[key] for key in trio)
            assert own[0] != other[0] and own[1] != other[1]
            assert cross == (own[0], other[1])
            assert clips.keys[batch["other_index"][row]] == trio[1]
        assert batch["cross_group"].tolist() == [int(names[key][0][1]) for key in batch["own"]]
        assert torch.equal(batch["other_group"], batch["index"])


def test_partners_depend_on_seed_epoch_and_position_alone():
    whole = drawn()
    assert all(str(a) == str(b) for a, b in zip(drawn(), whole))
    assert whole[0]["other"] != drawn(epochs=2)[4]["other"]
    parts = [drawn(batch=3, shard=(rank, 2)) for rank in range(2)]
    shared = [{name: a[name] + b[name] for name in ("own", "other", "cross")} for a, b in zip(*parts)]
    assert shared == [{name: one[name] for name in ("own", "other", "cross")} for one in whole]
    loader = DataLoader(Bodies(), keys, 6, seed=3, partners=RULES)
    next(iter(loader))
    gone_on = DataLoader(Bodies(), keys, 6, seed=3, partners=RULES)
    gone_on.load_state_dict(loader.state_dict())
    assert next(iter(gone_on))["cross"] == whole[1]["cross"]


@pytest.mark.slow
def test_workers_draw_the_same_partners():
    assert [one["cross"] for one in drawn(workers=2)] == [one["cross"] for one in drawn()]


def test_random_numbers_of_clips_are_the_same_with_partners():
    def number(clip, rng):
        return {"x": float(rng.random())}

    one, two = (next(iter(DataLoader(Bodies(), number, 8, partners=rules))) for rules in ({}, RULES))
    assert torch.equal(one["x"], two["x"])


@pytest.mark.parametrize("bodies", [5, 3 * TRIES])
def test_each_partner_comes_equally_often(bodies):
    draw = PartnerDraw([Bodies(2, bodies)], {"view": Partner(same=("motion",), other=("body",))})
    rng = np.random.default_rng(0)
    counts = Counter(draw.draw(1, rng)["view"] for _ in range(400 * bodies))
    assert set(counts) == set(range(bodies)) - {1} and min(counts.values()) > 280


def test_clips_without_a_partner_are_told_or_left_alone():
    clips = Bodies()
    clips.columns["motion"][0] = "alone"
    clips.columns["motion"][1] = None
    rule = Partner(same=("motion",), other=("body",))
    with pytest.raises(TrainingError, match=r"'bodies-000[01]' has no partner 'view': there is not a clip of"):
        drawn(clips, {"view": rule})
    optional = Partner(same=("motion",), other=("body",), required=False)
    chained = {"view": optional, "third": Partner(same=(("motion", "view"),), required=False)}
    batch = next(
        iter(DataLoader(clips, lambda clip, rng: {"n": len(clip.partners)}, 24, shuffle=False, partners=chained))
    )
    assert batch["n"][:3].tolist() == [0, 0, 2] and batch["view_index"][:2].tolist() == [-1, -1]


def test_rules_that_cannot_be_followed_are_told():
    with pytest.raises(TrainingError, match=r"bodies: partner 'x' is .* no 'motoin'.*did you mean 'motion'"):
        drawn(rules={"x": Partner(same=("motoin",))})
    with pytest.raises(TrainingError, match="compared with 'y', which is no earlier partner"):
        drawn(rules={"x": Partner(same=(("motion", "y"),)), "y": Partner()})
    with pytest.raises(TrainingError, match="gives 'x_index', which the loader itself fills"):
        next(iter(DataLoader(Bodies(), lambda clip, rng: {"x_index": 0}, 4, partners={"x": Partner()})))


def test_columns_of_a_file_are_those_of_its_subsets(tmp_path):
    poses = np.random.default_rng(0).random((6, 1, 4, 13, 2), np.float32)
    np.savez(tmp_path / "a.npz", keypoints=poses, motion=np.arange(6) % 3, body=[f"b{k}" for k in range(6)])
    (dataset,) = open_datasets(str(tmp_path / "a.npz"), where="motion < 2", layout="body13")
    assert dataset.columns["motion"] == [0, 1, 0, 1] and dataset.columns["body"] == ["b0", "b1", "b3", "b4"]
    (part,) = random_subset([dataset], 2)
    assert len(part.columns["body"]) == 2
    batch = next(iter(DataLoader(dataset, keys, 4, shuffle=False, partners={"view": Partner(same=("motion",))})))
    assert batch["view_index"].tolist() == [2, 3, 0, 1]


def test_tmor_compares_with_another_body_and_not_against_it():
    method = create_method(
        "tmor",
        backbone=create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1)),
        video=None,
        partner="motion",
        queue={"size": 24},
        projector={"hidden": 8, "width": 8},
    )
    preprocess, clips = Preprocess("body13"), Bodies()
    transform = method.sample_transform(preprocess, View(16, "none"))
    loader = DataLoader(clips, transform, 8, shuffle=False, partners=method.partners)
    for batch in loader:
        for row, number in enumerate(batch["partner_index"].tolist()):
            wanted = View(16, "none")(preprocess(clips.clips[number]), np.random.default_rng(0))
            assert np.array_equal(batch["other"][row].permute(3, 1, 2, 0).numpy(), wanted)
        method.loss(batch)
    excluded = method.motions.not_negative_mask(batch["partner_group"])
    assert excluded.sum(1).tolist() == [4] * 8, "the keys of all bodies of the motion"
