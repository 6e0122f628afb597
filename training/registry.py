"""Names of networks, methods and formats of data, for the one registry of `dataengine.core.registry`.

To add one: one file in its folder and one line here. A package of your own adds one by an entry point
of the group `training.backbones`, `training.methods` or `training.formats`.

The options of a network or method are the parameters of its constructor that have a default. Options
that belong together are one parameter: a frozen dataclass, which configurations write as a table.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

import pydantic

from dataengine.core import registry
from dataengine.core.errors import ComponentError, TrainingError, suggestion

BACKBONES = {
    "unik": "training.backbones.unik:UNIK",
    "stgcn": "training.backbones.stgcn:STGCN",
    "stgcn_pyskl": "training.backbones.stgcn:STGCNPyskl",
    "stgcnpp": "training.backbones.stgcnpp:STGCNpp",
    "agcn": "training.backbones.agcn:AGCN",
    "asgcn": "training.backbones.asgcn:ASGCN",
    "st_transformer": "training.backbones.st_transformer:STTransformer",
    "mmp_transformer": "training.backbones.mmp_transformer:MMPTransformer",
    "slow_r50": "training.backbones.slow_r50:SlowR50",
    "skeleton_autoencoder": "training.backbones.skeleton_autoencoder:SkeletonAutoencoder",
}
METHODS = {
    "supervised": "training.methods.supervised:Supervised",
    "mcc": "training.methods.mcc:MCC",
    "tmor": "training.methods.tmor:TMOR",
    "segment": "training.methods.segmentation:Segmentation",
    "lac_retarget": "training.methods.lac_retarget:LACRetarget",
    "lac": "training.methods.lac:LAC",
    "r3": "training.methods.r3:MotionR3",
    "molang": "training.methods.molang:MoLang",
    "ltn": "training.methods.ltn:LTN",
    "via": "training.methods.via:ViA",
}
FORMATS = {
    "built": "training.data.formats.built:BuiltDataset",
    "webdataset": "training.data.formats.webdataset:WebDataset",
    "pyskl": "training.data.formats.pyskl:PysklDataset",
    "unik": "training.data.formats.unik:UnikDataset",
    "npz": "training.data.formats.npz:NpzDataset",
    "mixamo": "training.data.formats.mixamo:MixamoDataset",
    "bvh": "training.data.formats.bvh:BvhDataset",
    "videos": "training.data.formats.videos:VideoDataset",
}
DATA_OPTIONS = ("num_classes", "skeleton", "channels", "backbone")
"""Parameters of networks and methods that the data decide; no configuration names them."""


def names(kind: str) -> list[str]:
    """Names of all backbones, methods or formats, those of other installed packages last."""
    return registry.names(kind)


def find(kind: str, name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        TrainingError: no such name, with the nearest one; or another package offers it and it cannot be used.
    """
    try:
        return registry.component_class(kind, name)
    except ComponentError as error:
        raise TrainingError(str(error)) from error


def options(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of a class by name: its constructor's parameters that have a default."""
    parameters = inspect.signature(cls).parameters
    return {name: p for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def defaults(cls: type[Any]) -> dict[str, Any]:
    """Defaults of the options that a configuration can hold; a group of options is a table."""
    plain: dict[str, Any] = {}
    for name, parameter in options(cls).items():
        value = parameter.default
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            plain[name] = dataclasses.asdict(value)
        elif name not in DATA_OPTIONS and isinstance(value, (bool, int, float, str, tuple, list)):
            plain[name] = value
    return plain


def checked(title: str, cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the constructor takes them: names and types checked, tables made into groups of options.

    Args:
        title: how messages name the class, for example "[method] tmor".
        cls: a network or a method; its `former_options` are answered with the names of today.
        given: options by name.

    Raises:
        TrainingError: an unknown or former name, or a value of another type or range.
    """
    allowed = inspect.signature(cls).parameters
    constructor: Any = cls
    adapters = _adapters(constructor)
    former: Mapping[str, str] = getattr(cls, "former_options", {})
    result = {}
    for name, value in given.items():
        if name not in allowed:
            now = f"; it is called {former[name]!r} now" if name in former else suggestion(name, options(cls))
            raise TrainingError(f"{title} has no option {name!r}{now}")
        adapter, group = adapters.get(name, (None, None))
        if group is not None and isinstance(value, Mapping):
            _check_names(f"{title} {name}", group, value)
            value = {**dataclasses.asdict(allowed[name].default), **value}
        elif group is not None and not isinstance(value, group):
            fields = ", ".join(f.name for f in dataclasses.fields(group))
            raise TrainingError(f"{title} {name} = {value!r}: it is a table of {fields}")
        result[name] = value if adapter is None else _validated(f"{title} {name}", adapter, group, value)
    return result


def _check_names(title: str, group: type[Any], table: Mapping[str, Any]) -> None:
    fields = [f.name for f in dataclasses.fields(group)]
    for key in table:
        if key not in fields:
            raise TrainingError(f"{title} has no option {key!r}{suggestion(key, fields)}")


def _validated(title: str, adapter: pydantic.TypeAdapter[Any], group: type[Any] | None, value: Any) -> Any:
    """The value, checked; a table becomes its group, all else stays what it is."""
    try:
        made = adapter.validate_python(value if group is not None else _tuples(value), strict=group is None)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and group is not None)
        shown = f"{title}.{place}" if place else title
        raise TrainingError(f"{shown} = {first.get('input')!r}: {first['msg']}") from error
    except (TrainingError, ValueError) as error:
        raise TrainingError(f"{title}: {error}") from error
    return made if group is not None else value


def _tuples(value: Any) -> Any:
    """Lists, which TOML has in place of tuples, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@functools.cache
def _adapters(cls: Any) -> dict[str, tuple[pydantic.TypeAdapter[Any], type[Any] | None]]:
    """By option a check of its type, and the dataclass where it is a group; options of other types are unchecked."""
    adapters: dict[str, tuple[pydantic.TypeAdapter[Any], type[Any] | None]] = {}
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # a hint that only type checkers know
        return adapters
    for name in options(cls):
        hint: Any = hints.get(name)
        group = next((one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)), None)
        if name not in DATA_OPTIONS and (group is not None or _is_plain(hint)):
            adapters[name] = pydantic.TypeAdapter(hint), group if isinstance(group, type) else None
    return adapters


def _is_plain(hint: Any) -> bool:
    """Whether a type is made of numbers, texts, literals and sequences of these."""
    if hint in (bool, int, float, str, types.NoneType, Ellipsis) or typing.get_origin(hint) is typing.Literal:
        return True
    return typing.get_origin(hint) is not None and all(map(_is_plain, typing.get_args(hint)))


def create(kind: str, name: str, **given: Any) -> Any:
    """Make a network or a method, its options strictly checked.

    Raises:
        TrainingError: unknown name or option, or a value that it refuses.
    """
    cls = find(kind, name)
    made = checked(name, cls, given)
    try:
        return cls(**made)
    except ValueError as error:
        raise TrainingError(f"{name}: {error}") from error
