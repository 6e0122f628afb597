"""What the results of a pass depend on beside its recipe: code, numeric libraries and the kind of device.

The fingerprint of a pass is the digest of its configuration (`Pass.fingerprint`) and of its `Environment`: the sources
of the code that the pass runs (`dataengine.pipeline.source_code`), the versions of the numeric libraries that this code
imports, and whether it runs on a CPU or on an accelerator. Another environment is another fingerprint, so results of
two environments never mix unsaid. What precision networks compute in is an option of a component, and so part of the
configuration; its default follows from the kind of device.

`recipe.lock.toml` keeps the parts, so that a build can say why a pass is made anew (`changes`), and so that its owner
can take older results as they are (`accept`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from dataengine.pipeline.recipe import Recipe

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "av": ("av",),
    "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "decord": ("decord2", "decord"),
    "jax": ("jax",),
    "mediapipe": ("mediapipe",),
    "mmcv": ("mmcv-lite", "mmcv"),
    "mmdet": ("mmdet",),
    "mmpose": ("mmpose",),
    "numba": ("numba",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "open_clip": ("open_clip_torch",),
    "openvino": ("openvino",),
    "PIL": ("pillow",),
    "scipy": ("scipy",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "tensorflow": ("tensorflow",),
    "tensorrt": ("tensorrt",),
    "tflite_runtime": ("tflite-runtime",),
    "timm": ("timm",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "ultralytics": ("ultralytics",),
}
"""Libraries that numbers come from: name as it is imported -> packages that bring it, the first one found counts.
Others move, store or check data; what they do to bytes is told by versions of passes."""

ON_DEVICE = frozenset(
    {"jax", "mmpose", "onnxruntime", "open_clip", "openvino", "tensorflow", "tensorrt", "torch", "ultralytics"}
)
"""Libraries that can run on an accelerator. The kind of device counts for code that imports one of them."""

_FFMPEG = re.compile(r"libavcodec-[0-9a-f]+\.so\.([\d.]+)$")


@functools.cache
def version_of(library: str) -> str | None:
    """The installed version of a library of LIBRARIES, None where it is not here; of PyAV with that of its FFmpeg."""
    for package in LIBRARIES[library]:
        try:
            found = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if library != "av":
            return found.version
        bundled = [match[1] for file in found.files or () if (match := _FFMPEG.search(file.name))]
        return f"{found.version} (libavcodec {bundled[0] if bundled else 'of the system'})"
    return None


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of those of the libraries that are of LIBRARIES and are installed, and Python's, which counts for how
    sums are taken: name -> version."""
    known = {name: found for name in sorted(LIBRARIES.keys() & set(libraries)) if (found := version_of(name))}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **known}


def components_of(recipe: Recipe) -> dict[str, Any]:
    """The components of a recipe that may need files, extras or programs, by name."""
    pose = recipe.pose
    used = [
        ("decoders", pose.decoder),
        *(("detectors", d) for d in (recipe.detector,) if d),
        *(("experts", e) for e in pose.experts),
    ]
    used += [("trackers", pose.tracker), ("fusion", pose.fusion)]
    used += [("filters", name) for name in recipe.curate.filters]
    used += [("features", name) for name in recipe.embed.features]
    found = {name: recipe.component(kind, name) for kind, name in used}
    return found | {f"passes.{name}": recipe.component("passes", name) for name in recipe.options.get("passes", {})}


def modules_of(things: Iterable[object]) -> list[str]:
    """The modules in which the classes of components or passes are written, those of their base classes included."""
    modules = (cls.__module__ for thing in things for cls in type(thing).__mro__)
    return list(dict.fromkeys(name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names))
