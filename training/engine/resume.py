"""Whether a run may go on from a checkpoint: what differs between the two, by the keys of a configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from dataengine.core.errors import TrainingError
from training.engine.settings import TrainSettings

SHOWN = 6
"""Differences that a message names."""
_WITHOUT_EFFECT = (
    "log_every",
    "save_every",
    "probe_every",
    "keep_every",
    "keep_best",
    "tensorboard",
    "wandb",
    "compile",
)
"""Settings that change no result."""
_OF_THE_DATA = ("data", "labels", "skeleton", "channels", "texts")
"""Facts that the data decide; where the clips are others, the other facts follow from that."""
_NOT_LEARNT_FROM = ("val", "val_split")


def check(out: Any, before: Mapping[str, Any], now: Mapping[str, Any], step: int, steps_per_epoch: int) -> str | None:
    """Compare the facts of a checkpoint with those of the run that is to go on from it.

    Args:
        out: the folder, for messages.
        before, now: facts, see `training.engine.loop.fit`.
        step: of the checkpoint.
        steps_per_epoch: of the run.

    Returns:
        What to say of another number of epochs; None where it is the same.

    Raises:
        TrainingError: the run is another one; the message names the keys, their values, and what to do.
    """
    found = list(_differences(before, now))
    if found:
        shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        raise TrainingError(
            f"{out} holds a run with another {shown}. To go on with it, give the options that it began with "
            f"({out}/run.toml; only run.epochs may be another); for the new ones give another --out, "
            f"`dataengine-train finetune {out}` to train its network on, or delete {out}"
        )
    old, new = before["settings"]["epochs"], now["settings"]["epochs"]
    if old == new:
        return None
    if new * steps_per_epoch < step:
        raise TrainingError(
            f"{out} holds a run with another run.epochs ({old} there, {new} here) and is {step / steps_per_epoch:g} "
            f"epochs old: give at least that many, or another --out"
        )
    return (
        f"{out} was begun with run.epochs {old} and goes on to {new}: from epoch {step / steps_per_epoch:g} on, "
        f"schedules are those of {new} epochs, so the result is not that of a run of {new} epochs from its beginning"
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """'key (value there, value here)' of each fact that differs and has an effect."""
    if before.get("data") != now.get("data"):
        yield f"data ({_other_data(before, now)})"
    else:
        for name in _OF_THE_DATA:
            if before.get(name) != now.get(name):
                yield from _values(name, before.get(name), now.get(name))
    for name, value in now.items():
        if name in (*_OF_THE_DATA, "config", "seen") or before.get(name) == value:
            continue
        if name == "settings":
            yield from _settings(before.get(name) or {}, value)
        elif name == "batch":
            yield from _values("run.batch", before.get(name), value)
        elif name == "start":
            yield "run.start (its weights are others)"
        else:
            yield from _values(name, before.get(name), value)


def _settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    defaults = json.loads(json.dumps(asdict(TrainSettings())))  # of settings that are newer than the checkpoint
    before = {**defaults, **before, "optim": {**defaults["optim"], **(before.get("optim") or {})}}
    for name, value in now.items():
        if name in (*_WITHOUT_EFFECT, "epochs"):
            continue
        if name == "optim":
            old, new = ({**table, "name": table.get("optimizer")} for table in (before.get(name) or {}, value))
            for table in (old, new):
                table.pop("optimizer", None)
            yield from _values("optim", old, new)
        else:
            yield from _values(f"run.{name}", before.get(name), value)


def _values(key: str, before: Any, now: Any) -> Iterator[str]:
    """The keys below `key` whose values differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*before, *now)):
            yield from _values(f"{key}.{name}", before.get(name), now.get(name))
    elif before != now:
        yield f"{key} ({_text(before)} there, {_text(now)} here)"


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} values"
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _other_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which option leads to other clips; else that the files hold others."""
    old, new = ((facts.get("config") or {}).get("data", {}) for facts in (before, now))
    options = [
        text
        for name in dict.fromkeys((*old, *new))
        if name not in _NOT_LEARNT_FROM
        for text in _values(f"data.{name}", old.get(name), new.get(name))
    ]
    return "; ".join(options[:SHOWN]) or "the clips, their order or their labels are others than when it began"
