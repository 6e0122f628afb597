"""What all components are: pure configuration."""

from __future__ import annotations

from typing import ClassVar


class Component:
    """The base of all components: pure configuration.

    Attributes:
        extra: the extra of the package whose libraries the component needs; None: the core is enough.
        title: how messages name the component, for example "[experts.vitpose]".
        programs: modules that run in a process of their own, so that no import names them. Results depend on them as
            on the component's own code.
    """

    extra: ClassVar[str | None] = None
    title: ClassVar[str] = ""
    programs: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Raise what would fail every clip, before any work: a missing program, folder or key. Default: nothing."""

    def needs(self) -> list[str]:
        """Names of files of the manifest of weights that must lie on this machine. Default: none."""
        return []

    def weights(self) -> dict[str, str]:
        """Weight files by name, with their sha256 or blake3; part of every fingerprint. Default: none.

        Raises:
            WeightsError: a file is not here, or is another one.
        """
        return {}
