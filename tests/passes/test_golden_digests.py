"""Every pass makes what it made before, or its version is raised: else builds would keep what old code made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataengine.core import registry
from dataengine.passes import PASSES
from tests.golden import make_passes
from tests.golden.stored import GOLDEN
from tests.support import plugins

STORED = json.loads((GOLDEN / "passes.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Version and results of every pass over the tiny corpus, as the code of today makes them."""
    folder: Path = tmp_path_factory.mktemp("digests")
    with pytest.MonkeyPatch.context() as patch:
        plugins.install_outside(folder / "site", patch)
        yield make_passes.summaries(make_passes.build(folder))
    registry.refresh()


@pytest.mark.parametrize("name", PASSES)
def test_results_change_with_the_version_alone(made: dict[str, dict[str, Any]], name: str) -> None:
    if name not in made:
        pytest.skip("needs the extra torch")
    changed = make_passes.differences(STORED[name], made[name])
    if made[name]["version"] == STORED[name]["version"]:
        assert not changed, (
            f"results of pass {name} changed: raise its version and run `python -m tests.golden.make_passes --write`"
        )
    else:
        pytest.fail(f"pass {name} has a new version: run `python -m tests.golden.make_passes --write`")


def test_a_small_change_is_noticed(made: dict[str, dict[str, Any]]) -> None:
    pose = json.loads(json.dumps(made["pose"]))
    name = max(pose["means"], key=lambda key: pose["means"][key][0])
    pose["means"][name] = [value * 1.001 for value in pose["means"][name]]
    assert make_passes.differences(made["pose"], pose)[0].startswith(f"{name}: ")
    assert make_passes.differences(made["pose"], {**pose, "digest": ""})[0].startswith("whole numbers")
