"""SQL over tables in memory or in a dataset, and over nothing else.

Polars' SQL has table functions (`read_csv`, `read_parquet`, ...) that open any file or url. A statement is therefore
split into tokens and held to lists of what is allowed, before Polars sees it: names that may be called, and names that
may stand where a table stands. Polars gets the text of those tokens, without comments, so that nothing can be one
thing here and another there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import polars as pl

from dataengine.core.errors import DatasetError, suggestion
from dataengine.dataset.sql_errors import sql_mistake


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = _names(
    """abs acos acosd asin asind atan atan2 atan2d atand cbrt ceil ceiling cos cosd cot cotd degrees div exp floor
    greatest least ln log log10 log1p log2 mod pi pow power radians round sign sin sind sqrt tan tand bit_and bit_count
    bit_or bit_xor bit_not bitand bitcount bitnot bitor bitxor bit_length char_length character_length concat concat_ws
    ends_with initcap left length lower ltrim normalize octet_length overlay position regexp_like replace reverse right
    rtrim split_part starts_with strpos strptime strftime substr substring trim upper coalesce if ifnull nullif date
    date_part extract timestamp datetime time day month year hour minute second array array_agg array_contains
    array_get array_length array_lower array_mean array_reverse array_sum array_to_string array_unique array_upper
    explode unnest struct columns avg corr count covar covar_pop covar_samp first last max mean median min product
    quantile_cont quantile_disc stddev stddev_pop stddev_samp stdev stdev_samp sum total var var_pop var_samp variance
    dense_rank first_value lag last_value lead percent_rank rank row_number ntile cast try_cast decimal numeric dec char
    varchar float struct_extract"""
)
"""Functions and types that may stand before a parenthesis. Table functions that open files are not among them."""

_SYNTAX = _names(
    """select from where and or not in exists any all some as on using over filter by case when then else end between
    like ilike rlike regexp is having qualify limit offset union except intersect distinct values join lateral exclude
    except rename replace materialized partition order group within sets cube rollup fetch with"""
)
"""Keywords that may stand before a parenthesis and call nothing."""
_NOT_TABLES = {"extract", "trim", "substring", "overlay"}
"""Functions with a FROM of their own inside."""
_CLAUSES = _names("select where group having qualify window order limit offset fetch union except intersect values")
"""Keywords that end a list of tables."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|--[^\n]*)
      | (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+"|`(?:[^`]|``)+`)
      | (?P<word>[A-Za-z0-9_]+)
      | (?P<mark>[-+*/%=<>!~|&^.,:;()\[\]])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A token: its kind (a group of the pattern), its text, and the lower-case name that a word or quoted name is."""

    kind: str
    text: str
    name: str = ""


def tokens(statement: str) -> list[Token]:
    """The tokens of a statement; white space and comments become one space.

    Raises:
        DatasetError: there is something that no statement over tables needs.
    """
    found: list[Token] = []
    at = 0
    while at < len(statement):
        if statement.startswith("/*", at):
            end = _end_of_comment(statement, at)
            found, at = [*found, Token("space", " ")], end
            continue
        match = _TOKEN.match(statement, at)
        if match is None:
            raise DatasetError(f"the SQL has {statement[at : at + 12]!r}, which is neither a name, text nor operator")
        kind, text, at = str(match.lastgroup), match.group(), match.end()
        if kind == "text" and found and found[-1].kind == "word":
            raise DatasetError(f"the SQL has {found[-1].text + text!r}: put a space before a quoted text")
        name = text.lower() if kind == "word" else text[1:-1].replace(text[0] * 2, text[0]) if kind == "quoted" else ""
        found.append(Token("space", " ") if kind == "space" else Token(kind, text, name))
    return found


def _end_of_comment(statement: str, at: int) -> int:
    depth = 0
    for mark in re.finditer(r"/\*|\*/", statement[at:]):
        depth += 1 if mark.group() == "/*" else -1
        if not depth:
            return at + mark.end()
    raise DatasetError("the SQL has a comment /* without its end */")


def checked(statement: str, tables: Collection[str]) -> str:
    """The statement without comments, where it reads the given tables only.

    Args:
        statement: one SQL statement.
        tables: names of the tables.

    Raises:
        DatasetError: it does not begin with SELECT or WITH, is more than one statement, calls a function or names a
            table that is not allowed.
    """
    all_tokens = tokens(statement)
    words = [token for token in all_tokens if token.kind != "space"]
    while words and words[-1].text == ";":
        words.pop()
        all_tokens = all_tokens[: max(i for i, token in enumerate(all_tokens) if token.text == ";")]
    if not words or words[0].text.lower() not in ("select", "with"):
        raise DatasetError(f"SQL reads only: begin with SELECT or WITH; given {statement.strip()[:60]!r}")
    if any(token.text == ";" for token in words):
        raise DatasetError("give one SQL statement: there is something after ';'")
    _check_calls(words)
    _check_tables(words, tables)
    return "".join(token.text for token in all_tokens)


def _check_calls(words: list[Token]) -> None:
    for before, token, after in zip([Token("", ""), *words], words, words[1:]):
        if after.text != "(" or not token.name or (before.name == "as" and before.kind == "word"):
            continue
        allowed = token.name.lower() in FUNCTIONS or (token.kind == "word" and token.name in _SYNTAX)
        if not allowed or before.text == ".":
            near = difflib.get_close_matches(token.name.lower(), FUNCTIONS, n=1, cutoff=0.75)
            raise DatasetError(
                f"SQL reads the tables given to it alone, and has no function {token.name!r}"
                f"{f' (did you mean {near[0]!r}?)' if near else ''}"
            )


def _check_tables(words: list[Token], tables: Collection[str]) -> None:
    """Follow the lists of tables: after FROM and JOIN, and after a comma of such a list, comes a table."""
    subqueries = (token.name for token, *after in zip(words, words[1:], words[2:]) if _begins_a_query(after))
    known = {name.lower() for name in (*tables, *subqueries) if name}
    levels: list[tuple[str, str]] = [("", "")]  # (state, function) by depth; state: '', 'table' comes next, 'list'
    for number, token in enumerate(words):
        state, function = levels[-1]
        word = token.text.lower() if token.kind == "word" else ""
        before = words[number - 1] if number else Token("", "")
        if token.text == "(":
            levels.append(("table" if state == "table" else "", before.name))
        elif token.text == ")":
            levels = levels[:-1] or [("", "")]
            if levels[-1][0] == "table":
                levels[-1] = ("list", levels[-1][1])
        elif word in _CLAUSES:
            levels[-1] = ("", function)
        elif (
            word == "join"
            or (word == "from" and function not in _NOT_TABLES and before.name != "distinct")
            or (token.text == "," and state == "list")
        ):
            levels[-1] = ("table", function)
        elif state == "table" and word not in ("lateral", "with"):
            if (word == "" or word not in FUNCTIONS) and token.name.lower() not in known:
                given = token.name or token.text.strip("'")
                raise DatasetError(f"no table {given!r}{suggestion(given, sorted(tables))}")
            levels[-1] = ("list", function)


def _begins_a_query(after: list[Token]) -> bool:
    """Whether the two tokens after a name make it the name of a subquery: AS (, AS MATERIALIZED or AS NOT."""
    return after[0].name == "as" and (after[1].text == "(" or after[1].name in ("materialized", "not"))


def execute(statement: str, frames: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    """Answer one statement over the given tables, which is all that it can read.

    Raises:
        DatasetError: it cannot be run; the message is one line that says what is wrong.
    """
    try:
        return pl.SQLContext(frames).execute(checked(statement, frames), eager=True)
    except pl.exceptions.PolarsError as error:
        known = {name: frame.collect_schema().names() for name, frame in frames.items()}
        raise DatasetError(sql_mistake(error, statement, known)) from None


def matching(frame: pl.LazyFrame, where: str, columns: list[str]) -> pl.DataFrame:
    """The given columns of the rows of a table (named `clips` in SQL) that fulfil an SQL condition.

    Raises:
        DatasetError: the condition cannot be used; the message is one line that says why.
    """
    listed = ", ".join(f'"{column}"' for column in columns)
    statement = f"SELECT {listed} FROM clips WHERE {where}"
    return execute(statement, {"clips": frame})
