"""The table of figures is the one that the committed results make."""

from __future__ import annotations

import sys

from tests.support.documents import ROOT


def test_the_table_is_current() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import table

    page = table.PAGE.read_text(encoding="utf-8")
    assert table.write(page) == page, "run  python benchmarks/table.py"
    if "lift" in table.newest():
        page = table.LIFT.read_text(encoding="utf-8")
        assert table.write(page, table.lifting(table.newest()["lift"][1])) == page, "run  python benchmarks/table.py"


def test_every_result_has_its_script() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import table

    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in table.newest())
