"""The command `dataengine-train`: its verbs one after the other on a built dataset, and what it says when something is
wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import polars as pl
import tomli_w

from tests.support import motion_files
from tests.support.motion_files import TABLES, TMOR
from tests.support.tiny_dataset import build
from training.verbs import options

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a built dataset, a file of motions with a video feature, and two configurations."""
    folder = tmp_path_factory.mktemp("train")
    build(folder / "build", clips=30)
    motion_files.write(folder / "motions.npz")
    (folder / "small.toml").write_text(tomli_w.dumps({**TABLES, "run": {**TABLES["run"], "name": "small"}}))
    (folder / "tmor.toml").write_text(tomli_w.dumps({**TABLES, "run": {**TABLES["run"], "epochs": 1}, "method": TMOR}))
    return folder


def test_from_a_built_dataset_to_a_network_that_goes_on(place, call, monkeypatch):
    monkeypatch.chdir(place)
    code, out, err = call("pretrain", "small.toml", "--data", "build")
    assert code == 0 and "runs/small: 2 steps, 2 epochs" in out and "| classifier | top-1 |" in out
    assert "step 2/2" in err and "clips/s  left 0:00:00" in err
    code, out, err = call("pretrain", "small.toml", "--data", "build", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["steps"] == 2 and "goes on at step 2 of 2" in err
    code, _, err = call("pretrain", "small.toml", "--data", "motions.npz")
    assert code == 1 and "runs/small holds a run with another data" in err and "give another --out" in err
    code, out, _ = call("probe", "runs/small", "--no-floors", "--json", "--device", "cpu")
    assert code == 0
    bare = json.loads(out)["results"][0]
    code, out, _ = call("probe", "runs/small", "--label-fraction", "0.5", "--seeds", "2", "--json", "--device", "cpu")
    assert code == 0
    told = json.loads(out)
    assert [result["name"] for result in told["results"]] == [
        "linear probe",
        "linear probe, 50 % of labels, network with 100 %",
        "classifier",
    ]
    floors = {"nearest neighbour", "ridge", "random network"}
    assert {"chance", "largest class", *floors} <= told["results"][0]["baselines"].keys()
    assert not floors & bare["baselines"].keys() and bare["value"] == told["results"][0]["value"]
    assert (
        told["results"][0]["interval"]["low"] is not None
        and json.loads(next(Path("runs/small/measured").glob("*/probe.json")).read_text()) == told
    )
    code, out, _ = call("finetune", "runs/small", "--data", "build", "--set", "run.epochs=1")
    assert code == 0 and "runs/small_finetuned: 1 steps" in out
    code, out, err = call("embed", "runs/small", "--data", "build", "--to", "features.parquet")
    rows = pl.read_parquet("features.parquet")
    assert code == 0 and len(rows) == 30 and len(rows["feature"][0]) == 16
    assert "embed 30/30 clips" in err and "left 0:00:00" in err
    code, out, _ = call("export", "runs/small", "--format", "safetensors")
    assert (
        code == 0
        and Path("runs/small/exported.safetensors").is_file()
        and "`exported.safetensors`" in Path("runs/small/README.md").read_text()
    )


def test_runs_stand_side_by_side(place, call, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setenv("DATAENGINE_PREPARED", str(tmp_path / "prepared"))  # where no floors lie yet
    once = ("--data", "build", "--set", "run.epochs=1")
    assert call("pretrain", "small.toml", *once, "--out", tmp_path / "first")[0] == 0
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    code, _, err = call("probe", tmp_path / "first", "--device", "cpu")
    assert code == 0 and "features 30/30 clips" in err and "floors 90/90 clips" in err
    assert call("finetune", tmp_path / "first", *once, "--out", tmp_path / "tuned")[0] == 0
    code, out, err = call("list", "runs", tmp_path)
    classifier = out.split("classifier, top-1, ")[1].split("\n\n")[1]
    assert (
        code == 0
        and not err
        and all(f"| {tmp_path / name} | supervised" in classifier for name in ("first", "second", "tuned"))
    )
    assert "supervised, from first" in out and "linear probe, top-1, " in out and "random network" in out
    lines = json.loads(call("list", "runs", tmp_path, "--json")[1])
    own = [line for line in lines if line["result"]["name"] == "classifier"]
    assert (
        len({line["measured_on"]["fingerprint"] for line in own}) == 1
        and own[0]["measured_on"]["clips"] == own[0]["result"]["interval"]["n"]
    )
    for one in {line["result"]["name"] for line in lines}:
        values = [line["result"]["value"] for line in lines if line["result"]["name"] == one]
        assert values == sorted(values, reverse=True)
    (tmp_path / "second" / "summary.json").write_text('{"results": [{"name": "x"')
    next((tmp_path / "first" / "measured").glob("*/probe.json")).unlink()
    code, out, err = call("list", "runs", tmp_path)
    assert code == 0 and err.count("\n") == 1 and "summary.json holds no results and was left out" in err
    assert out.rstrip().splitlines()[-1].startswith(f"| {tmp_path / 'second'} | ") and "nothing measured yet" in out


def test_texts_and_videos(place, call, monkeypatch):
    monkeypatch.chdir(place)
    assert call("pretrain", "tmor.toml", "--data", "motions.npz", "--out", "runs/tmor")[0] == 0
    code, out, _ = call("zeroshot", "runs/tmor", "--json")
    assert code == 0 and json.loads(out)["results"][0]["details"]["clips"] == 24
    code, out, _ = call("zeroshot", "runs/tmor", "--data", "motions.npz", "--prompts", "motion", "--split", "")
    assert code == 0 and "seen classes by text, ngrams, prompts motion" in out and "zeroshot_confusion.png" in out
    code, out, _ = call("retrieve", "runs/tmor", "--data", "motions.npz")
    assert code == 0 and "motion to text" in out and "4-way, text to motion" in out
    code, out, _ = call("retrieve", "runs/tmor", "--data", "motions.npz", "--by", "video")
    assert code == 0 and "video to motion" in out
    code, _, err = call("zeroshot", "runs/tmor", "--data", "motions.npz", "--fuse", "viclip_video")
    assert (
        code == 1 and err.startswith("dataengine-train: motions.npz: no array 'viclip_video'") and err.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pretrain", "unikk", "--data", "build"], 1, "unknown configuration 'unikk' (did you mean 'unik'?)"),
        (["pretrain", "small.toml"], 1, "no data is named: give --data PATH"),
        (["pretrain", "small.toml", "--data", "nowhere"], 1, "there is no such file or folder"),
        (
            ["pretrain", "small.toml", "--data", "build", "--set", "run.epoch=1"],
            1,
            "unknown key 'epoch' (did you mean 'epochs'?)",
        ),
        (["pretrain", "small.toml", "--data", "build", "--set", "method.name=mcc"], 1, "quote strings"),
        (["pretrain", "tmor.toml", "--data", "build"], 1, "no sample has the entry 'video'"),
        (["finetune", "small.toml", "--data", "build"], 1, "give --from a finished run"),
        (["probe", "build"], 1, "build is no run: it holds no last.safetensors"),
        (["probe", "build", "--device", "gpu"], 1, "is no run"),
        (["list", "backbone"], 1, "there is no list of 'backbone' (did you mean 'backbones'?)"),
        (["list", "runs", "build"], 1, "build holds no run; give the folder"),
        (["export"], 2, "Missing argument 'RUN'"),
    ],
)
def test_what_is_wrong_is_one_line(place, call, monkeypatch, arguments, code, said):
    monkeypatch.chdir(place)
    found, out, err = call(*arguments)
    assert found == code and said in err and not out
    assert code == 2 or (err.startswith("dataengine-train: ") and err.count("\n") == 1)


def test_a_missing_extra_is_named(place, call, monkeypatch):
    monkeypatch.setattr(options, "installed", lambda extra: False)
    code, _, err = call("pretrain", "unik", "--data", place / "build")
    assert code == 1 and "uv sync --extra train" in err


def test_names_are_listed_with_what_they_are(call):
    for kind, known in (("backbones", "unik"), ("methods", "tmor"), ("configs", "unik_small"), ("formats", "pyskl")):
        assert known in call("list", kind)[1].splitlines()
        entries = json.loads(call("list", kind, "-v", "--json")[1])
        assert all(len(entry["summary"]) > 20 for entry in entries if "summary" in entry) and any(
            "summary" in e for e in entries
        )


def test_help_is_cheap():
    code = (
        "import sys, time\nsys.argv = ['dataengine-train', '--help']\nfrom training.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', sorted({'torch', 'polars', 'pyarrow', 'matplotlib', 'pydantic', 'cv2'} & set(sys.modules)), "
        "time.process_time())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.splitlines()[-1]
    assert answer.startswith("HEAVY []") and float(answer.split()[-1]) < 2, answer  # 0.14 s idle
