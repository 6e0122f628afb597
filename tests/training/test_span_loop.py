"""Round the loop by commands: spans of people, a network, proposals per frame, and a build that takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("torch")

import dataengine
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import explain, to_text
from tests.support.motion_files import TABLES
from tests.support.shared import SERIAL, build_sample, copied
from training import config
from training.data.formats import open_dataset
from training.runs.segment import is_run_of_segment
from training.runs.train import train

pytestmark = pytest.mark.slow


def test_what_people_said_of_some_clips_reaches_all(
    corpus: Path, sample_build: Path, tmp_path: Path, call: Any
) -> None:
    out = copied(sample_build, tmp_path)
    ids = dataengine.open(out).clips.collect()["clip_id"].to_list()
    said, guessed = tmp_path / "said.csv", tmp_path / "guessed.parquet"
    lines = [f"{clip_id},{'move' if number % 2 else 'rest'},0.4,1.6" for number, clip_id in enumerate(ids[::2])]
    said.write_text("\n".join(["clip_id,label,start,end", *lines]))
    build_sample(corpus, out, f"curate.spans={json.dumps([str(said)])}", engine=SERIAL)
    dataset = open_dataset(out)
    assert dataset.span_labels == ("move", "rest") and dataset.spans_known is not None
    assert dataset.spans_known.sum() == len(ids[::2])
    small = {"backbone": TABLES["backbone"], "view": {"frames": 16, "steps": "none"}}
    small |= {
        "run": {**TABLES["run"], "epochs": 1, "min_steps": 0},
        "data": {"train": [str(out)], "split": "", "val_split": ""},
    }
    table = config.validate({**TABLES, **small, "method": {"name": "segment"}}, "test")
    with pytest.warns(UserWarning, match="nobody said of"):
        train(table, tmp_path / "run", stop_after=1)
    assert is_run_of_segment(tmp_path / "run")
    code, _, err = call("annotate", tmp_path / "run", "--frames", "--labels", said, "--to", guessed, "--threshold", 0.1)
    proposed = pl.read_parquet(guessed)
    assert code == 0 and set(proposed["clip_id"]) == set(ids) - set(ids[::2]), err
    tables = f"curate.spans={json.dumps([str(said), str(guessed)])}"
    build_sample(corpus, out, tables, "curate.min_probability=0.0", engine=SERIAL)
    rows = dict(dataengine.open(out).clips.select("clip_id", "spans").collect().rows())
    assert verify(out) == []
    assert {span["label_from"] for clip_id in ids[::2] for span in rows[clip_id]} == {"people"}
    sure = proposed.drop_nulls("label")["clip_id"].to_list()
    assert sure and "(annotator, 0." in to_text(explain(out, sure[0]))
    assert {clip_id for clip_id in rows if rows[clip_id] is not None} == {*ids[::2], *sure}
    again = open_dataset(out)
    assert again.spans_proposed is not None and again.spans_proposed.sum() == len(set(sure))
