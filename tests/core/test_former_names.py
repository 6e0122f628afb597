"""Former and misspelt names are answered with the name of today, wherever they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError, DataEngineError, suggestion
from dataengine.core.former_names import FORMER_NAMES, new_name
from dataengine.dataset import index
from dataengine.pipeline import recipe
from dataengine.pipeline.recipe import Recipe

LITE = ("detector", "topdown", "bottomup", "regression")


@pytest.mark.parametrize(
    ("override", "now"),
    [
        ("pose.people=2", "max_people"),
        ("pose.trust={}", "expert_weights"),
        ("curate.near_share=0.5", "near_duplicate_threshold"),
        ("engine.lanes=2", "clips_in_flight"),
        ("engine.ahead_mb=2", "prefetch_mb"),
        ('pose.experts=["lite_topdown"]', "synthetic_topdown"),
        ('pose.detector="lite_detector"', "synthetic_detector"),
        ("pose.expert_weights={lite_topdown=2.0}", "synthetic_topdown"),
        ('pose.fusion="path"', "viterbi_path"),
        ('pose.fusion="mode"', "mean_shift"),
        ("fusion.consensus.hold=2", "max_gap"),
        ("fusion.consensus.power=2.0", "score_power"),
        ("fusion.ssta.gate=2.0", "max_step"),
        ("fusion.mode.power=2.0", "mean_shift"),
        ("experts.lite_bottomup.x=1", "synthetic_bottomup"),
    ],
)
def test_a_former_key_of_a_recipe_is_answered_with_the_new_one(override: str, now: str) -> None:
    with pytest.raises(DataEngineError, match=f"it is called '{now}' now") as caught:
        recipe.load("posecap", "core", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LITE)
def test_a_former_component_is_answered_with_the_new_one(name: str) -> None:
    kind = "detectors" if name == "detector" else "experts"
    with pytest.raises(
        ComponentError, match=f"unknown name 'lite_{name}' in {kind} .it is called 'synthetic_{name}' now"
    ):
        registry.create(kind, f"lite_{name}")


def test_a_former_column_is_answered_with_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataEngineError, match=r"unknown column 'expert_agreement' \(it is called 'expert_disagreement' now\)"
    ):
        index.write_table(tmp_path, [{"clip_id": "a", "expert_agreement": 0.5}], index.CLIPS)


def test_a_former_word_counts_where_its_new_name_is_allowed() -> None:
    assert new_name("fetch", ["probe", "pose"]) == "probe"
    assert new_name("path", ["tar", "npz"]) is None
    assert suggestion("path", ["paths"]) == " (did you mean 'paths'?); allowed: paths"
    assert suggestion("jiter", ["jitter", "motion"]) == " (did you mean 'jitter'?); allowed: jitter, motion"


def test_no_name_of_today_is_a_former_one_of_its_kind() -> None:
    for kind in registry.COMPONENTS:
        for name in registry.names(kind):
            assert new_name(name, registry.names(kind)) is None
    for table in Recipe.model_fields.values():
        keys = list(getattr(table.annotation, "model_fields", ()))
        assert not [key for key in keys if new_name(key, keys)]
    assert all(former not in now for former, now in FORMER_NAMES.items())
