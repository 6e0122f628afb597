"""The benchmark on public sets reads files of their formats as a user would convert them."""

from __future__ import annotations

import bz2
import importlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from scipy.io import savemat

from training.data.formats import open_datasets


@pytest.fixture(scope="module")
def benchmark() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("public_sets")


def opened(arrays: dict[str, Any], path: Path) -> tuple[Any, Any]:
    np.savez(path, **arrays)
    (train,), (test,) = (open_datasets(path, split=split) for split in ("train", "test"))
    return train, test


def text(value: str) -> bytes:
    return struct.pack(">ii", 9, len(value)) + value.encode()


def rda(classes: dict[str, list[np.ndarray]]) -> bytes:
    """What R's save() writes of AR.data: a list by name of lists of matrices."""

    def matrix(values: np.ndarray) -> bytes:
        dims = struct.pack(">iii", 13, 2, values.shape[0]) + struct.pack(">i", values.shape[1])
        body = struct.pack(">ii", 14 | 512, values.size) + values.ravel(order="F").astype(">f8").tobytes()
        return body + pair("dim", dims) + struct.pack(">i", 254)

    def pair(name: str, value: bytes) -> bytes:
        return struct.pack(">i", 2 | 1024) + struct.pack(">i", 1) + text(name) + value

    lists = b"".join(
        struct.pack(">ii", 19, len(rows)) + b"".join(map(matrix, rows[:1])) + b"".join(map(again, rows[1:]))
        for rows in classes.values()
    )
    names = struct.pack(">ii", 16, len(classes)) + b"".join(map(text, classes))
    whole = struct.pack(">ii", 19 | 512, len(classes)) + lists + pair("names", names) + struct.pack(">i", 254)
    head = b"RDX2\nX\n" + struct.pack(">iii", 2, 0x040503, 0x020300)
    return bz2.compress(head + pair("AR.data", whole) + struct.pack(">i", 254))


def again(values: np.ndarray) -> bytes:
    """A matrix whose attribute is named by the symbol that came before."""
    dims = struct.pack(">iii", 13, 2, values.shape[0]) + struct.pack(">i", values.shape[1])
    body = struct.pack(">ii", 14 | 512, values.size) + values.ravel(order="F").astype(">f8").tobytes()
    return body + struct.pack(">ii", 2 | 1024, 255 | 2 << 8) + dims + struct.pack(">i", 254)


def test_an_r_file_of_matrices(benchmark: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held = {name: [rng.normal(size=(50, 92)) for _ in range(4)] for name in ("come", "five")}
    path = tmp_path / "AR.data.rda"
    path.write_bytes(rda(held))
    read = benchmark.read_rda(path)["AR.data"]
    assert list(read) == ["come", "five"]
    assert all((one == two).all() for name in held for one, two in zip(held[name], read[name], strict=True))
    train, test = opened(benchmark.robot(path), tmp_path / "robot.npz")
    assert list(train.keys) == ["come00", "come01", "five00", "five01"] and len(test) == 4
    clip = test.read([3])[0]
    assert clip.keypoints.shape == (1, 92, 25, 2) and test.labels[clip.label] == "five"
    np.testing.assert_allclose(clip.keypoints[0, 7, 4], held["five"][3][[4, 29], 7], rtol=1e-6)
    path.write_bytes(bz2.compress(b"RDX3\nX\n"))
    with pytest.raises(ValueError, match="no file of R's save"):
        benchmark.read_rda(path)


def test_files_of_matlab(benchmark: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(20, 3, 31))
    for name in ("a3_s1_t2", "a1_s2_t1"):
        savemat(tmp_path / f"{name}_skeleton.mat", {"d_skel": one})
    train, test = opened(benchmark.utd_mhad(tmp_path), tmp_path / "utd.npz")
    clip = train.read([0])[0]
    assert train.labels[clip.label] == "wave" and list(test.groups) == ["2"] and clip.keypoints.shape == (1, 31, 20, 3)
    np.testing.assert_allclose(clip.keypoints[0, :, 6], one[6].T, rtol=1e-6)
    assert train.skeleton.joints[6] == "left_wrist" and train.skeleton.joints[train.skeleton.flip[6]] == "right_wrist"
    cells = np.empty((9, 10, 2), object)
    cells[:] = [[[np.zeros((0, 0))] * 2] * 10] * 9
    cells[8, 2, 1] = rng.normal(size=(3, 15, 8))
    cells[0, 1, 0] = rng.normal(size=(3, 15, 9))
    savemat(tmp_path / "florence.mat", {"data": cells})
    train, test = opened(benchmark.florence(tmp_path / "florence.mat"), tmp_path / "florence.npz")
    assert train.labels[train.label_ids[0]] == "bow" and list(test.keys) == ["a01_s02_e01"]
    np.testing.assert_allclose(train.read([0])[0].keypoints[0, 5, 9], cells[8, 2, 1][:, 9, 5], rtol=1e-6)


def test_files_of_time_series(benchmark: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(24, 51)).round(4)
    line = ":".join(",".join(map(str, row)) for row in values)
    for half in ("TRAIN", "TEST"):
        (tmp_path / f"NATOPS_{half}.ts").write_text(f"#about\n@problemName NATOPS\n@data\n{line}:4.0\n")
    train, test = opened(benchmark.natops(tmp_path), tmp_path / "natops.npz")
    assert (len(train), len(test)) == (1, 1) and train.labels[train.label_ids[0]] == "spread wings"
    np.testing.assert_allclose(test.read([0])[0].keypoints[0, 9, 3], values[9:12, 9], rtol=1e-6)


def test_other_files_are_refused(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv(benchmark.PLACE, raising=False)
    assert benchmark.converted("robot") is None and "cran/dbcsp" in capsys.readouterr().err
    (tmp_path / "ar").mkdir()
    (tmp_path / "ar" / "AR.data.rda").write_bytes(b"other")
    monkeypatch.setenv(benchmark.PLACE, str(tmp_path))
    with pytest.raises(SystemExit, match="not the files of cran/dbcsp"):
        benchmark.converted("robot")
    assert benchmark.converted("natops") is None
