"""What flows through a graph while it is converted: constants, and tensors seen through an order of their axes.

TensorFlow keeps channels last, ONNX's convolutions want them second. A `View` says in which order the axes of a
stored tensor are to be read, so transposing costs nothing until an operator needs one certain order: the 83
transposes of nanodet come to 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dataengine.io.tfjs.graph_model import Array
from dataengine.io.tfjs.onnx_file import Attribute, OnnxWriter

NCHW_AS_NHWC = (0, 2, 3, 1)
"""Axes of a tensor stored with channels second, read with channels last."""


@dataclass(frozen=True)
class Constant:
    """An array that is known; float16 where weights are stored so, though the graph means float32."""

    array: Array


@dataclass(frozen=True)
class View:
    """A tensor of the ONNX graph as the TensorFlow graph sees it.

    Attributes:
        name: of the stored tensor.
        axes: axis `i` of the view is axis `axes[i]` of the stored tensor.
        shape: of the view, at the size the graph is written for.
        free: a name for each axis of the view whose length may be another, '' for the others.
        dtype: numpy's name of its type.
        padding: zeros still to be put (before, behind) each axis of the view; `shape` counts them already.
    """

    name: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    free: tuple[str, ...]
    dtype: str = "float32"
    padding: tuple[tuple[int, int], ...] = ()


Value = Constant | View


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order of axes that undoes this one."""
    return tuple(axes.index(n) for n in range(len(axes)))


@dataclass
class Builder:
    """Writes the ONNX graph of a conversion.

    Attributes:
        name: of the graph.
        writer: of the file.
    """

    name: str
    writer: OnnxWriter = field(init=False)
    _stored: dict[tuple[str, bytes, tuple[int, ...]], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writer = OnnxWriter(self.name)

    def image(self, name: str, dtype: str, shape: tuple[int, ...], free: tuple[str, ...]) -> View:
        """An input of the graph. Pictures with channels last are transposed here, while they are small."""
        if len(free) != len(shape):
            raise ValueError(f"input {name} has {len(shape)} axes and {len(free)} names of axes")
        declared = [label or length for label, length in zip(free, shape, strict=True)]
        self.writer.add_input(name, dtype, declared)
        view = View(name, tuple(range(len(shape))), shape, free, dtype)
        return self.arranged(view, NCHW_AS_NHWC) if len(shape) == 4 and shape[3] <= 4 else view

    def emit(self, op: str, view: View, *more: str, **attributes: Attribute) -> View:
        """An operator that changes neither shape nor order of axes of a view."""
        view = self.padded(view)
        return replace(view, name=self.writer.add_node(op, [view.name, *more], 1, **attributes)[0])

    def constant(self, array: Array) -> str:
        """The name of a stored array; the same array is stored once."""
        key = (array.dtype.name, array.tobytes(), array.shape)
        if key not in self._stored:
            self._stored[key] = self.writer.add_constant(array)
        return self._stored[key]

    def weight(self, array: Array) -> str:
        """The name of a float32 tensor; one that is stored as float16 is widened in the graph."""
        if array.dtype != np.float16:
            return self.constant(array.astype(np.float32, copy=False))
        key = ("widened", array.tobytes(), array.shape)
        if key not in self._stored:
            self._stored[key] = self.writer.add_node("Cast", [self.constant(array)], 1, to=1)[0]
        return self._stored[key]

    def cast(self, view: View, dtype: str) -> View:
        """A view with another type."""
        if dtype != "float32":
            raise ValueError(f"tensors of the type {dtype} are not converted")
        return view if view.dtype == dtype else replace(self.emit("Cast", view, to=1), dtype=dtype)

    def padded(self, view: View) -> View:
        """A view whose padding is done."""
        if not view.padding:
            return view
        stored = [view.padding[n] for n in inverse(view.axes)]
        pads = np.array([before for before, _ in stored] + [behind for _, behind in stored], np.int64)
        name = self.writer.add_node("Pad", [view.name, self.constant(pads)], 1, mode="constant")[0]
        return replace(view, name=name, padding=())

    def arranged(self, view: View, axes: tuple[int, ...]) -> View:
        """The same view of a tensor that is stored in this order of axes."""
        view = self.padded(view)
        if view.axes == axes:
            return view
        order = tuple(view.axes[n] for n in inverse(axes))
        name = self.writer.add_node("Transpose", [view.name], 1, perm=order)[0]
        return replace(view, name=name, axes=axes)

    def finish(self, view: View, name: str, axes: tuple[int, ...]) -> None:
        """Declare a view, its axes in this order, as an output."""
        view = transposed(view, axes)
        view = self.arranged(view, tuple(range(len(view.shape))))
        self.writer.add_node("Identity", [view.name], [name])
        free = [f"{label}_{name}" if label and n else label for n, label in enumerate(view.free)]
        self.writer.add_output(name, view.dtype, [a or b for a, b in zip(free, view.shape, strict=True)])


def transposed(view: View, order: tuple[int, ...]) -> View:
    """A view with its axes in another order; nothing is written."""
    return View(
        view.name,
        tuple(view.axes[n] for n in order),
        tuple(view.shape[n] for n in order),
        tuple(view.free[n] for n in order),
        view.dtype,
        tuple(view.padding[n] for n in order) if view.padding else (),
    )
