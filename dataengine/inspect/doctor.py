"""doctor: what works on this machine, and the one command that adds what does not."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dataengine.core import devices, extras, registry, resources
from dataengine.core.errors import DataEngineError
from dataengine.core.invocation import command
from dataengine.io import weights
from dataengine.pipeline import overlays
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline.fingerprints import components_of


def examine() -> list[dict[str, Any]]:
    """Findings: {name, ok, detail, fix}; `fix` is a command or advice where something is missing."""
    memory = resources.memory_bytes() / 1e9
    findings = [
        _found(
            "machine",
            True,
            f"{_cores()}, {memory:.0f} GB, {platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}",
        )
    ]
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    findings.append(
        _found("disk", free > 5, f"{free:.0f} GB free here", "free some space, or build elsewhere with --out")
    )
    findings.append(_device())
    findings.append(_recipes())
    findings.append(_encoder())
    for extra in extras.EXTRAS:
        there = extras.installed(extra)
        findings.append(
            _found(f"extra {extra}", there, "installed" if there else "not installed", f"uv sync --extra {extra}")
        )
    uv = shutil.which("uv")
    findings.append(
        _found(
            "uv",
            uv is not None,
            uv or "not on the PATH; experts with an environment of their own need it",
            "pip install uv",
        )
    )
    for kind in ("detectors", "experts", "face_detectors", "lifters"):
        findings += [_weights(kind, name) for name in registry.names(kind)]
    return findings


def _found(name: str, ok: bool, detail: str, fix: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail, "fix": "" if ok else fix}


def _cores() -> str:
    """Processors that this process may use, and of how many where that is fewer than the host has."""
    usable, there = resources.cpu_count(), os.cpu_count() or 1
    return f"{usable} cores" if usable == there else f"{usable} of {there} cores"


def _device() -> dict[str, Any]:
    import onnxruntime

    providers = [p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()]
    detail = f"onnxruntime {onnxruntime.__version__}: {', '.join(providers)}"
    if devices.gpus():
        if "CUDA" not in providers:
            detail += " (so `onnx` and `onnx_detector` need onnxruntime-gpu on the GPU; `rtmpose` does not)"
        return _found(
            "devices",
            devices.able(),
            f"{detail}; GPUs: {', '.join(devices.gpus())}",
            "uv sync --extra torch, or pip install onnxruntime-gpu",
        )
    return _found("devices", True, f"{detail}; no NVIDIA GPU")


def _recipes() -> dict[str, Any]:
    """Which overlay fits, and whether what it needs is here."""
    choice, why = overlays.fitting()
    detail = f"for real people here: {choice}: {why}"
    if choice != overlays.NONE:
        recipe = recipes.load("posecap", overlays.CPU, ['sources.use=["folder"]'])
        absent = weights.missing(components_of(recipe).values())
        size = sum(weights.manifest()[name].bytes or 0 for name in absent)
        detail += (
            f"; its weights ({size / 1e6:.0f} MB) come with the first build" if absent else "; its weights are here"
        )
    return _found("recipes", True, detail)


def _encoder() -> dict[str, Any]:
    import numpy as np

    from dataengine.media.encode import write_video
    from dataengine.media.probe import probe

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "test.mp4"
            write_video(path, (np.full((48, 64, 3), n * 20, np.uint8) for n in range(10)), 10)
            info = probe(path)
        return _found("video", True, f"H.264 written and read back ({info.codec})")
    except (DataEngineError, OSError, ValueError) as error:
        return _found("video", False, str(error), "reinstall PyAV: pip install --force-reinstall av")


def _weights(kind: str, name: str) -> dict[str, Any]:
    label = f"{kind.removesuffix('s')} {name}"
    try:
        component = registry.create(kind, name)
        if kind == "experts" and component.looks_up:
            return _found(label, True, "reads poses that other programs saved")
        absent = weights.missing([component])
        if absent:
            entries = [weights.manifest()[file] for file in absent]
            licences = ", ".join(sorted({entry.licence for entry in entries}))
            return _found(
                label,
                False,
                f"weights {', '.join(absent)} are not here ({licences})",
                command(f"weights {' '.join(absent)}"),
            )
        component.check()
        component.weights()
    except (DataEngineError, ImportError) as error:
        return _found(label, False, str(error), "see the message")
    return _found(label, True, "ready")


def to_text(findings: list[dict[str, Any]]) -> str:
    """The findings for people."""
    lines = [
        f"{'ok     ' if f['ok'] else 'missing'} {f['name']:<28} {f['detail']}"
        + (f"\n{'':8}{'':<29}-> {f['fix']}" if f["fix"] else "")
        for f in findings
    ]
    return "\n".join(lines)
