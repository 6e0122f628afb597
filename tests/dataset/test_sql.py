"""SQL reads the tables given to it and nothing else: no file and no url, however a statement is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dataengine.core.errors import DatasetError, TrainingError
from dataengine.dataset import dataset, index
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.queries import run
from dataengine.dataset.sql import FUNCTIONS, checked, execute
from tests.support import faulty_server, range_server
from tests.support.faulty_server import Server
from tests.support.tiny_dataset import build
from training.data.formats.base import choose

SECRET = "the-planted-secret"

ATTACKS = (
    "SELECT * FROM read_csv('{csv}')",
    "SELECT * FROM read_parquet('{parquet}')",
    "SELECT * FROM read_ipc('{ipc}')",
    "SELECT * FROM read_json('{json}')",
    "SELECT * FROM read_ndjson('{json}')",
    "SELECT * FROM scan_csv('{csv}')",
    "SELECT * FROM scan_parquet('{parquet}')",
    "SELECT * FROM read_parquet('{url}secret.parquet')",
    "SELECT * FROM read_csv('{url}secret.csv')",
    "SELECT * FROM ReAd_CsV('{csv}')",
    "SELECT * FROM read_csv  \n\t ('{csv}')",
    "SELECT * FROM \"read_csv\"('{csv}')",
    "SELECT * FROM \"READ_CSV\" ('{csv}')",
    "SELECT * FROM `read_csv`('{csv}')",
    "SELECT * FROM/**/read_csv/* a /* nested */ comment */('{csv}')",
    "SELECT * FROM read_csv--a comment\n('{csv}')",
    "SELECT 1 /* ' */ FROM read_csv('{csv}') -- '",
    "SELECT '/*' AS a FROM read_csv('{csv}') WHERE '*/' = '*/'",
    "SELECT '--' AS a FROM read_csv('{csv}')",
    "SELECT '''' AS a FROM read_csv('{csv}')",
    "SELECT '\\' AS a FROM read_csv('{csv}') WHERE '\\' = '\\'",
    "SELECT E'\\'' AS a, ' FROM read_csv(' AS b FROM read_csv('{csv}')",
    "SELECT '\"' AS a FROM read_csv('{csv}') WHERE '\"' = '\"'",
    "SELECT $$'$$ AS a FROM read_csv('{csv}') WHERE $$'$$ = $$'$$",
    "SELECT 1 # '\nFROM read_csv('{csv}')",
    "WITH t AS (SELECT * FROM read_csv('{csv}')) SELECT * FROM t",
    "WITH read_csv AS (SELECT * FROM clips) SELECT * FROM read_csv('{csv}')",
    'WITH "{csv}" AS (SELECT * FROM read_csv(\'{csv}\')) SELECT * FROM "{csv}"',
    "SELECT * FROM (SELECT * FROM (SELECT * FROM read_csv('{csv}')))",
    "SELECT clip_id, (SELECT key FROM read_csv('{csv}')) AS a FROM clips",
    "SELECT * FROM clips WHERE label IN (SELECT key FROM read_csv('{csv}'))",
    "SELECT * FROM clips WHERE EXISTS (SELECT * FROM read_csv('{csv}'))",
    "SELECT clip_id FROM clips UNION ALL SELECT key AS clip_id FROM read_csv('{csv}')",
    "SELECT * FROM clips JOIN read_csv('{csv}') AS r ON clips.label = r.key",
    "SELECT * FROM clips, read_csv('{csv}')",
    "SELECT * FROM clips CROSS JOIN read_csv('{csv}')",
    "SELECT * FROM (clips CROSS JOIN read_csv('{csv}'))",
    "SELECT * FROM clips NATURAL JOIN read_csv('{csv}')",
    "SELECT * FROM clips JOIN LATERAL read_csv('{csv}') ON true",
    "SELECT * FROM TABLE(read_csv('{csv}'))",
    "SELECT * FROM main.read_csv('{csv}')",
    "SELECT * FROM count.read_csv('{csv}')",
    "SELECT * FROM '{csv}'",
    "SELECT * FROM '{parquet}'",
    'SELECT * FROM "{parquet}"',
    "SELECT * FROM `{parquet}`",
    "SELECT * FROM '{url}secret.parquet'",
    'SELECT * FROM "{url}secret.parquet"',
    "SELECT * FROM clips, '{parquet}'",
    "SELECT * FROM clips JOIN '{parquet}' AS r ON true",
    "SELECT * FROM (clips JOIN '{parquet}' AS r ON true)",
    "SELECT * FROM clips WHERE label IN (SELECT label FROM '{parquet}')",
    "SELECT * FROM secret.parquet",
    "SELECT * FROM \uff52\uff45\uff41\uff44_csv('{csv}')",
    "SELECT * FROM read\u200b_csv('{csv}')",
    "SELECT * FROM read_csv\u00a0('{csv}')",
    "SELECT\u2028* FROM read_csv('{csv}')",
    "SELECT * FROM read_csv\x00('{csv}')",
    "SELECT * FROM U&\"read\\005fcsv\"('{csv}')",
    "SELECT 1; SELECT * FROM read_csv('{csv}')",
    "SELECT 1; CREATE TABLE t AS SELECT * FROM read_csv('{csv}')",
    "EXPLAIN SELECT * FROM read_csv('{csv}')",
    "(SELECT * FROM read_csv('{csv}'))",
    "FROM read_csv('{csv}')",
    "CREATE TABLE t AS SELECT * FROM read_csv('{csv}')",
    "COPY clips TO '{csv}'",
    "DELETE FROM clips",
)
"""Statements that must answer nothing of a file or url."""

CONDITIONS = (
    "label IN (SELECT key FROM read_csv('{csv}'))",
    "true UNION ALL SELECT * FROM read_csv('{csv}')",
    "num_people > (SELECT COUNT(*) FROM read_parquet('{url}secret.parquet'))",
    "1 = 1) UNION ALL (SELECT * FROM \"read_csv\"('{csv}')",
    "label = '' OR /* ' */ label IN (SELECT key FROM `read_csv`('{csv}'))",
    "true; SELECT * FROM read_csv('{csv}')",
    "label IN (SELECT key FROM '{parquet}')",
)
"""Conditions of the same kind."""


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset.open(build(tmp_path_factory.mktemp("build"), clips=6, rejected=2))


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    frame = pl.DataFrame({"key": [SECRET], "label": [SECRET]})
    frame.write_csv(tmp_path / "secret.csv")
    frame.write_parquet(tmp_path / "secret.parquet")
    frame.write_ipc(tmp_path / "secret.arrow")
    frame.write_ndjson(tmp_path / "secret.json")
    return {
        "csv": str(tmp_path / "secret.csv"),
        "parquet": str(tmp_path / "secret.parquet"),
        "ipc": str(tmp_path / "secret.arrow"),
        "json": str(tmp_path / "secret.json"),
    }


@pytest.fixture
def server(secrets: dict[str, str]) -> Iterator[Server]:
    with faulty_server.serving() as running:
        running.files |= {f"secret.{kind}": Path(secrets[kind]).read_bytes() for kind in ("csv", "parquet")}
        secrets["url"] = running.base
        yield running


def refused(error: pytest.ExceptionInfo[Exception]) -> None:
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("attack", ATTACKS)
def test_sql_opens_no_file_and_no_url(ds: Dataset, server: Server, secrets: dict[str, str], attack: str) -> None:
    with pytest.raises(DatasetError) as error:
        run(ds, sql=attack.format(**secrets))
    refused(error)
    assert not server.log


def test_the_attacks_would_read_the_secret_through_plain_polars(server: Server, secrets: dict[str, str]) -> None:
    clips = pl.LazyFrame({"clip_id": ["a"], "label": [SECRET], "num_people": [1]})
    read = 0
    for attack in ATTACKS:
        try:
            answer = pl.SQLContext(clips=clips).execute(attack.format(**secrets), eager=True)
            read += "read_" in attack and len(answer) > 0
        except (pl.exceptions.PolarsError, OSError):
            continue
    assert read > 15


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_opens_no_file_and_no_url(
    ds: Dataset, server: Server, secrets: dict[str, str], condition: str
) -> None:
    where = condition.format(**secrets)
    with pytest.raises(DatasetError, match=r"^where=.* cannot be used: ") as error:
        list(ds.samples(where=where))
    refused(error)
    facts = ds.clips.select("clip_id", "label", "num_people").collect()
    with pytest.raises(TrainingError, match=r"where=.* cannot be used: ") as failed:
        choose("built", facts, None, where)
    refused(failed)
    assert not server.log


def test_sql_over_a_remote_dataset_asks_its_server_for_its_files_alone(
    ds: Dataset, server: Server, secrets: dict[str, str]
) -> None:
    with range_server.serving(Path(ds.root)) as remote:
        far = dataset.open(remote.url)
        assert run(far, sql="SELECT COUNT(*) AS n FROM clips").item() == 6
        for attack in ATTACKS[:12]:
            with pytest.raises(DatasetError):
                run(far, sql=attack.format(**secrets))
            with pytest.raises(DatasetError):
                run(far, sql=attack.format(**secrets | {"csv": f"{server.base}secret.csv"}))
        with pytest.raises(DatasetError):
            list(far.samples(where=CONDITIONS[0].format(**secrets)))
    assert not server.log


def test_a_dataset_from_elsewhere_cannot_name_files_outside_of_it(tmp_path: Path) -> None:
    root = build(tmp_path / "ds", clips=3)
    (tmp_path / "outside").write_text(SECRET)
    clips = pl.read_parquet(root / "index/clips/*.parquet").to_dicts()
    for clip in clips:
        clip["shard"] = "../../outside"
    index.write_table(root / "index/clips", clips, index.CLIPS)
    for read in (lambda ds: list(ds.samples()), lambda ds: ds.sample(clips[0]["clip_id"])):
        with pytest.raises(DatasetError, match="which the manifest does not"):
            read(dataset.open(root))
    manifest = index.read_manifest(root)
    for name in ("index/clips/../../../outside", "/etc/hostname", "file:///etc/hostname"):
        index.write_manifest(root, {**manifest, "files": [{"path": name, "bytes": 1, "blake3": ""}]})
        with pytest.raises(DatasetError, match="which is no file of a dataset"):
            dataset.open(root)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT COUNT(*) AS n FROM clips;", 1),
        ("-- how many\nSELECT COUNT(*) AS n /* all */ FROM clips -- of them", 1),
        ("WITH t AS (SELECT clip_id FROM clips) SELECT * FROM t", 6),
        ("WITH t AS (SELECT clip_id FROM clips), u AS (SELECT * FROM t) SELECT * FROM u, t AS s", 36),
        ("SELECT c.* FROM clips AS c", 6),
        ("SELECT clip_id FROM clips WHERE clip_id IN (SELECT clip_id FROM tracks)", 6),
        ("SELECT clip_id FROM clips WHERE label NOT IN ('read_csv(''x'')', 'FROM x', '-- é') AND label LIKE '%'", 6),
        ("SELECT EXTRACT(year FROM DATE '2020-01-01') AS y, TRIM(BOTH ' ' FROM label) AS l FROM clips", 6),
        ("SELECT SUBSTRING(label FROM 1) AS l, label IS DISTINCT FROM 'x' AS d FROM clips", 6),
        ("SELECT ROW_NUMBER() OVER (PARTITION BY label ORDER BY clip_id) AS n FROM clips", 6),
        ('SELECT "clip_id", `label` FROM "clips"', 6),
        ("SELECT CAST(num_frames AS DECIMAL(10, 2)) AS n, num_frames::text AS t FROM clips", 6),
        (
            "SELECT label, COUNT(*) FILTER (WHERE num_people > 0) n FROM clips GROUP BY (label) HAVING (COUNT(*) > 0)",
            3,
        ),
        ("SELECT clip_id FROM clips UNION ALL (SELECT clip_id FROM clips) ORDER BY clip_id LIMIT 100", 12),
        ("SELECT regexp_like(label, '\\w+') AS m FROM clips WHERE label ~ '^[a-z]+$'", 6),
    ],
)
def test_sql_over_the_tables_stays_free(ds: Dataset, sql: str, rows: int) -> None:
    assert len(run(ds, sql=sql)) == rows


def test_a_condition_may_ask_the_clips_in_a_subquery(ds: Dataset) -> None:
    most = "num_frames = (SELECT MAX(num_frames) FROM clips)"
    assert 0 < len(list(ds.samples(where=most))) <= 6
    facts = ds.clips.select("clip_id", "num_frames").collect()
    assert len(choose("built", facts, None, most)) == len(list(ds.samples(where=most)))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM read_csv('x')", "no function 'read_csv'"),
        ("SELECT COUMT(*) FROM clips", r"no function 'coumt' \(did you mean 'count'\?\)"),
        ("SELECT * FROM 'x.parquet'", "no table 'x.parquet'; allowed: clips"),
        ("SELECT * FROM clps", r"no table 'clps' \(did you mean 'clips'\?\)"),
        ("SELECT 1; SELECT 2", "one SQL statement"),
        ("SELECT 'a", "which is neither a name, text nor operator"),
        ("SELECT 1 /* a", "a comment /\\* without its end"),
        ("SELECT E'a'", "put a space before a quoted text"),
    ],
)
def test_what_is_refused_is_said(sql: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        checked(sql, ["clips"])


def test_no_function_that_is_allowed_is_a_table_function() -> None:
    frames = {"clips": pl.LazyFrame({"a": np.arange(3)})}
    for name in sorted(FUNCTIONS - {"unnest"}):
        with pytest.raises((pl.exceptions.PolarsError, DatasetError)):
            pl.SQLContext(frames).execute(f"SELECT * FROM {name}('/etc/hostname')", eager=True)
    assert execute("SELECT SUM(a) AS a FROM clips", frames).item() == 3
