"""Features of several blocks: of every network, in probes and in the table of features."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from tests.support import motion_files
from training import config, create_backbone, registry
from training.backbones.base import Backbone
from training.runs.embed import embed
from training.runs.probe import probe
from training.runs.report import open_split_of
from training.runs.run import load_run
from training.runs.train import train

TABLES = {
    "run": {"epochs": 1, "batch": 16, "workers": 0, "tensorboard": False, "probe_every": 0},
    "view": {"frames": 8},
    "backbone": {"name": "unik", "channels_base": 4},
    "method": {"name": "supervised"},
}
WIDTHS = {"unik": 14 * 8, "stgcn": 14 * 8, "stgcn_pyskl": 14 * 8, "stgcnpp": 14 * 8}
"""Mean and maximum of blocks of 8, 16 and 32 channels."""
SMALL = {"channels_base": 8, "people": 1}


@pytest.mark.parametrize("name", registry.names("backbones"))
def test_every_network_has_features_of_several_blocks(name):
    options = {
        option: value
        for option, value in SMALL.items()
        if option in registry.defaults(registry.find("backbones", name))
    }
    if name == "slow_r50":
        pytest.skip("a network of pictures")
    torch.manual_seed(0)
    net = create_backbone(name, 0, "coco17", 2, **options).eval()
    motion = torch.randn(3, 2, 16, 17, 1)
    with torch.no_grad():
        rows, plain = net.block_features(motion), net.features(motion)
        alone = torch.cat([net.block_features(one[None]) for one in motion])
    assert rows.ndim == 2 and rows.shape == (3, WIDTHS.get(name, 2 * net.width)) and torch.isfinite(rows).all()
    torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-5)
    if type(net).features is Backbone.features:  # the mean of the last block is the plain features
        torch.testing.assert_close(rows[:, -2 * net.width : -net.width], plain, rtol=1e-4, atol=1e-5)


def test_maxima_are_those_of_single_joints_and_frames():
    net = create_backbone("unik", 0, "coco17", 2, channels_base=4, people=1).eval()
    motion = torch.randn(2, 2, 16, 17, 1)
    seen = {}
    for number in (4, 7, 10):
        net.get_submodule(f"l{number}").register_forward_hook(lambda _, __, y, n=number: seen.__setitem__(n, y))
    with torch.no_grad():
        rows = net.block_features(motion)
    parts = [part for n in (4, 7, 10) for part in (seen[n].mean((0, 2)), seen[n].flatten(0, 0).amax(2).amax(0))]
    torch.testing.assert_close(rows, torch.cat(parts, 1))


@pytest.mark.parametrize("name", ["unik", "stgcn", "stgcnpp", "agcn"])
def test_what_the_mask_leaves_out_does_not_count(name):
    torch.manual_seed(0)
    net = create_backbone(name, 0, "coco17", 2, channels_base=12, people=2).eval()
    motion, mask = torch.randn(3, 2, 16, 17, 2), torch.ones(3, 16, 2, dtype=torch.bool)
    mask[0, :, 1] = False
    mask[1, 8:] = False
    mask[2] = False
    other = motion.masked_fill(~mask[:, None, :, None], 7.0)
    with torch.no_grad():
        rows, same = net.block_features(motion, mask), net.block_features(other, mask)
        whole = net.block_features(motion, torch.ones_like(mask))
        torch.testing.assert_close(whole, net.block_features(motion), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows, same)
    assert torch.isfinite(rows).all() and not rows[2].any() and not torch.equal(rows[0], whole[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    data = motion_files.write(folder / "motions.npz")
    train(config.validate({**TABLES, "data": {"train": [str(data)]}}, "the test"), folder / "run")
    return load_run(folder / "run")


def test_a_probe_shows_them_beside_the_plain_ones(run):
    train_split, test_split = (open_split_of(run, (), (), which, None) for which in ("train", "val"))
    report = probe(run, train_split, test_split, (0.5,), 2, neighbours=True, blocks=True)
    names = [result.name for result in report.results]
    richer = [name for name in names if name.endswith(", several blocks")]
    assert [name.removesuffix(", several blocks") for name in richer] == names[: len(richer)] and len(richer) >= 3
    plain, rich = (next(r for r in report.results if r.name == name) for name in (names[0], richer[0]))
    assert plain.baselines.keys() == rich.baselines.keys()
    own = {r.name: r.details["floors"]["random network"]["each"] for r in (plain, rich) if "floors" in r.details}
    assert len(own) == 2 and all(len(values) == 3 for values in own.values())
    assert all(not r.name.endswith("several blocks") for r in probe(run, train_split, test_split).results)


def test_the_table_of_features_has_them_as_a_column(run, tmp_path):
    clips = open_split_of(run, (), (), "val", None)
    table = pl.read_parquet(embed(run, clips, tmp_path / "features.parquet", blocks=True))
    assert table.columns == ["clip_id", "label", "split", "feature", "blocks", "reason"]
    rows = np.array(table["blocks"].to_list())
    assert rows.shape == (len(table), 14 * 4)
    np.testing.assert_allclose(rows[:, -32:-16], np.array(table["feature"].to_list()), atol=1e-5)
