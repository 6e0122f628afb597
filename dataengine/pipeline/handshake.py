"""Before work: every worker says what it is and what it sees, and who differs from the driver is named.

A worker with other code, other libraries or without the media would write other poses, or none, into the same dataset.
So the driver asks each worker once, before its first task, and gives no work to one that differs::

    asked = question(job_path, recipe, media_of(plan.iterate(), plan.roots), device, libraries)
    answers = client.run(answer, asked, on_error="return")        # address -> answer, or what was raised
    for found in differences(answer(asked), answers):
        print(found)     # worker tcp://10.0.0.7:4711 on node7: numpy 1.26.4, the driver has 2.3.5

Questions and answers are plain dictionaries: a worker with another version of this package can answer, too. `answer`
does not import torch, unless the build runs on an accelerator and so has to look for one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import dataengine
from dataengine.core import devices
from dataengine.core.component import Component
from dataengine.core.errors import DataEngineError
from dataengine.core.resources import memory_bytes
from dataengine.core.settings import find_manifest
from dataengine.io.storage import file_hash
from dataengine.pipeline import source_code
from dataengine.pipeline.fingerprints import LIBRARIES, components_of, modules_of, version_of
from dataengine.pipeline.recipe import Recipe, validate

Question: TypeAlias = dict[str, Any]
"""What the driver asks; see `question`."""
Answer: TypeAlias = dict[str, Any]
"""What a worker answers; see `answer`."""

STORING = ("blake3", "dask", "distributed", "pyarrow", "webdataset")
"""Packages that write bytes or carry messages; of one version everywhere, beside the numeric libraries."""

LEAST_FREE = 256 << 20
"""Bytes that must be free where the results of a build are written."""


@dataclass(frozen=True)
class Difference:
    """One way in which a worker differs from the driver.

    Attributes:
        address: of the worker. host: name of its machine; '' where it did not answer.
        kind: answer, threads, nanny, machine, library, code, sees, device or disk.
        what: what differs, for people.
    """

    address: str
    host: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"worker {self.address}{f' on {self.host}' if self.host else ''}: {self.what}"


def question(
    job_path: Path, recipe: Recipe, media: Mapping[str, tuple[str, str, int]], device: str, libraries: Iterable[str]
) -> Question:
    """What to ask the workers of a build.

    Args:
        job_path: the saved job, which workers read (`Job.save`).
        media: source -> its root, one planned file and its size; see `media_of`.
        device: of the build: cpu or cuda.
        libraries: that the passes of the build use, as they are imported.
    """
    modules = modules_of(components_of(recipe).values())
    return {
        "job": str(job_path),
        "media": {name: list(planned) for name, planned in media.items()},
        "device": device,
        "libraries": sorted(libraries),
        "modules": [name for name in modules if name.partition(".")[0] != source_code.OWN],
    }


def media_of(rows: Iterable[Mapping[str, Any]], roots: Mapping[str, str]) -> dict[str, tuple[str, str, int]]:
    """source -> its root, one file that was planned with a size, and that size, for `question`.

    Args:
        rows: of the plan; looked at until every source with media has its file.
    """
    found: dict[str, tuple[str, str, int]] = {}
    for row in rows:
        if row["source"] not in found and row["media"] and row["media_size"] >= 0:
            found[row["source"]] = (roots[row["source"]], row["media"], row["media_size"])
            if len(found) == len(roots):
                break
    return found


def answer(asked: Question, worker: Any = None) -> Answer:
    """What this process is and what it sees; runs in every worker, and in the driver to compare with.

    Args:
        worker: the Dask worker of this process; None looks for it.

    Returns:
        address, host, pid, machine (processor architecture): of the process.
        threads: tasks that it runs at once. nanny: whether a process restarts it when it dies.
        versions: package -> version, of those asked for, and of Python without its last part.
        code: source file of dataengine, or module of a plug-in -> digest.
        seen: what the build needs -> digest, size, or what is wrong with it.
        gpus: how many it sees; 0 where none is asked for. offers_gpu: whether it takes tasks for one.
        memory: bytes that it may use. free: bytes where results are written.
    """
    worker = _worker() if worker is None else worker
    return {
        "address": "" if worker is None else worker.address,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": platform.machine(),
        "threads": 1 if worker is None else worker.state.nthreads,
        "nanny": worker is None or worker.nanny is not None,
        "versions": _versions(asked["libraries"]),
        "code": _code(asked["modules"]),
        "seen": _seen(asked),
        "gpus": devices.count() if asked["device"] != "cpu" and devices.able() else 0,
        "offers_gpu": worker is not None and worker.state.total_resources.get("GPU", 0) > 0,
        "memory": memory_bytes(),
        "free": _free(Path(asked["job"]).parent),
    }


def differences(own: Answer, answers: Mapping[str, Answer | BaseException]) -> list[Difference]:
    """Who differs from the driver, and in what; each is a reason to give a worker no work.

    Args:
        own: what `answer` gives in the driver's process.
        answers: address of a worker -> its answer, or what was raised in its place.
    """
    found = []
    for address, given in answers.items():
        if isinstance(given, BaseException):
            raised = " ".join(f"{type(given).__name__}: {given}".split())
            found.append(Difference(address, "", "answer", f"cannot say what it is: {raised}"))
            continue
        found += [Difference(address, given["host"], kind, what) for kind, what in _differences(own, given)]
    return found


def _differences(own: Answer, given: Answer) -> Iterator[tuple[str, str]]:
    if own.keys() - given.keys():
        yield "answer", f"answers as another version of this package does: nothing of {min(own.keys() - given.keys())}"
        return
    if given["threads"] != 1:
        yield "threads", f"runs {given['threads']} tasks at once: start it with --nthreads 1 (and more workers)"
    if not given["nanny"]:
        yield "nanny", "nothing restarts it when it dies: start it without --no-nanny"
    if given["machine"] != own["machine"]:
        yield "machine", f"runs on {given['machine']}, the driver on {own['machine']}"
    for name, version in own["versions"].items():
        other = given["versions"].get(name)
        if other != version:
            yield "library", f"{name} {other or 'is not installed'}, the driver has {version or 'none'}"
    others = [file for file in {**own["code"], **given["code"]} if own["code"].get(file) != given["code"].get(file)]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        yield "code", f"other code than the driver's: {', '.join(sorted(others)[:3])}{more}"
    for name, value in own["seen"].items():
        other = given["seen"].get(name)
        if other != value:
            yield "sees", f"{name}: {other or 'not looked for'}; the driver has {value}"
    if given["offers_gpu"] and not given["gpus"]:
        yield "device", "offers the resource GPU and sees none"
    if given["free"] < LEAST_FREE:
        yield "disk", f"{given['free'] >> 20} MB are free where results are written"


def _worker() -> Any | None:
    """The Dask worker that runs this, None in the driver's process."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _versions(libraries: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {"dataengine": dataengine.__version__}
    found["python"] = ".".join(platform.python_version_tuple()[:2])
    for name in libraries:
        found[name] = version_of(name) if name in LIBRARIES else None
    for package in STORING:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _code(modules: Iterable[str]) -> dict[str, str]:
    """Every source of this package, and those of plug-ins that the modules are of."""
    own = f"{source_code.OWN}."
    added = {name: digest for name, digest in source_code.closure(modules).modules.items() if not name.startswith(own)}
    return {**source_code.package_digests(), **added}


def _seen(asked: Question) -> dict[str, str]:
    """What the build reads and where it writes, as this process sees it."""
    job = Path(asked["job"])
    found = {f"job {job}": _told(_digest, job), f"results in {job.parent}": _told(_written, job)}
    for name, (root, media, _) in asked["media"].items():
        found[f"media of {name} in {root}"] = _told(_size, Path(root) / media)
    if job.is_file():
        found["recipe"] = _told(_needed, job, found)
    return found


def _digest(path: Path) -> str:
    return file_hash(path)[:16]


def _size(path: Path) -> str:
    return f"{path.name} with {path.stat().st_size} bytes"


def _needed(job: Path, found: dict[str, str]) -> str:
    """Look for every file that the recipe of a job names or implies."""
    content = json.loads(job.read_bytes())
    recipe = validate(content["recipe"], "the job", content["overlay"])
    for name, component in components_of(recipe).items():
        if (hashes := _told(_hashes, component)) != "":
            found[f"weights of {name}"] = hashes
    if (file := recipe.pose.calibration_file) is not None:
        found[f"calibration {file}"] = _told(_digest, Path(file))
    for name in ("prompts.toml", "verbs.csv"):
        manifest = find_manifest(name)
        found[name] = "absent" if manifest is None else _told(_digest, manifest)
    return "understood"


def _hashes(component: Component) -> str:
    return ", ".join(f"{name} {digest[:16]}" for name, digest in sorted(component.weights().items()))


def _told(look: Callable[..., str], *given: Any) -> str:
    """What `look(*given)` finds, or what keeps it from finding it."""
    try:
        return look(*given)
    except OSError as error:
        return f"{error.strerror or error} ({error.filename})" if error.filename else str(error.strerror or error)
    except DataEngineError as error:
        return str(error)


def _written(job: Path) -> str:
    """Write a file beside the job, as results are, and remove it."""
    folder = job.parent / "staging"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"handshake")
        file.flush()
        os.fsync(file.fileno())
    return "written"


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
