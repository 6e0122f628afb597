"""Hooks of mkdocs: put the generated pages beside those written by hand, and into the navigation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # mkdocs loads this file by its path

SECTION = "Reference"


def on_config(config: Any) -> Any:
    """Fill the section `Reference` of the navigation."""
    from tools.reference.site import pages

    for entry in config.nav:
        if isinstance(entry, dict) and SECTION in entry:
            entry[SECTION] = [*entry[SECTION], *sections({title: path for path, (title, _) in pages().items()})]
    return config


def sections(titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Entries of the navigation; titles such as `Components/Filters` make sections."""
    grouped: dict[str, Any] = {}
    for title, path in titles.items():
        section, sign, name = title.partition("/")
        if sign:
            grouped.setdefault(section, []).append({name: path})
        else:
            grouped[title] = path
    return [{title: content} for title, content in grouped.items()]


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the files of the site."""
    from mkdocs.structure.files import File

    from tools.reference.site import pages

    for path, (_, text) in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
