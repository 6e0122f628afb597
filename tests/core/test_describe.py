"""What classes say about themselves is read from docstrings, strings below fields, and pydantic descriptions."""

from __future__ import annotations

from dataclasses import dataclass

import pydantic

from dataengine.core.describe import descriptions, details, section, summary


@dataclass(frozen=True)
class Base:
    """The first line
    goes on.

    More is said here.

    Attributes:
        one: what one
            means.
        two, three: both of them.

    Raises:
        ValueError: not a field.
    """

    one: int = 1
    two: int = 2


@dataclass(frozen=True)
class Derived(Base):
    """Derived.

    Attributes:
        two: another meaning.
    """

    four: int = 4
    """Meaning below
    the field."""


class Settings(pydantic.BaseModel):
    """Settings."""

    key: int = pydantic.Field(default=1, description="By pydantic.")


class Made:
    """Made.

    Args:
        size: of it.
    """

    def __init__(self, size: int = 3) -> None:
        self.size = size


def test_summary_and_details() -> None:
    assert summary(Base) == "The first line goes on."
    assert details(Base) == "More is said here."
    assert details(Made) == "" and summary(int.__add__)


def test_descriptions_of_all_forms() -> None:
    assert descriptions(Base) == {"one": "what one means.", "two": "both of them.", "three": "both of them."}
    assert descriptions(Derived)["two"] == "another meaning."
    assert descriptions(Derived)["four"] == "Meaning below the field."
    assert descriptions(Settings) == {"key": "By pydantic."}
    assert descriptions(Made) == {"size": "of it."}


def test_a_section_ends_where_the_indent_ends() -> None:
    text = (
        "Text.\n\nArgs:\n    a: first.\n    b (int): second.\nNot an argument: at all.\n\nReturns:\n    c: no argument."
    )
    assert section(text, "Args") == {"a": "first.", "b": "second."}
    assert section(text, "Returns") == {"c": "no argument."}
