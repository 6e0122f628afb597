"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Before any library is imported: xdist starts a worker for each core, so a worker, and what it starts, keeps to one.
for _name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM"):
    os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import atexit
import shutil
import tempfile

import pytest

_prepared = tempfile.mkdtemp(prefix="dataengine-prepared-")
os.environ["DATAENGINE_PREPARED"] = _prepared
atexit.register(shutil.rmtree, _prepared, ignore_errors=True)

# What tests write need not outlive the machine, and small builds wait for the disk as long as they compute. Processes
# that tests start do wait; a descriptor that is no open file is refused here, too.
os.fsync = os.fstat  # type: ignore[assignment]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


LONGEST = (
    "tests/test_build.py",
    "tests/test_hosts.py",
    "tests/pipeline/test_cluster",
    "tests/test_journeys.py",
    "tests/pipeline/test_dispatch.py",
    "tests/pipeline/test_engine.py",
    "tests/experts/test_expert_faults.py",
    "tests/test_environment.py",
    "tests/training/test_loop.py",
    "tests/passes",
    "tests/contracts",
    "tests/experts",
    "tests/test_adding.py",
    "tests/training",
    "tests/dataset",
    "tests/fetch",
)
"""Files and folders that take longest. They start first: else one worker ends alone with a long file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; xdist hands out whole files in this order."""

    def rank(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared folder of real videos and labelled poses; tests that use it carry the marker `data`."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is absent")
    return SHARED


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered corpus of 12 clips and the planted defects; read only."""
    from dataengine.sources.synthetic import write_corpus
    from tests.support import shared

    return shared.made_once(tmp_path_factory, "corpus", lambda folder: write_corpus(folder, shared.CLIPS, 0))


@pytest.fixture(scope="session")
def sample_build(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of the corpus, made by `shared.build_sample`; read only."""
    from tests.support import shared

    def make(folder: Path) -> None:
        shared.build_sample(corpus, folder)

    return shared.made_once(tmp_path_factory, "build", make)
