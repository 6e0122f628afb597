"""The report page and the dataset card: complete, escaped, self-contained, and the same for the same dataset."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataengine.core.reasons import REASONS
from dataengine.core.skeletons import SKELETONS
from dataengine.dataset import index
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.dataset import open as open_dataset
from dataengine.report import statistics as tallies
from dataengine.report.card import dataset_card
from dataengine.report.charts import count, histogram, number, percent
from dataengine.report.html import VOID, data_block, el
from dataengine.report.page import Picture, render_report
from tests.support import tiny_dataset

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&|`]]>\u202e\x00"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FACTS = {
    "skeleton": "posetics17", "experts": list(tiny_dataset.EXPERTS), "fusion": "ssta",
    "recipe": {"name": "tiny", "version": 3, "description": "A tiny dataset."},
    "filters": {"jitter": {"min": None, "max": 0.5}},
}  # fmt: skip


def sealed(root: Path, **changes: dict[str, object]) -> Dataset:
    """The dataset with columns of its tables set to constants, and the facts of a build in its manifest."""
    experts = index.tracks_schema(tiny_dataset.EXPERTS)
    for name, columns in changes.items():
        rows = pq.read_table(root / "index" / name).to_pylist()
        index.write_table(
            root / "index" / name, [row | columns for row in rows], index.TABLES[name] if name != "tracks" else experts
        )
    accuracy = [
        {"clip_id": "a", "expert": expert, "condition": condition, "num_joints": 100, "num_right": right}
        for expert, right in (("blob", 70), ("stick", 80), ("SST-A", 90)) for condition in ("clean", "lowres")
    ]  # fmt: skip
    index.write_table(root / "index" / "accuracy", accuracy, index.ACCURACY)
    old = json.loads((root / "MANIFEST.json").read_text())
    index.write_manifest(root, index.build_manifest(root, old["counts"], old["fingerprint"], **FACTS))
    return open_dataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return sealed(tiny_dataset.build(tmp_path_factory.mktemp("tiny"), clips=12, rejected=5))


class Page(HTMLParser):
    """What a page holds; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]


def test_the_page_is_whole_and_needs_nothing_else(dataset: Dataset) -> None:
    pictures = [
        Picture("random-video000-0-160", "clap", PIXEL, "frame 2"),
        Picture("random-gone000-0-100", None, PIXEL, "0.9", "jitter"),
    ]
    text = render_report(dataset, pictures, motions=5)
    page = Page(text)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "base", "form")
        for name in ("src", "href"):
            if name in attrs:
                value = attrs[name] or ""
                assert value.startswith("data:image/") or (value.startswith("#") and value[1:] in ids), value
        assert not any(name.startswith("on") for name in attrs)
    assert "url(" not in text and "@import" not in text
    assert sum(tag == "canvas" for tag, _ in page.tags) == 5
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    for anchor in (
        "motions",
        "funnel",
        "reasons",
        "quality",
        "labels",
        "people",
        "experts",
        "accuracy",
        "media",
        "rights",
        "pictures",
        "rejected",
    ):
        assert anchor in ids
    words = " ".join(page.text)
    for word in (
        "tiny",
        "version 3",
        "12 of 17 planned clips",
        "CC-BY-4.0",
        "clap",
        "max 0.5",
        REASONS["jitter"],
        "left wrist",
        "SST-A",
        "planted",
    ):
        assert word in words, word


def test_the_policy_allows_the_page_s_own_script_only(dataset: Dataset) -> None:
    text = render_report(dataset)
    policy = re.search(r"script-src '(sha256-[^']+)'", text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert policy and len(scripts) == 1
    assert policy[1] == "sha256-" + base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in text


def test_equal_datasets_give_equal_pages_and_cards(dataset: Dataset, tmp_path: Path) -> None:
    again = sealed(tiny_dataset.build(tmp_path / "elsewhere", clips=12, rejected=5))
    assert render_report(again) == render_report(dataset) == render_report(dataset)
    assert dataset_card(again) == dataset_card(dataset)
    assert str(tmp_path) not in render_report(again) + dataset_card(again)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = {name: EVIL for name in ("source", "label", "source_label", "text", "licence", "consent", "subject")}
    gone = {"detail": EVIL, "source": EVIL, "reason": EVIL, "pass": EVIL}
    hostile = sealed(tiny_dataset.build(tmp_path), clips=evil, rejects=gone, joints={"joint": EVIL})
    text = render_report(hostile, [Picture(EVIL, EVIL, PIXEL, EVIL, EVIL)], title=EVIL)
    page = Page(text)
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"] == ["application/json", None]
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "\x00" not in text and "\u202e" not in text
    assert any("alert('x')" in piece for piece in page.text)
    card = dataset_card(hostile)
    body = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert "<script" not in body and "<img" not in body and "\x00" not in body
    for line in card.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6, 7)


def test_elements_escape_what_they_are_given() -> None:
    assert el("b", "<i>", title='"><x') == '<b title="&quot;&gt;&lt;x">&lt;i&gt;</b>'
    assert el("p", [el("br"), None, 3], class_="a", hidden=True, lang=None) == '<p class="a" hidden><br>3</p>'
    block = data_block("d", {"a": "</script><!--"})
    assert block.count("</script>") == 1 and "<!--" not in block
    assert json.loads(block[block.index(">") + 1 : block.rindex("<")]) == {"a": "</script><!--"}


def test_taken_down_clips_are_on_neither(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path)
    known = sealed(root)
    gone = known.clips.select("clip_id").collect()["clip_id"][2]
    assert gone in render_report(known, motions=50)
    index.write_tombstones(root, [{"clip_id": gone, "reason": "asked"}])
    text = render_report(open_dataset(root), motions=50)
    assert gone not in text and "1 clip was taken down" in text
    assert gone not in dataset_card(open_dataset(root))


@pytest.mark.parametrize("clips", [0, 1])
def test_next_to_nothing_is_reported_too(tmp_path: Path, clips: int) -> None:
    small = open_dataset(tiny_dataset.build(tmp_path, clips=clips, rejected=clips))
    Page(render_report(small))
    assert dataset_card(small).startswith("# dataset\n")


def test_clips_plus_losses_are_the_plan(dataset: Dataset) -> None:
    left = tallies.planned(dataset)
    for _, remaining, lost in tallies.funnel(dataset):
        left -= sum(n for _, n in lost)
        assert remaining == left
    assert left == tallies.totals(dataset)["clips"] == 12
    assert sum(row["clips"] for row in tallies.reasons(dataset)) == 5
    assert sum(sum(c.values()) for _, c in tallies.labels(dataset)) == 12
    assert sum(row["clips"] for row in tallies.splits(dataset)) == 12
    seconds = sum(r["num_frames"] / 25 for r in dataset.clips.select("num_frames").collect().to_dicts())
    assert tallies.totals(dataset)["seconds"] == pytest.approx(seconds)


def test_numbers_of_experts_are_those_of_the_tables(dataset: Dataset) -> None:
    shares = dict(tallies.shares(dataset))
    tracks = dataset.tracks.select("share_blob", "num_frames").collect()
    assert shares["blob"] == pytest.approx(np.average(tracks["share_blob"], weights=tracks["num_frames"]), rel=1e-5)
    assert sum(shares.values()) == pytest.approx(1, rel=1e-5)
    conditions, found = tallies.accuracy(dataset)
    assert conditions == ["clean", "lowres", "all"]
    assert [(e, c["all"]) for e, c in found] == [("blob", (140, 200)), ("stick", (160, 200)), ("SST-A", (180, 200))]


def test_drawn_clips_are_spread_over_labels(dataset: Dataset) -> None:
    ids = tallies.drawn(dataset, 6)
    found = dict(dataset.clips.select("clip_id", "label").collect().rows())
    assert len(set(ids)) == 6 and {found[i] for i in ids[:3]} == set(tiny_dataset.LABELS)
    assert tallies.drawn(dataset, 0) == [] and sorted(tallies.drawn(dataset, 100)) == sorted(found)


def test_motion_data_holds_the_poses(dataset: Dataset) -> None:
    row = dataset.clips.collect().to_dicts()[1]
    sample = dataset.sample(row["clip_id"])
    data = tallies.motion_data(sample, row | {"fps": "15"})
    packed = (
        np.frombuffer(base64.b64decode(data["data"]), "<i2")
        .reshape(data["people"], data["frames"], 17, 2)
        .astype(float)
    )
    points = np.where(packed == tallies.MISSING, np.nan, packed / tallies.FINE)
    keypoints = sample["keypoints"].astype(float)
    assert (np.isnan(points) == np.isnan(keypoints)).all()
    scale = data["picture"][2] / row["width"]
    back = (points - data["picture"][:2]) / scale
    assert np.nanmax(np.abs(back - keypoints)) < 0.2
    inside = (points >= 0) & (points <= tallies.SIZE)
    assert inside[np.isfinite(points)].mean() > 0.9


def test_long_and_empty_clips_can_be_shown() -> None:
    row = {"fps": "60000/1001", "width": 640, "height": 480}
    long = tallies.motion_data({"keypoints": np.random.default_rng(0).uniform(0, 400, (2, 3000, 17, 2))}, row)
    assert (
        long["frames"] == tallies.FRAMES
        and long["fps"] == pytest.approx(14.985, abs=1e-3)
        and len(long["data"]) < 50_000
    )
    for shape in ((1, 5, 17, 2), (0, 5, 17, 2), (1, 0, 17, 2)):
        empty = tallies.motion_data({"keypoints": np.full(shape, np.nan)}, row)
        assert empty["people"] == shape[0] and empty["frames"] == -(-shape[1] // 4)


def test_histograms_count_everything_once() -> None:
    rng = np.random.default_rng(0)
    kept, out = rng.gamma(2, 0.01, 500), rng.uniform(0.06, 0.2, 40)
    text = histogram(kept, out, "Jitter", "body heights", "trembling", (None, 0.06))
    amounts = {what: sum(int(n) for n in re.findall(rf": (\d+) {what}<", text)) for what in ("kept", "rejected")}
    assert amounts == {"kept": 500, "rejected": 40}
    assert text.count('class="mark"') == 1 and "max 0.06" in text
    for values in (np.zeros(3), np.array([7.0]), np.array([0.0, 1e9])):
        assert "NaN" not in histogram(values, np.zeros(0), "t", "u", "m") and "nan" not in histogram(
            values, np.zeros(0), "t", "u", "m"
        )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (1234567, "1\u202f234\u202f567"),
        (0.12345, "0.123"),
        (3.0, "3"),
        (1e-7, "1.0e-07"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_numbers_are_for_people(value: float | None, written: str) -> None:
    assert number(value) == written


def test_shares_never_pretend() -> None:
    assert [percent(n, 10_000) for n in (0, 1, 9_999, 10_000, 1_234)] == ["0 %", "<0.1 %", ">99.9 %", "100 %", "12.3 %"]
    assert percent(1, 0) == "–" and count(None) == "–"


def test_every_joint_of_every_body_layout_has_a_place() -> None:
    from dataengine.report.charts import JOINT_POSITIONS

    for name in ("posetics17", "coco17", "body13", "body14", "lcr13", "mpii16", "openpose18"):
        assert set(SKELETONS[name].joints) <= set(JOINT_POSITIONS)


def test_the_card_says_what_is_in_it(dataset: Dataset) -> None:
    card = dataset_card(dataset, {"blob": "Apache-2.0", "stick": "MIT"})
    for word in (
        "# tiny",
        "CC-BY-4.0",
        "Apache-2.0",
        "| clap |",
        "`KEY.keypoints.npy`",
        "mid_hip",
        "jitter | – | 0.5",
        "Known limits",
    ):
        assert word in card, word
    assert len(re.findall(r"```python\n", card)) == 2


@pytest.mark.parametrize(
    "which", [0, pytest.param(1, marks=pytest.mark.slow)]
)  # the second imports webdataset, which imports torch
def test_what_the_card_says_about_reading_works(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    snippet = re.findall(r"```python\n(.*?)```", dataset_card(dataset), re.DOTALL)[which]
    monkeypatch.chdir(dataset.root)
    exec(snippet.replace("PATH/TO/THIS/DATASET", str(dataset.root)), names := {})
    assert names["sample"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_the_skeletons(dataset: Dataset, tmp_path: Path) -> None:
    import cv2

    from dataengine.report.overlay import PEOPLE

    (tmp_path / "page.html").write_text(render_report(dataset), encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--window-size=1280,1400"]
    command += [f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "page.png")), cv2.COLOR_BGR2RGB).astype(int)
    for colour in PEOPLE[0]:
        assert (np.abs(picture - colour).max(-1) < 12).sum() > 200
