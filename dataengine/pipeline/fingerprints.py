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
from dataclasses import asdict, dataclass, replace
from typing import Any

from dataengine.core.errors import RecipeError
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.source_code import FRAMEWORK_VERSION, OWN, closure

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
    """name -> version of those of the libraries that are of LIBRARIES and are installed, of Python (which counts for
    how sums are taken) and of the framework."""
    known = {name: found for name in sorted(LIBRARIES.keys() & set(libraries)) if (found := version_of(name))}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "framework": str(FRAMEWORK_VERSION)} | known


def components_of(recipe: Recipe) -> dict[str, Any]:
    """The components of a recipe that may need files, extras or programs, by name."""
    pose = recipe.pose
    used = [
        ("decoders", pose.decoder),
        *(("detectors", d) for d in (recipe.detector,) if d),
        *(("face_detectors", d) for d in (recipe.face_detector,) if d),
        *(("experts", e) for e in pose.experts),
    ]
    used += [("trackers", pose.tracker), ("fusion", pose.fusion)]
    used += [("filters", name) for name in recipe.curate.filters]
    used += [("lifters", name) for name in (recipe.lifter,) if name]
    used += [("features", name) for name in recipe.embed.features]
    found = {name: recipe.component(kind, name) for kind, name in used}
    if recipe.student is not None:  # a student is often called as its expert is
        found[f"students.{recipe.refine.student}"] = recipe.student
    return found | {f"passes.{name}": recipe.component("passes", name) for name in recipe.options.get("passes", {})}


def modules_of(things: Iterable[object]) -> list[str]:
    """The modules in which the classes of components or passes are written, those of their base classes included."""
    modules = (cls.__module__ for thing in things for cls in type(thing).__mro__)
    return list(dict.fromkeys(name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names))


@dataclass(frozen=True)
class Environment:
    """What ran a pass.

    Attributes:
        code: module -> digest of its source.
        libraries: library, as it is imported, -> version; Python and the framework among them.
        device: 'cpu' or 'cuda' where it counts, else ''.
    """

    code: Mapping[str, str]
    libraries: Mapping[str, str]
    device: str = ""

    @staticmethod
    def of(
        things: Iterable[object], unused: Iterable[str] = (), device: str = "", programs: Iterable[str] = ()
    ) -> Environment:
        """The environment of passes and components in this process.

        Args:
            things: a pass and the components that it runs.
            unused: modules that they import and do not run.
            device: of a pass that works on one, '' for others. Left out where no library can run on an accelerator.
            programs: modules that run in a process of their own.
        """
        found = closure([*modules_of(things), *programs], unused)
        return Environment(found.modules, versions(found.libraries), device if found.libraries & ON_DEVICE else "")

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all of it."""
        return fingerprint([dict(self.code), dict(self.libraries), self.device])

    def to_toml(self) -> dict[str, Any]:
        """The environment as a table of recipe.lock.toml."""
        return {"device": self.device, "libraries": dict(self.libraries), "code": dict(self.code)}

    @staticmethod
    def from_toml(table: Mapping[str, Any]) -> Environment:
        """What `to_toml` gave."""
        return Environment(table.get("code", {}), table.get("libraries", {}), table.get("device", ""))


@dataclass(frozen=True)
class Accepted:
    """Another environment whose results were declared to be as good as those that were there.

    Attributes:
        environment: digest of the environment that runs the pass now.
        changes: how it differs from the one that the fingerprint names, for people.
        lasting: whether later builds accept it, too, without being asked.
    """

    environment: str
    changes: tuple[str, ...]
    lasting: bool = True


@dataclass(frozen=True)
class Parts:
    """The parts of the fingerprint of a pass.

    Attributes:
        version: of the pass.
        configuration: digest of the recipe's part and of weights, without what the pass reads.
        environment: the one that counts for the fingerprint.
        former: the environment before, whose results still lie there until `gc` removes them.
        accepted: other environments that made results under the same fingerprint, knowingly.
    """

    version: int
    configuration: str
    environment: Environment
    former: Environment | None = None
    accepted: tuple[Accepted, ...] = ()

    def to_toml(self) -> dict[str, Any]:
        """The parts as a table of recipe.lock.toml."""
        table = {"version": self.version, "configuration": self.configuration, **self.environment.to_toml()}
        if self.former is not None:
            table["former"] = self.former.to_toml()
        if self.accepted:
            table["accepted"] = [{**asdict(one), "changes": list(one.changes)} for one in self.accepted]
        return table

    @staticmethod
    def from_toml(table: Mapping[str, Any]) -> Parts:
        """What `to_toml` gave."""
        former = Environment.from_toml(table["former"]) if "former" in table else None
        accepted = tuple(Accepted(**{**one, "changes": tuple(one["changes"])}) for one in table.get("accepted", ()))
        return Parts(
            table.get("version", 0), table.get("configuration", ""), Environment.from_toml(table), former, accepted
        )

    def same_recipe(self, other: Parts | None) -> bool:
        """Whether the environment is all in which these parts may differ from others."""
        return other is not None and (self.version, self.configuration) == (other.version, other.configuration)


def accept(name: str, now: Parts, before: Parts | None) -> Parts:
    """The parts of a pass whose results of another environment are taken as they are, now and later.

    Args:
        name: of the pass.
        now: the parts in this process.
        before: what the lock of the build says; None where it knows no such pass.

    Raises:
        RecipeError: nothing was made, or results differ for another reason than the environment.
    """
    if before is None:
        raise RecipeError(f"--accept {name}: this build has no results of {name} yet; leave it out")
    if now.version != before.version:
        raise RecipeError(
            f"--accept {name}: results of version {before.version} of the pass differ from those of version "
            f"{now.version}; leave it out, so that they are made anew"
        )
    if now.configuration != before.configuration:
        raise RecipeError(
            f"--accept {name}: the recipe or the weights of {name} changed, not its code alone; leave it out, or bring "
            "them back"
        )
    return kept(now, before)


def kept(now: Parts, before: Parts, lasting: bool = True) -> Parts:
    """The parts of results that are kept although another environment made them.

    Where a build has begun with the present environment and was not finished, the results kept are those before it.

    Args:
        lasting: whether later builds keep them, too, without being asked.
    """
    found = settled(now, before)
    if found.former is None:
        return found
    known = tuple(one for one in found.accepted if one.environment != now.environment.digest)
    changed = tuple(changes(found.former, now.environment))
    accepted = (*known, Accepted(now.environment.digest, changed, lasting))
    return Parts(now.version, now.configuration, found.former, None, accepted)


def settled(now: Parts, before: Parts | None) -> Parts:
    """The parts that count where nothing new is accepted: those of the lock, where they accept this environment."""
    if before is None or not now.same_recipe(before):
        return now
    digest = now.environment.digest
    if digest == before.environment.digest or any(a.lasting and a.environment == digest for a in before.accepted):
        return before
    return replace(now, former=before.environment)


def changes(before: Environment, now: Environment) -> list[str]:
    """How two environments differ, for people: Python, libraries, device, then code."""
    found = []
    for name in {**before.libraries, **now.libraries}:
        old, new = before.libraries.get(name), now.libraries.get(name)
        if old != new:
            found.append(f"{name} {old or 'not used'} -> {new or 'not used'}")
    if before.device != now.device:
        found.append(f"device {before.device or 'any'} -> {now.device or 'any'}")
    others = sorted(n for n in {**before.code, **now.code} if before.code.get(n) != now.code.get(n))
    if others:
        shown = [name.removeprefix(f"{OWN}.").replace(".", "/") + ".py" for name in others[:3]]
        found.append(f"code of {', '.join(shown)}{f' and {len(others) - 3} more' if len(others) > 3 else ''} changed")
    return found


def reasons(before: Mapping[str, Parts], now: Mapping[str, Parts]) -> dict[str, str]:
    """pass -> why its results are made anew, in a few words, of the passes that differ by more than what they read.

    Args:
        before: the parts of each pass in the lock of a build. now: those of the build that begins.
    """
    found = {}
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        told = changes(old.environment, new.environment)
        if old.version != new.version:
            found[name] = f"version {old.version} -> {new.version} of the pass"
        elif old.configuration != new.configuration:
            found[name] = "; ".join(["its part of the recipe or its weights changed", *told])
        elif told:
            found[name] = f"{'; '.join(told)} (--accept {name} keeps what there is)"
    return {name: found[name] for name in now if name in found}
