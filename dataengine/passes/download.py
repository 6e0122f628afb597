"""Downloads of a build, before its units run: annotations for the plan, then the media files that the plan misses.

Downloads go to the data root, into DATA_ROOT/<source>, and only for sources without a PATH of their own. A folder
with media that somebody else arranged stays as it is, unless the recipe asks for more than the default: a mirror for
the source, or other fetchers. The driver downloads in threads, since the network is the limit. Several builds, on
all machines that see the data root, share the work through its locks and never fetch the same file twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dataengine.core.errors import MediaError, SourceError
from dataengine.core.types import Clip
from dataengine.fetch import Fetcher, Site
from dataengine.fetch.mirror import annotate
from dataengine.fetch.mirrors import EVALUATION_LISTS, mirror, mirror_tables
from dataengine.fetch.transfers import Transfers
from dataengine.io.addresses import AllowedHosts
from dataengine.io.disk_budget import DiskBudget
from dataengine.io.http_policy import HttpPolicy
from dataengine.io.storage import locked
from dataengine.pipeline.plan import Plan, guard_list
from dataengine.pipeline.recipe import Recipe
from dataengine.pipeline.recipe_tables import FetchTable

_LISTS = (".csv", ".csv.gz", ".json", ".txt", ".md")


@dataclass
class Downloads(AbstractContextManager["Downloads"]):
    """The downloads of one build; does nothing where no source may be fetched.

    Attributes:
        say: gets the origin and the licence of each source before its first request.
        again: reasons for which files that are gone for good are asked for again.
        sites: the sources that may be fetched, by name.
    """

    recipe: Recipe
    data_root: str | None
    say: Callable[[str], None] = lambda text: None
    again: frozenset[str] = frozenset()
    sites: dict[str, Site] = field(default_factory=dict)
    _transfers: Transfers | None = field(default=None, repr=False)
    _announced: set[str] = field(default_factory=set, repr=False)

    def __enter__(self) -> Self:
        if self.data_root is None or not self.recipe.fetch.fetchers:
            return self
        where, tables = mirror_tables(self.recipe.fetch.mirrors)
        root = Path(self.data_root)
        for name in self.recipe.use:
            found = mirror(tables, name, self.recipe.source_mirror(name), where)
            own = self.recipe.source_path(name) is not None or self.recipe.component("sources", name).makes_media
            if found is not None and not own and self._may_fetch(root / name, name):
                self._open(root, tables)
                assert self._transfers is not None
                self.sites[name] = Site(
                    name, root / name, found, self._transfers, self.recipe.fetch.max_bytes, self.again
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transfers is not None:
            self._transfers.close()

    def _may_fetch(self, folder: Path, source: str) -> bool:
        asked = self.recipe.source_mirror(source) is not None or self.recipe.fetch.fetchers != FetchTable().fetchers
        return asked or (folder / ".fetch").is_dir() or not _holds_media(folder)

    def _open(self, root: Path, tables: dict[str, Any]) -> None:
        if self._transfers is None:
            fetch = self.recipe.fetch
            with self._writing():
                root.mkdir(parents=True, exist_ok=True)
            policy = HttpPolicy(
                connections=fetch.connections,
                rate=fetch.rate,
                retries=fetch.retries,
                timeout=fetch.timeout,
                bandwidth=fetch.bandwidth,
                proxy=fetch.proxy,
                cookies=fetch.cookies,
                hosts=AllowedHosts.of(fetch.hosts, [*self._bases(), *_urls(tables)]),
            )
            for fetcher in self._fetchers():
                fetcher.check()
            self._transfers = Transfers(policy, root, DiskBudget(root, fetch.max_disk))

    def _bases(self) -> list[str]:
        """The mirrors that the recipe names."""
        return [base for name in self.recipe.use if (base := self.recipe.source_mirror(name)) is not None]

    def _fetchers(self) -> list[Fetcher]:
        return [self.recipe.component("fetchers", name) for name in self.recipe.fetch.fetchers]

    def annotations(self) -> None:
        """Download the lists of clips that the plan is made of.

        Raises:
            SourceError: a list cannot be had.
        """
        for name, site in self.sites.items():
            assert site.mirror is not None and self._transfers is not None
            marker = site.state / "annotations"  # marks a folder whose annotations are marker to complete
            with self._writing():
                with locked(site.root.parent / ".fetch" / "annotations.lock", self._transfers.stop):
                    if _empty(site.root):
                        self._announce(name)
                        site.state.mkdir(parents=True, exist_ok=True)
                        marker.touch()
                if marker.exists() and (site.mirror.annotations or "mirror" in self.recipe.fetch.fetchers):
                    annotate(site)
        if self.sites:
            self._evaluation_lists()

    def _announce(self, name: str) -> None:
        found = self.sites[name].mirror
        assert found is not None
        if name not in self._announced:
            self.say(f"{name}: missing files come from {found.base} ({found.licence})")
        self._announced.add(name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceError(f"the data root {self.data_root} cannot be written to: {error.strerror}") from error

    def _evaluation_lists(self) -> None:
        assert self._transfers is not None and self.data_root is not None
        _, tables = mirror_tables(self.recipe.fetch.mirrors)
        root, urls = Path(self.data_root), tables.get(EVALUATION_LISTS, {})
        paths = [path for name in self.recipe.use if (path := self.recipe.source_path(name))]
        for name in self.recipe.plan.leak_guard:
            if name in urls and guard_list(name, paths, self.data_root) is None:
                try:
                    with locked(root / ".fetch" / f"{name}.lock", self._transfers.stop):
                        self._transfers.download(str(urls[name]), root / f"{name}.csv")
                except MediaError as error:
                    raise SourceError(
                        f"[plan] leak_guard: the list {name!r} cannot be had: {error.detail} ({error.kind})"
                    ) from error

    def missing(self, plan: Plan) -> dict[str, list[Clip]]:
        """Planned clips without a media file, by source, where the source may be fetched."""
        found: dict[str, list[Clip]] = {name: [] for name in self.sites}
        for clip in plan.clips() if self.sites else ():
            if clip.source in found and not clip.media and clip.reason is None:
                found[clip.source].append(clip)
        return found

    def media(self, missing: dict[str, list[Clip]], advance: Callable[[int], None]) -> dict[str, str]:
        """Download media files; failures by clip id, as the plan's column `failure` holds them."""
        failures: dict[str, str] = {}
        for name, clips in missing.items():
            if clips:
                self._announce(name)
            with self._writing():
                errors = self._fetch(self.sites[name], clips, advance)
            for clip_id, error in errors.items():
                failures[clip_id] = json.dumps([error.kind, error.detail, error.retryable])
        return failures

    def _fetch(self, site: Site, clips: Sequence[Clip], advance: Callable[[int], None]) -> dict[str, MediaError]:
        left = {clip.clip_id: clip for clip in clips}
        errors: dict[str, MediaError] = {}

        def report(clip_id: str, error: MediaError | None) -> None:
            if error is None:
                left.pop(clip_id, None)
                errors.pop(clip_id, None)
                advance(1)
                return
            known = errors.get(clip_id)
            # Worth another try if any way is; else what the later fetcher knows of the clip itself says most.
            errors[clip_id] = (
                known if known is not None and (known.retryable or error.kind == "media_missing") else error
            )

        for fetcher in self._fetchers():
            fetcher.fetch(list(left.values()), site, report)
        advance(len(left))
        return errors


def _urls(value: Any) -> Iterator[str]:
    """The urls anywhere in the tables of a mirror list, `homepage` apart."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key != "homepage":
                yield from _urls(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _urls(inner)


def _empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _holds_media(folder: Path) -> bool:
    """Whether anything else than lists lies in a folder."""
    return any(not name.lower().endswith(_LISTS) for _, _, names in os.walk(folder) for name in names)
