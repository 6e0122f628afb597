"""Shards: what is written comes back, others can read it, and no damage passes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import DatasetError
from dataengine.io import shards
from dataengine.io.shards import END, ShardWriter, decode, iterate, read_sample, sample_bytes

RNG = np.random.default_rng(0)
SAMPLE = {
    "json": {"label": "Übung", "fps": "30000/1001", "list": [1, 2.5, None]},
    "keypoints.npy": RNG.normal(size=(2, 5, 17, 2)).astype(np.float32),
    "scores.npy": RNG.random((2, 5, 17)).astype(np.float16),
    "txt": "some wörds",
    "bin": bytes(range(256)),
}
ARRAYS = {
    "scalar": np.asarray(3.5),
    "empty": np.zeros((0, 17, 2), np.float32),
    "big-endian": np.arange(5, dtype=">i4"),
    "structured": np.array([(1.5, "ab")], dtype=[("value", "<f4"), ("word", "<U2")]),
    "transposed": np.arange(12, dtype=np.int16).reshape(3, 4).T,
    "strided": np.arange(20)[::3],
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "text": np.array(["a", "ccc"]),
}


def write(path: Path, count: int = 3, key: str = "clip") -> list[shards.Written]:
    with ShardWriter(path) as writer:
        return [writer.write(f"{key}-{number}", SAMPLE) for number in range(count)]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array, order="C"))
    return file.getvalue()


def as_bytes(name: str) -> bytes:
    content = SAMPLE[name]
    if isinstance(content, np.ndarray):
        return npy(content)
    if isinstance(content, dict):
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return content.encode() if isinstance(content, str) else content


def test_members_equal_those_of_tarfile(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(3):
            for name in SAMPLE:
                member = tarfile.TarInfo(f"clip-{number}.{name}")
                member.size = len(as_bytes(name))
                archive.addfile(member, io.BytesIO(as_bytes(name)))
    ours = (tmp_path / "a.tar").read_bytes()
    assert ours == file.getvalue()[: len(ours)]
    assert not any(file.getvalue()[len(ours) :])


@pytest.mark.parametrize("key", ["c", "k" * 94, "k" * 95, "k" * 96, "k" * 300])
def test_names_of_any_length_come_back(tmp_path: Path, key: str) -> None:
    written = write(tmp_path / "a.tar", key=key)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == [f"{key}-{number}.{name}" for number in range(3) for name in SAMPLE]
    found = dict(iterate(tmp_path / "a.tar"))
    assert list(found) == [f"{key}-{number}" for number in range(3)]
    assert found[f"{key}-1"] == {name: as_bytes(name) for name in SAMPLE}
    assert (tmp_path / "a.tar").stat().st_size == 3 * sample_bytes(f"{key}-1", SAMPLE) + len(END)
    assert sample_bytes(f"{key}-1", {name: len(as_bytes(name)) for name in SAMPLE}) == written[1].size


def test_webdataset_reads_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write(tmp_path / "a.tar")
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False).decode())
    assert [sample["__key__"] for sample in samples] == ["clip-0", "clip-1", "clip-2"]
    for sample in samples:
        np.testing.assert_array_equal(sample["keypoints.npy"], SAMPLE["keypoints.npy"])
        assert sample["json"] == SAMPLE["json"]
        assert sample["txt"] == SAMPLE["txt"]


def test_shards_of_webdataset_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "clip", "json": {"a": 1}, "keypoints.npy": SAMPLE["keypoints.npy"]})
    ((key, entries),) = iterate(tmp_path / "a.tar")
    assert key == "clip"
    np.testing.assert_array_equal(decode(entries)["keypoints"], SAMPLE["keypoints.npy"])


def test_a_sample_is_read_by_its_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    written = write(path)
    data = path.read_bytes()
    for number, place in enumerate(written):
        entries = read_sample(path, place.offset, place.size, place.blake3)
        assert (
            entries
            == read_sample(path.as_uri(), place.offset, place.size, place.blake3)
            == {name: as_bytes(name) for name in SAMPLE}
        )
        piece = io.BytesIO(data[place.offset : place.offset + place.size])
        with tarfile.open(fileobj=piece, mode="r:") as archive:
            assert archive.getnames() == [f"clip-{number}.{name}" for name in SAMPLE]
        for entry in place.entries:
            assert data[entry.offset : entry.offset + entry.size] == as_bytes(entry.name)


def test_the_bytes_are_a_function_of_the_samples(tmp_path: Path) -> None:
    first, second = ShardWriter(tmp_path / "a.tar"), ShardWriter(tmp_path / "elsewhere" / "b.tar")
    for writer in (first, second):
        writer.write("clip", {"json": {"b": 1, "a": 2} if writer is first else {"a": 2, "b": 1}})
    assert first.close() == second.close()
    assert first.close().bytes == (tmp_path / "a.tar").stat().st_size
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "elsewhere" / "b.tar").read_bytes()
    assert shards.Hasher((tmp_path / "a.tar").read_bytes()).hexdigest() == first.close().blake3


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_stored_as_numpy_stores_them(tmp_path: Path, name: str) -> None:
    array = ARRAYS[name]
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("clip", {"array.npy": array})
    ((_, entries),) = iterate(tmp_path / "a.tar")
    assert entries["array.npy"] == npy(array)
    found = decode(entries)["array"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_fortran_order_is_read() -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    file = io.BytesIO()
    np.save(file, array)
    np.testing.assert_array_equal(decode({"a.npy": file.getvalue()})["a"], array)


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY", npy(np.arange(4))[:-1], npy(np.arange(4)) + b"x", b"\x93NUMPY\x01\x00\x04\x00{ba}"]
)
def test_a_broken_array_is_an_error(data: bytes) -> None:
    with pytest.raises(DatasetError, match=r"'a\.npy' cannot be decoded"):
        decode({"a.npy": data})


def test_pickles_are_never_read() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="Python objects"):
        decode({"a.npy": file.getvalue()})


def test_no_samples_make_a_valid_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        pass
    assert list(iterate(tmp_path / "a.tar")) == []
    assert writer.shard is not None
    assert writer.shard.bytes == len(END)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == []


@pytest.mark.parametrize(
    ("key", "entries", "message"),
    [
        ("a.b", {"txt": ""}, "A-Za-z0-9"),
        ("", {"txt": ""}, "A-Za-z0-9"),
        ("a/b", {"txt": ""}, "A-Za-z0-9"),
        ("clip\n", {"txt": ""}, "A-Za-z0-9"),
        ("clip", {}, "at least one entry"),
        ("first", {"txt": ""}, "already in the shard"),
        ("clip", {"": b""}, "entry name ''"),
        ("clip", {"a..npy": b""}, r"entry name 'a\.\.npy'"),
        ("clip", {"json": {"a": float("nan")}}, "no text or JSON"),
        ("clip", {"json": {"a": np.float32(1)}}, "no text or JSON"),
        ("clip", {"txt": "\ud800"}, "no text or JSON"),
        ("clip", {"a.npy": np.array([None])}, "Python objects"),
        ("clip", {"a.bin": np.zeros(1)}, "must end in"),
        ("clip", {"a": 3}, "is a int"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_the_shard_whole(
    tmp_path: Path, key: str, entries: dict, message: str
) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("first", SAMPLE)
        with pytest.raises(DatasetError, match=message):
            writer.write(key, entries)
        writer.write("last", SAMPLE)
    assert [key for key, _ in iterate(tmp_path / "a.tar")] == ["first", "last"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"old")
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("clip", SAMPLE)
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == b"old"
    with pytest.raises(DatasetError, match="closed"):
        writer.write("other", SAMPLE)
    with pytest.raises(DatasetError, match="discarded"):
        writer.close()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path / "a.tar")

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "write", refuse)
    with pytest.raises(OSError, match="No space"):
        writer.write("clip", SAMPLE)
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shards.os.write
    monkeypatch.setattr(shards.os, "write", lambda handle, data: whole(handle, data[:100]))
    write(tmp_path / "a.tar")
    assert len(list(iterate(tmp_path / "a.tar"))) == 3


def test_a_shard_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    written = write(path)
    data = path.read_bytes()
    cuts = {
        *range(0, len(data), 512),
        *range(1, len(data), 997),
        len(data) - 1,
        written[1].offset,
        written[2].offset + written[2].size,
    }
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        with pytest.raises(DatasetError):
            list(iterate(path))


def test_bytes_behind_the_end_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path)
    path.write_bytes(path.read_bytes() + b"x" * 512)
    with pytest.raises(DatasetError, match="does not end"):
        list(iterate(path))


def test_a_flipped_bit_in_a_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, 1)
    data = path.read_bytes()
    for position in [*range(0, 20), *range(100, 165), 257, 300, 400]:
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(DatasetError):
            list(iterate(path))


def test_a_flipped_bit_in_a_sample_fails_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    (written,) = write(path, 1)
    data = path.read_bytes()
    for position in range(0, written.size, 487):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(DatasetError, match="damaged"):
            read_sample(path, written.offset, written.size, written.blake3)


def test_wrong_ranges_and_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    first, second, _ = write(path)
    with pytest.raises(DatasetError, match="instead of one"):
        read_sample(path, first.offset, first.size + second.size)
    with pytest.raises(DatasetError, match="torn"):
        read_sample(path, first.offset + 512, first.size)
    with pytest.raises(DatasetError, match="torn"):
        read_sample(path, second.offset, 10**7)
    with pytest.raises(DatasetError, match="no such file"):
        read_sample(tmp_path / "b.tar", 0, 512)
    with pytest.raises(DatasetError, match="cannot be read"):
        list(iterate(tmp_path / "b.tar"))


@pytest.mark.parametrize("names", [["a.txt", "b.txt", "a.bin"], ["a.txt", "a.txt"], ["a"], [".txt"], ["a."]])
def test_members_that_are_no_samples_are_errors(tmp_path: Path, names: list[str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DatasetError, match=r"not named KEY\.ENTRY|do not follow|stands twice"):
        list(iterate(tmp_path / "a.tar"))


def test_links_and_folders_are_errors(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("a.txt")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DatasetError, match="not a plain file"):
        list(iterate(tmp_path / "a.tar"))
