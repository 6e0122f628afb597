"""What the components of every kind promise as configuration, and what each of the smaller kinds promises beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import testing
from dataengine.core import registry
from dataengine.core.errors import ComponentError, DataEngineError
from dataengine.media.encode import write_video
from dataengine.pipeline.recipe import fingerprint

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {("relabel", "table"): {"table": "posetics_labels"}}
"""Options that a component cannot be made without."""
EVERY = [(kind, name) for kind in registry.kinds_of("dataengine") for name in registry.names(kind)]


def made(kind: str, name: str, **options: Any) -> Any:
    return registry.create(kind, name, {**OPTIONS.get((kind, name), {}), **options})


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_component_is_configuration(kind: str, name: str) -> None:
    component = made(kind, name)
    testing.check_component(component)
    assert made(kind, name) == component
    assert fingerprint(registry.config(made(kind, name))) == fingerprint(registry.config(component))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_unknown_options_and_names_are_one_line(kind: str, name: str) -> None:
    with pytest.raises(ComponentError, match="has no option 'no_such_option'") as caught:
        made(kind, name, no_such_option=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(ComponentError, match=rf"unknown name '{name}x' in {kind}") as caught:
        registry.create(kind, f"{name}x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", registry.names("fusion"))
def test_fusions_keep_their_promises(name: str) -> None:
    testing.check_fusion(made("fusion", name))


@pytest.mark.parametrize("name", registry.names("filters"))
def test_filters_keep_their_promises(name: str) -> None:
    testing.check_filter(made("filters", name))


@pytest.mark.parametrize("name", registry.names("lifters"))
def test_lifters_keep_their_promises(name: str) -> None:
    component = made("lifters", name)
    try:
        component.check()
        component.weights()
    except DataEngineError as error:
        pytest.skip(f"{name}: {error}")
    testing.check_lifter(component)


@pytest.mark.parametrize("name", registry.names("trackers"))
def test_trackers_keep_their_promises(name: str) -> None:
    testing.check_tracker(made("trackers", name))


@pytest.mark.parametrize("name", registry.names("features"))
def test_features_keep_their_promises(name: str) -> None:
    pytest.importorskip("torch")
    component = made("features", name, **({"size": "tiny"} if name == "viclip" else {}))
    try:
        component.check()
        component.weights()
    except DataEngineError as error:
        pytest.skip(f"{name}: {error}")
    testing.check_features(component)


@pytest.mark.parametrize("name", registry.names("face_detectors"))
def test_face_detectors_keep_their_promises(name: str) -> None:
    component = made("face_detectors", name)
    try:
        component.weights()
    except DataEngineError as error:
        pytest.skip(f"{name}: {error}")
    testing.check_detector(component)


@pytest.mark.parametrize("name", registry.names("students"))
def test_students_keep_their_promises(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    student = made("students", name)
    try:
        student.check()
        student.weights()
    except DataEngineError as error:
        pytest.skip(f"{name}: {error}")
    testing.check_student(student, tmp_path)


@pytest.mark.parametrize("name", registry.names("decoders"))
def test_decoders_keep_their_promises(name: str, tmp_path: Path) -> None:
    if name == "decord":
        pytest.importorskip("decord")
    frames = np.random.default_rng(0).integers(0, 256, (30, 120, 160, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", iter(frames), 25)
    testing.check_decoder(made("decoders", name, batch=7), tmp_path / "a.mp4", 30)


@pytest.mark.parametrize("name", registry.names("fetchers"))
def test_fetchers_say_what_they_lack(name: str) -> None:
    try:
        made("fetchers", name).check()
    except DataEngineError as error:
        assert "\n" not in str(error)


def test_a_folder_of_videos_keeps_the_promises_of_a_source(tmp_path: Path) -> None:
    frames = np.zeros((30, 64, 96, 3), np.uint8)
    for name in ("a.mp4", "b/c d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, iter(frames), 25)
    (tmp_path / "labels.csv").write_text("file,label\na.mp4,jumping\nnone.mp4,walking\n")
    assert len(testing.check_source(made("sources", "folder"), tmp_path)) == 3


@pytest.mark.parametrize("name", [n for n in registry.names("sources") if n != "folder"])
def test_sources_say_what_they_miss(name: str, tmp_path: Path) -> None:
    source = made("sources", name)
    if not source.makes_media:
        with pytest.raises(ComponentError, match="makes no media"):
            source.prepare(tmp_path)
    with pytest.raises(DataEngineError) as caught:
        list(source.discover(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", registry.names("relabel"))
def test_label_tables_speak_for_the_sources_they_name(name: str) -> None:
    table = made("relabel", name)
    assert table.sources and table.files
    assert {source for source, _ in table.rules} <= table.sources
