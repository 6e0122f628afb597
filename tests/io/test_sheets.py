"""Tables that people filled in with a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.io.sheets import read_sheet

TEXT = 'clip_id, label \na,"sit; down"\nb,\nc,Füße\n'


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-32-be"),
        TEXT.replace(",", ";").encode("utf-8-sig"),
        TEXT.replace(",", "\t").encode("utf-16"),
        b"sep=|\r\n" + TEXT.replace(",", "|").encode(),
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels[1]*.csv"  # a name, not a pattern
    path.write_bytes(content)
    table = read_sheet(path)
    assert table.columns == ["clip_id", "label"]
    assert table.rows() == [("a", "sit; down"), ("b", None), ("c", "Füße")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (TEXT.encode("latin-1"), "save it as CSV UTF-8"),
        (b"", "empty"),
        (b"a,b\n1,2,3\n", "more fields"),
        (b'clip_id,"label", label\na,x,y\n', "column 'label' stands there 2 times"),
        (b"a,b\n1,2\n" + bytes(range(128, 256)), "save it as CSV UTF-8"),
    ],
)
def test_what_is_no_table_is_said_in_one_line(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=what) as raised:
        read_sheet(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(OSError):
        read_sheet(tmp_path)
