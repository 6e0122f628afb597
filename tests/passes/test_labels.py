"""Numbers of labels: those of the recipe's map where it decides the labels of a source in use, else from 0 on."""

from __future__ import annotations

import pyarrow as pa

from dataengine import builder
from dataengine.labels.label_table import LabelTable
from dataengine.passes.curate import Curate, Labels


def test_a_map_of_other_sources_gives_no_numbers() -> None:
    planned = pa.table({"source": ["folder"] * 3, "label": ["my walk", "my hug", None], "video_id": ["a", "b", "c"]})
    own = builder.resolve("posecap", {"folder": "x"}, "cpu")
    assert own.curate.relabel == "posecap_labels" and Labels.of(own, planned).ids == {"my hug": 0, "my walk": 1}
    without = builder.resolve("posecap", {"folder": "x"}, "cpu", ['curate.relabel="sample_labels"'])
    assert Curate().config(own) == Curate().config(without), "a map that decides nothing makes nothing anew"
    both = builder.resolve("posecap", {"folder": "x", "kinetics700": "y"}, "cpu")
    numbers = LabelTable("posecap_labels").label_ids()
    assert Labels.of(both, planned).ids == numbers | {"my hug": len(numbers), "my walk": len(numbers) + 1}
