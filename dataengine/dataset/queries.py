"""audit: queries over the tables of a dataset, by name or as SQL."""

from __future__ import annotations

import io
import json
from typing import Any

import polars as pl

from dataengine.core.errors import DatasetError, suggestion
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.index import ACCURACY
from dataengine.dataset.sql import execute

FORMATS = ("table", "json", "csv", "parquet")

QUERIES: dict[str, tuple[str, str]] = {
    "labels": (
        "clips, videos and seconds by label, most clips first",
        """SELECT label, label_id, COUNT(*) AS clips, COUNT(DISTINCT video_id) AS videos,
           ROUND(SUM("end" - start), 1) AS seconds, ROUND(AVG(confidence_mean), 4) AS confidence,
           ROUND(AVG(pose_coverage), 4) AS coverage
           FROM clips GROUP BY label, label_id ORDER BY clips DESC, label""",
    ),
    "splits": (
        "clips, videos, labels and frames by source and split",
        """SELECT source, split, COUNT(*) AS clips, COUNT(DISTINCT video_id) AS videos, COUNT(DISTINCT label) AS labels,
           SUM(num_frames) AS frames FROM clips GROUP BY source, split ORDER BY source, split""",
    ),
    "rejects": (
        "clips left out, by pass and reason, with the values that decided",
        """SELECT pass, reason, COUNT(*) AS clips, SUM(CAST(retryable AS INT)) AS retryable, MIN(value) AS lowest,
           AVG(value) AS mean, MAX(value) AS highest, MAX(threshold) AS threshold
           FROM rejects GROUP BY pass, reason ORDER BY clips DESC, pass, reason""",
    ),
    "experts": (
        "share of the joints each expert won, mean over kept tracks; right_share where the true joints are known",
        """SELECT COALESCE(s.expert, a.expert) AS expert, s.tracks, s.share, a.right_share FROM
           (SELECT expert, COUNT(share) AS tracks, ROUND(AVG(share), 4) AS share
            FROM shares WHERE kept GROUP BY expert) AS s
           FULL JOIN
           (SELECT expert, ROUND(CAST(SUM(num_right) AS DOUBLE) / SUM(num_joints), 4) AS right_share
            FROM accuracy GROUP BY expert) AS a
           ON s.expert = a.expert ORDER BY share DESC NULLS LAST, expert""",
    ),
    "accuracy": (
        "share of right joints by expert and condition, of rendered sources whose true joints are known",
        """SELECT condition, expert, SUM(num_joints) AS joints,
           ROUND(CAST(SUM(num_right) AS DOUBLE) / SUM(num_joints), 4) AS right_share
           FROM accuracy GROUP BY condition, expert ORDER BY condition, right_share DESC, expert""",
    ),
    "confidence_by_label": (
        "confidence and the experts' distance by label, least confident first",
        """SELECT label, COUNT(*) AS clips, ROUND(AVG(confidence_mean), 4) AS mean,
           ROUND(MEDIAN(confidence_mean), 4) AS median,
           ROUND(AVG(confidence_p10), 4) AS p10, ROUND(AVG(expert_disagreement), 4) AS disagreement
           FROM clips GROUP BY label ORDER BY mean, label""",
    ),
    "joints": (
        "visibility, score and the experts' distance (head-neck lengths) by joint, most disputed first",
        """SELECT joint, COUNT(*) AS tracks, ROUND(AVG(visible), 4) AS visible, ROUND(AVG(score_mean), 4) AS score,
           ROUND(AVG(disagreement), 4) AS disagreement
           FROM joints GROUP BY joint ORDER BY disagreement DESC NULLS LAST, joint""",
    ),
    "worst": (
        "the hundred kept clips of least confidence",
        """SELECT clip_id, label, confidence_mean, confidence_p10, expert_disagreement, pose_coverage, jitter,
           truncation, bone_variation
           FROM clips ORDER BY confidence_mean NULLS LAST, clip_id LIMIT 100""",
    ),
    "licences": (
        "clips by source, licence and consent",
        """SELECT source, licence, consent, COUNT(*) AS clips, COUNT(DISTINCT video_id) AS videos
           FROM clips GROUP BY source, licence, consent ORDER BY clips DESC, source, licence, consent""",
    ),
    "duplicates": (
        "clips that show the same pictures as another: left out, or kept and marked",
        """SELECT clip_id, source, 'kept' AS state, duplicate_of AS detail FROM clips WHERE duplicate_of IS NOT NULL
           UNION ALL SELECT clip_id, source, 'rejected' AS state, detail FROM rejects WHERE reason = 'duplicate'
           ORDER BY clip_id""",
    ),
    "people": (
        "clips by number of people, with the tracks found and kept",
        """SELECT c.num_people, COUNT(*) AS clips, SUM(t.tracks) AS tracks, SUM(t.kept) AS kept,
           ROUND(AVG(t.coverage), 4) AS coverage
           FROM clips AS c LEFT JOIN
           (SELECT clip_id, COUNT(*) AS tracks, SUM(CAST(kept AS INT)) AS kept, AVG(coverage) AS coverage
            FROM tracks GROUP BY clip_id) AS t
           ON c.clip_id = t.clip_id GROUP BY c.num_people ORDER BY c.num_people""",
    ),
    "subjects": (
        "clips and labels by subject, where a source knows who is seen",
        """SELECT subject, COUNT(*) AS clips, COUNT(DISTINCT label) AS labels, COUNT(DISTINCT split) AS splits
           FROM clips GROUP BY subject ORDER BY clips DESC, subject""",
    ),
}
"""name -> (what the query answers, its SQL)."""


def tables(dataset: Dataset) -> dict[str, pl.LazyFrame]:
    """The tables that SQL can name: those of the dataset, accuracy (empty where absent), and shares (one row per track
    and expert)."""
    frames = {name: dataset.table(name) for name in dataset.tables}
    frames.setdefault("accuracy", pl.LazyFrame(pl.from_arrow(ACCURACY.empty_table())))
    columns = [name for name in frames["tracks"].collect_schema().names() if name.startswith("share_")]
    shares = frames["tracks"].unpivot(
        columns, index=["clip_id", "track_id", "kept"], variable_name="expert", value_name="share"
    )
    frames["shares"] = shares.with_columns(pl.col("expert").str.strip_prefix("share_"))
    return frames


def run(dataset: Dataset, query: str | None = None, sql: str | None = None) -> pl.DataFrame:
    """Answer one named query, or one SQL statement over `tables`.

    Raises:
        DatasetError: no such query, both or none given, or SQL that cannot be run.
    """
    if (query is None) == (sql is None):
        raise DatasetError(f"give a query or SQL, one of the two; queries: {', '.join(QUERIES)}")
    if query is not None and query not in QUERIES:
        raise DatasetError(f"unknown query {query!r}{suggestion(query, QUERIES)}; or ask with --sql")
    statement = str(sql if query is None else QUERIES[query][1])
    try:
        return execute(statement, tables(dataset))
    except DatasetError as error:
        raise DatasetError(f"the SQL cannot be run: {error}") from None


def to_text(frame: pl.DataFrame, format: str = "table") -> str | bytes:
    """A result as an aligned table, JSON (a list of objects), CSV with a header, or the bytes of a Parquet file.

    Raises:
        DatasetError: no such format.
    """
    if format == "parquet":
        file = io.BytesIO()
        frame.write_parquet(file)
        return file.getvalue()
    if format == "json":
        return frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)).write_json()
    if format == "csv":
        nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
        texts = [pl.Series(name, [_json(value) for value in frame[name].to_list()], pl.String) for name in nested]
        return frame.with_columns(texts).write_csv().removesuffix("\n")  # whoever prints it ends the line
    if format == "table":
        with pl.Config(
            tbl_formatting="NOTHING",
            tbl_hide_column_data_types=True,
            tbl_hide_dataframe_shape=True,
            tbl_rows=-1,
            tbl_cols=-1,
            tbl_width_chars=(1 << 16) - 1,
            fmt_str_lengths=200,
        ):
            return str(frame)
    raise DatasetError(f"unknown format {format!r}{suggestion(format, FORMATS)}")


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
