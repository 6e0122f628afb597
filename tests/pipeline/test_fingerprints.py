"""What a pass depends on: sources of its own code and no others, versions of libraries, the kind of device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import dataengine
from dataengine.builder import resolve
from dataengine.core import registry
from dataengine.core.errors import ComponentError, RecipeError
from dataengine.passes.base import passes_of
from dataengine.passes.job import Job
from dataengine.pipeline import fingerprints, recipe_lock, source_code
from dataengine.pipeline.fingerprints import Environment, Parts, accept, changes, kept, reasons, settled
from tests.support import plugins

PACKAGE = Path(dataengine.__file__).parent


def forget() -> None:
    """Forget the sources that were read."""
    for cached in (source_code._folders, source_code._file, source_code._read, source_code.package_digests):
        cached.cache_clear()  # type: ignore[attr-defined]


@dataclass
class Checkout:
    """A copy of the sources of this package, which fingerprints are taken of; what runs is not changed."""

    folder: Path

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        forget()

    def add(self, file: str, text: str) -> None:
        path = self.folder / file
        path.write_text(path.read_text() + text)
        forget()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    copy = tmp_path / "dataengine"
    shutil.copytree(PACKAGE, copy, ignore=lambda folder, names: [n for n in names if n == "__pycache__"])
    forget()
    folders = source_code._folders

    def folders_of(package: str) -> tuple[Path, ...]:
        return (copy,) if package == "dataengine" else folders(package)

    folders_of.cache_clear = folders.cache_clear  # type: ignore[attr-defined]
    monkeypatch.setattr(source_code, "_folders", folders_of)
    yield Checkout(copy)
    monkeypatch.undo()
    forget()


@pytest.fixture(autouse=True)
def versions_anew() -> Iterator[None]:
    fingerprints.version_of.cache_clear()
    yield
    fingerprints.version_of.cache_clear()


def taken(*overrides: str, device: str = "cpu") -> Job:
    return Job.of(resolve("posecap", "sample", None, overrides), Path("/nowhere"), device)


def environments(device: str = "cpu") -> dict[str, Environment]:
    """Of the passes of the default recipe, whose weights need not be here."""
    recipe = resolve("posecap", {"kinetics700": "/videos"})
    return {p.name: p.environment(recipe, device) for p in passes_of(recipe)}


def changed(before: Job, now: Job) -> set[str]:
    return {name for name, digest in now.fingerprints.items() if before.fingerprints.get(name) != digest}


EVERYTHING = {"probe", "pose", "measure", "curate", "pack", "report"}


def test_other_code_of_a_fusion_changes_poses_and_not_probing(checkout: Checkout) -> None:
    before = taken()
    checkout.add("fusion/consensus.py", "\nSHARE = 0.5\n")
    after = taken()
    assert changed(before, after) == EVERYTHING - {"probe"}
    assert reasons(before.parts, after.parts) == {
        "pose": "code of fusion/consensus.py changed (--accept pose keeps what there is)"
    }


def test_what_an_import_brings_counts_wherever_it_stands(checkout: Checkout) -> None:
    before = taken()
    checkout.add("fusion/_kernels/smoothing.py", "\nSHARE = 0.5\n")  # consensus -> spline -> smoothing
    assert "pose" in changed(before, taken())
    before = taken()
    checkout.add("experts/preprocess.py", "\nSHARE = 0.5\n")
    assert "pose" in changed(before, taken())


@pytest.mark.parametrize(
    "file", ["fusion/best.py", "experts/vitpose.py", "fusion/calibration.py", "cli.py", "report/page.py"]
)
def test_code_that_a_pass_does_not_run_leaves_its_results(checkout: Checkout, file: str) -> None:
    before = taken()
    checkout.add(file, "\nSHARE = 0.5\n")
    assert changed(before, taken()) <= {"report"}


def test_a_changed_filter_leaves_poses_and_a_changed_report_leaves_all_else(checkout: Checkout) -> None:
    before = taken()
    checkout.add("filters/jitter.py", "\nSHARE = 0.5\n")
    after = taken()
    assert changed(before, after) == EVERYTHING - {"probe", "pose"}
    checkout.add("report/charts.py", "\nSHARE = 0.5\n")
    assert changed(after, taken()) == {"report"}


def test_comments_docstrings_and_layout_change_nothing(checkout: Checkout) -> None:
    before = taken()
    file = "fusion/consensus.py"
    text = (checkout.folder / file).read_text()
    first = text.index('"""')
    end = text.index('"""', first + 3) + 3
    rest = text[end:].replace("\n\n", "\n\n\n").replace("class ", "# a comment\nclass ", 1)
    (checkout.folder / file).write_text(f'"""Another docstring."""{rest}\n# the end\n')
    forget()
    assert taken().fingerprints == before.fingerprints


def test_a_docstring_is_not_the_only_string_of_a_body(checkout: Checkout) -> None:
    checkout.add("fusion/consensus.py", '\n\ndef share():\n    """One."""\n    return "one"\n')
    before = taken()
    checkout.edit("fusion/consensus.py", '"""One."""', '"""Two."""')
    assert taken().fingerprints == before.fingerprints
    checkout.edit("fusion/consensus.py", 'return "one"', 'return "two"')
    assert "pose" in changed(before, taken())


def test_another_version_of_numpy_changes_what_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = taken()
    info = tmp_path / "numpy-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fingerprints.version_of.cache_clear()
    after = taken()
    assert changed(before, after) == EVERYTHING
    numpy = before.parts["pose"].environment.libraries["numpy"]
    assert reasons(before.parts, after.parts)["pose"].startswith(f"numpy {numpy} -> 9.9.9 ")


def test_a_library_that_no_code_of_a_pass_imports_does_not_count() -> None:
    libraries = {name: set(parts.environment.libraries) for name, parts in taken().parts.items()}
    assert "av" in libraries["probe"] and "scipy" not in libraries["probe"]
    assert {"av", "cv2", "numba", "numpy", "onnxruntime", "scipy"} <= libraries["pose"]
    assert not {"transformers", "sklearn", "decord"} & libraries["pose"]
    assert fingerprints.version_of("torch") is None or "torch" in environments()["pose"].libraries, "imported late"


def test_the_kind_of_device_counts_for_networks_alone() -> None:
    cpu, cuda = taken(), taken(device="cuda")
    assert {name for name in cpu.parts if cpu.parts[name] != cuda.parts[name]} == {"pose"}
    assert changed(cpu, cuda) == EVERYTHING - {"probe"}
    assert reasons(cpu.parts, cuda.parts)["pose"].startswith("device cpu -> cuda")


def test_a_calibration_counts_where_it_is_used(checkout: Checkout) -> None:
    recipe = resolve("posecap", "sample")
    with_it = recipe.model_copy(update={"pose": recipe.pose.model_copy(update={"calibration": "a.json"})})
    pose = Job.of(recipe, Path("/nowhere"), "cpu").passes["pose"]
    assert pose.unused(recipe) and not pose.unused(with_it)


def test_taking_fingerprints_is_quick() -> None:
    import time

    forget()
    begun = time.process_time()
    taken()
    first = time.process_time() - begun
    begun = time.process_time()
    taken()
    assert first < 3.0 and time.process_time() - begun < 0.5  # usually 0.15 and 0.01


# plug-ins


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the example package, installed."""
    code = tmp_path / "code" / "elsewhere"
    shutil.copytree(plugins.OUTSIDE, code, ignore=shutil.ignore_patterns("__pycache__"))
    for path in code.rglob("*.py"):
        path.write_text(path.read_text().replace("outside", "elsewhere"))
    points = (plugins.OUTSIDE / "entry_points.txt").read_text().replace("outside", "elsewhere")
    plugins.install(tmp_path / "site", "elsewhere", points, code.parent, monkeypatch)
    forget()
    yield code
    monkeypatch.undo()
    registry.refresh()
    forget()


PLUGGED = ('pose.fusion="first_seen"', "passes.brightness.min=0.1")


def test_the_sources_of_a_plug_in_count(outside: Path) -> None:
    before = taken(*PLUGGED)
    path = outside / "fusion.py"
    path.write_text(path.read_text() + "\nSHARE = 0.5\n")
    forget()
    after = taken(*PLUGGED)
    assert "probe" not in changed(before, after) and "pose" in changed(before, after)
    assert reasons(before.parts, after.parts) == {
        "pose": "code of elsewhere/fusion.py changed (--accept pose keeps what there is)"
    }
    path = outside / "unit_pass.py"
    path.write_text(path.read_text() + "\nSHARE = 0.5\n")
    forget()
    assert "brightness" in changed(after, taken(*PLUGGED)) and "pose" not in changed(after, taken(*PLUGGED))


def test_a_component_of_the_running_script_counts_by_the_script(tmp_path: Path) -> None:
    script = tmp_path / "own_fusion.py"
    script.write_text(
        "from dataengine.pipeline.source_code import closure\nprint(closure(['__main__']).modules['__main__'])\n"
    )
    first = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    script.write_text(script.read_text() + "SHARE = 0.5\n")
    second = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert len(first.strip()) == len(second.strip()) > 8 and first != second
    asked = "from dataengine.pipeline.source_code import closure; print(closure(['__main__']).modules)"
    typed = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert typed.strip() == "{'__main__': 'absent'}"


def test_a_source_that_is_no_python_is_named(checkout: Checkout) -> None:
    checkout.add("fusion/consensus.py", "\ndef (:\n")
    with pytest.raises(ComponentError, match=r"consensus\.py cannot be read as Python"):
        taken()


# accepting


ONE = Environment({"dataengine.fusion.consensus": "1"}, {"numpy": "2.3.1"})
TWO = Environment({"dataengine.fusion.consensus": "2"}, {"numpy": "2.3.5"})
THREE = Environment({"dataengine.fusion.consensus": "3"}, {"numpy": "2.3.5"})


def parts(environment: Environment, version: int = 1, configuration: str = "c") -> Parts:
    return Parts(version, configuration, environment)


def test_what_changed_is_told_in_a_line() -> None:
    assert changes(ONE, TWO) == ["numpy 2.3.1 -> 2.3.5", "code of fusion/consensus.py changed"]
    many = Environment({f"dataengine.a.b{n}": "x" for n in range(5)}, {})
    assert changes(Environment({}, {}), many) == ["code of a/b0.py, a/b1.py, a/b2.py and 2 more changed"]
    told = reasons({"pose": parts(ONE, 3), "probe": parts(ONE), "measure": parts(ONE)},
                   {"pose": parts(TWO, 4), "probe": parts(ONE, configuration="d"), "measure": parts(ONE)})  # fmt: skip
    assert told == {"pose": "version 3 -> 4 of the pass", "probe": "its part of the recipe or its weights changed"}


def test_accepted_results_keep_their_fingerprint_in_later_builds() -> None:
    found = accept("pose", parts(TWO), parts(ONE))
    assert found.environment == ONE
    assert [(a.environment, a.changes) for a in found.accepted] == [(TWO.digest, tuple(changes(ONE, TWO)))]
    again = Parts.from_toml(found.to_toml())
    assert again == found
    assert settled(parts(TWO), again) == again and settled(parts(ONE), again) == again
    assert settled(parts(THREE), again).environment == THREE, "code changed once more: nobody accepted that"


def test_results_of_before_an_abandoned_try_can_be_accepted() -> None:
    begun = settled(parts(TWO), parts(ONE))
    assert begun.environment == TWO and Parts.from_toml(begun.to_toml()) == begun
    assert accept("pose", parts(TWO), begun).environment == ONE


@pytest.mark.parametrize(
    ("now", "before", "message"),
    [
        (parts(TWO), None, "has no results of pose yet"),
        (parts(TWO, 2), parts(ONE, 1), "results of version 1 of the pass differ from those of version 2"),
        (parts(TWO, 1, "d"), parts(ONE, 1, "c"), "the recipe or the weights of pose changed"),
    ],
)
def test_results_that_differ_for_another_reason_are_not_accepted(
    now: Parts, before: Parts | None, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        accept("pose", now, before)


def test_what_is_kept_once_is_made_anew_by_the_next_build() -> None:
    once = kept(parts(TWO), parts(ONE), lasting=False)
    assert once.environment == ONE and once.accepted
    assert settled(parts(TWO), once).environment == TWO


def test_only_passes_of_the_recipe_are_accepted() -> None:
    with pytest.raises(RecipeError, match="--accept 'embed'; allowed"):
        Job.of(resolve("posecap", "sample"), Path("/nowhere"), "cpu", {}, ["embed"])


def test_the_lock_names_what_fingerprints_are_made_of(tmp_path: Path) -> None:
    job = taken()
    recipe_lock.write(tmp_path, job.recipe, job.fingerprints, {}, job.parts)
    path = tmp_path / recipe_lock.NAME
    assert recipe_lock.parts(path) == job.parts
    again = Job.of(resolve(str(path)), tmp_path, "cpu", recipe_lock.parts(path))
    assert (
        again.fingerprints == job.fingerprints
        and recipe_lock.why_anew("posecap", recipe_lock.parts(path), again.parts) == []
    )
    other = replace(job.parts["pose"], environment=replace(job.parts["pose"].environment, device="cuda"))
    recipe_lock.write(tmp_path, job.recipe, job.fingerprints, {}, {**job.parts, "pose": other})
    assert recipe_lock.why_anew(str(path), {}, again.parts) == [f"pose: not as {path} was built: device cuda -> cpu"]


# growth


CLOSURES = {
    "probe": 8,
    "pose": 56,
    "measure": 28,
    "curate": 28,
    "embed": 24,
    "label_check": 16,
    "pack": 12,
    "report": 18,
}
"""Most source files that a pass may depend on. Each one more is one more whose change makes results anew."""


def test_what_a_pass_depends_on_stays_small() -> None:
    found = environments()
    for name, environment in found.items():
        files = [module.removeprefix("dataengine.") for module in environment.code]
        assert len(files) <= CLOSURES[name], f"{name} depends on {len(files)} files: {', '.join(files)}"
        assert name == "report" or not any(file.startswith("report") for file in files)
    assert [module.removeprefix("dataengine.") for module in found["probe"].code] == [
        "core", "core.types", "media", "media.files", "media.kinds", "media.probe", "media.reader", "passes.probe",
    ]  # fmt: skip
