"""Networks of the transformers library: built in code, filled from a file, without its downloads and its noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataengine.core.errors import MissingExtraError
from dataengine.experts.checkpoints import State, refuse

EXTRA = "vitpose"


@contextmanager
def import_transformers(what: str) -> Iterator[None]:
    """Within this, transformers can be imported and does not report on loading.

    Raises:
        MissingExtraError: it is not installed; `what` needs it.
    """
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(what, EXTRA) from error
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def filled(network: Any, state: State, path: Path, what: str) -> Any:
    """A network like `network` with the tensors of a published file, whose names the library may have changed since.

    Raises:
        WeightsError: they are of another network.
    """
    got, report = type(network).from_pretrained(
        None,
        config=network.config,
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        local_files_only=True,
    )
    refuse(
        path, what,
        missing=sorted(report["missing_keys"]),
        extra=sorted(report["unexpected_keys"]),
        other=sorted(str(one[0]) if isinstance(one, tuple) else str(one) for one in report["mismatched_keys"]),
    )  # fmt: skip
    return got
