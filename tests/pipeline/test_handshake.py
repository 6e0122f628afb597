"""Before work every worker says what it is and sees, and who differs from the driver is named."""

from __future__ import annotations

import copy
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dataengine
from dataengine.builder import resolve
from dataengine.core.errors import DataEngineError
from dataengine.passes.job import Job
from dataengine.pipeline import plan as plans
from dataengine.pipeline.admission import admission
from dataengine.pipeline.cluster import Cluster
from dataengine.pipeline.handshake import answer, differences, media_of, question
from dataengine.pipeline.plan import Plan
from tests.support.said import Said

PACKAGE = Path(dataengine.__file__).parent

ASK = """
import json, sys
from dataengine.pipeline.handshake import answer
told = answer(json.loads(sys.argv[1]))
print(json.dumps({"answer": told, "imported": [m for m in ("torch",) if m in sys.modules]}))
"""


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """What the workers of a build would be asked; its media are one file."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "a.mp4").write_bytes(b"12345")
    row = {"source": "sample", "media": "a.mp4", "media_size": 5}
    job = Job.of(resolve("posecap", "sample"), tmp_path / "work", "cpu")
    found = media_of([{**row, "media_size": -1}, row], {"sample": str(media)})
    assert found == {"sample": (str(media), "a.mp4", 5)}
    return question(job.save(), job.recipe, found, "cpu", ["av", "numpy"])


def ask(given: dict[str, Any], **environment: str) -> dict[str, Any]:
    """The answer of a process of its own, and what it imported."""
    command = [sys.executable, "-c", ASK, json.dumps(given)]
    place = Path(given["job"]).parent  # not the folder of this checkout, which Python would look into first
    done = subprocess.run(
        command, cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def told(own: dict[str, Any], other: Any) -> list[str]:
    return [str(found) for found in differences(own, {"tcp://10.0.0.7:4711": other})]


def test_one_that_is_the_same_differs_in_nothing(asked: dict[str, Any]) -> None:
    own = answer(asked)
    assert told(own, json.loads(json.dumps(own))) == []
    assert not [value for value in own["seen"].values() if "No such file" in value]
    assert any(name.startswith("weights of synthetic_topdown") for name in own["seen"])
    assert own["free"] > 0 and own["memory"] > 0


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda a: a.update(threads=4), "runs 4 tasks at once: start it with --nthreads 1"),
    (lambda a: a.update(nanny=False), "nothing restarts it when it dies: start it without --no-nanny"),
    (lambda a: a.update(machine="aarch64"), "runs on aarch64, the driver on "),
    (lambda a: a["versions"].update(numpy="1.26.4"), "numpy 1.26.4, the driver has "),
    (lambda a: a["versions"].update(python="3.9"), "python 3.9, the driver has 3."),
    (lambda a: a["versions"].update(av=None), "av is not installed, the driver has "),
    (
        lambda a: a["code"].update({"dataengine/fusion/consensus.py": "x"}),
        "other code than the driver's: data",
    ),
    (lambda a: a["code"].pop("dataengine/fusion/consensus.py"), "other code than the driver's: data"),
    (lambda a: a.update(offers_gpu=True), "offers the resource GPU and sees none"),
    (lambda a: a.update(free=1 << 20), "1 MB are free where results are written"),
    (lambda a: a.pop("threads"), "answers as another version of this package does"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_every_difference_is_told_in_a_line(
    asked: dict[str, Any], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    own = answer(asked)
    other = copy.deepcopy(own) | {"host": "node7"}
    change(other)
    (line,) = told(own, other)
    assert line.startswith("worker tcp://10.0.0.7:4711 on node7: ") and words in line and "\n" not in line


def test_a_worker_that_cannot_answer_is_named(asked: dict[str, Any]) -> None:
    line = told(answer(asked), ModuleNotFoundError("No module named 'dataengine'"))
    assert line == [
        "worker tcp://10.0.0.7:4711: cannot say what it is: ModuleNotFoundError: No module named 'dataengine'"
    ]


def test_a_worker_without_the_media_the_job_or_the_weights_is_named(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = answer(asked)
    media = tmp_path / "media"
    media.rename(tmp_path / "not-mounted")
    assert [line.split(": ", 2)[1:] for line in told(own, answer(asked))] == [
        [f"media of sample in {media}", f"No such file or directory ({media}/a.mp4); the driver has a.mp4 with 5 bytes"]
    ]
    media.mkdir()
    (media / "a.mp4").write_bytes(b"another")
    assert "a.mp4 with 7 bytes; the driver has a.mp4 with 5 bytes" in told(own, answer(asked))[0]
    (media / "a.mp4").write_bytes(b"12345")
    job = Path(asked["job"])
    job.write_bytes(job.read_bytes() + b" ")
    assert f"job {job}" in told(own, answer(asked))[0]
    job.unlink()
    assert [f"job {job}" in line or "weights" in line or "recipe" in line for line in told(own, answer(asked))]


def test_a_worker_that_cannot_write_where_results_go_is_named(asked: dict[str, Any], tmp_path: Path) -> None:
    own = answer(asked)
    staging = tmp_path / "work" / "staging"
    shutil.rmtree(staging)
    staging.write_bytes(b"")  # a file in the place of the folder
    assert any(f"results in {tmp_path / 'work'}: File exists" in line for line in told(own, answer(asked)))


def test_a_job_asks_what_its_plan_and_its_passes_need(tmp_path: Path) -> None:
    job = Job.of(resolve("posecap", "sample"), tmp_path / "work", "cpu")
    rows = [{name: None for name in plans.SCHEMA.names} | {"source": "sample", "media": "a.mp4", "media_size": 5}]
    given = job.question(Plan(plans.pa.Table.from_pylist(rows, plans.SCHEMA), {"sample": str(tmp_path)}))
    assert given["media"] == {"sample": [str(tmp_path), "a.mp4", 5]} and Path(given["job"]).is_file()
    assert {"av", "cv2", "numba", "numpy", "onnxruntime", "scipy"} <= set(given["libraries"])
    assert json.loads(json.dumps(given)) == given


@pytest.mark.slow
def test_another_checkout_and_another_library_are_named_by_a_process_of_their_own(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    own = ask(asked)
    assert own["imported"] == [] and told(answer(asked), own["answer"]) == []
    shutil.copytree(PACKAGE, tmp_path / "site" / "dataengine", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("manifests", "recipes"):
        if (PACKAGE.parent / folder).is_dir():
            shutil.copytree(PACKAGE.parent / folder, tmp_path / "site" / folder)
    path = tmp_path / "site" / "dataengine" / "fusion" / "consensus.py"
    path.write_text(path.read_text() + "\nSHARE = 0.5\n")
    info = tmp_path / "site" / "numpy-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    other = ask(asked, PYTHONPATH=str(tmp_path / "site"))["answer"]
    lines = [line.partition(": ")[2] for line in told(own["answer"], other)]
    numpy = own["answer"]["versions"]["numpy"]
    assert lines == [
        f"numpy 9.9.9, the driver has {numpy}",
        "other code than the driver's: dataengine/fusion/consensus.py",
    ]


def test_a_worker_that_cannot_read_the_question_ends_in_one_line(asked: dict[str, Any]) -> None:
    class Client:
        status = "running"

        def register_plugin(self, plugin: Any, name: str) -> None:
            raise TypeError("unknown\nmessage")

    with pytest.raises(DataEngineError, match=r"cannot read what it is asked \(TypeError: unknown message\)"):
        Cluster(Client(), "the test's scheduler").ask(asked, answer(asked))


def test_questions_travel_as_text_that_any_python_reads(asked: dict[str, Any]) -> None:
    """A worker of another Python that joins late reads them, too, and says which it runs."""
    travelled = pickle.dumps(admission(asked, answer(asked)))
    assert b"cloudpickle" not in travelled
    plugin = pickle.loads(travelled)  # noqa: S301
    worker = SimpleNamespace(state=SimpleNamespace(nthreads=1), nanny=object())
    assert plugin.of_the_process(worker) == [] and plugin.asked == asked
    plugin.python = (2, 7)
    (problem,) = plugin.of_the_process(worker)
    own = ".".join(platform.python_version_tuple()[:2])
    assert problem == f"it runs Python {own}, the driver 2.7; start it with the driver's version"


def test_a_node_whose_workers_are_refused_again_and_again_floods_nobody() -> None:
    progress = Said()
    cluster, said = Cluster(None, "the test's scheduler", progress), progress.lines
    for n in range(50):
        told = {"host": "node7", "name": f"job-{n}", "problems": [f"{n} MB are free where results are written"]}
        cluster.note_refusal((0.0, told))
        cluster._review(any_left=True)
    cluster.note_refusal((0.0, {"host": "node8", "name": "job-x", "problems": ["it has no mount"]}))
    cluster._review(any_left=True)
    assert len(said) == 5 and "leave it out" in said[3] and "node8" in said[4], said
