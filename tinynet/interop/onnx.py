"""A model as an ONNX file, which onnxruntime and many other programs run: in phones, browsers, C++, C#, Java.

An ONNX graph is a list of nodes.  Each is an operator, "Conv" or "MatMul", with names for what it takes and for what it
puts out, and constants, which are weights here.  Every layer says itself of which nodes it is made, in its method
`onnx(graph, x)`.  Where the axes lie depends on the operator:

    last     x (N, ..., C)        as everywhere in tinynet: MatMul, Gemm, LayerNormalization
    first    x (N, C, ...)        convolutions and pooling
    time     x (T, N, ...)        LSTM and GRU

A Value knows in which of these it is there already, and makes a Transpose where another one is asked for: so a row of
convolutions has one at its beginning and one at its end, and a row of LSTMs likewise.
"""

import os
from importlib import import_module
from typing import Any

import numpy as np

from tinynet.data.writing import as_text, write_whole
from tinynet.layers.along_time import check_along_time
from tinynet.layers.inputs import takes_several
from tinynet.model import Sequential

OPSET = 20  # Gelu came with this one
IR_VERSION = 9  # the file format's that came with it
LARGEST = 2**31 - 1  # bytes, of the format


def to_onnx(model: Sequential, path: str | bytes | os.PathLike, lengths: bool = False) -> None:
    """Write the model as an ONNX file that computes what `predict` does: its input "x", its output "y".

    Several inputs are called "x0", "x1" and so on.

    lengths   True for a second input, "lengths" (N,): what lies behind a sequence's length changes nothing, and y is 0
              there; "lengths0" and so on for each of several inputs that may have some; False: all positions count

    Batches may be of any size, and their sequences of any length that the model takes.  (A Conv1D with padding="same"
    and a stride, or pooling with ceil_mode, is written for the length that the model was built for.)  The file's
    numbers are float32, those of a float64 model rounded; whole numbers are int64.

        tn.interop.to_onnx(model, "model.onnx")
        session = onnxruntime.InferenceSession("model.onnx")
        (y,) = session.run(None, {"x": x})

    A layer of your own needs a method onnx(graph, x); that of tn.Dense is an example.  Raises ImportError without the
    package onnx, TypeError for what is no model, and ValueError for a layer that has no such method or minds no
    lengths, or a model of more than two gigabytes.

    >>> import tempfile
    >>> import onnx
    >>> model = tn.Sequential([tn.Dense(2)], 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tn.interop.to_onnx(model, f"{folder}/model.onnx")
    ...     [value.name for value in onnx.load(f"{folder}/model.onnx").graph.input]
    ['x']
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"to_onnx: expected a tinynet Sequential, got {type(model).__name__}")
    try:
        onnx = import_module("onnx")
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ImportError("to_onnx needs the package onnx: pip install 'tinynet-numba[onnx]'") from None
    path = as_text(path, "to_onnx")
    content = _proto(onnx, model, lengths)
    if content.ByteSize() > LARGEST:
        raise ValueError(
            f"to_onnx: the model is of {content.ByteSize():,} bytes, and an ONNX file of at most {LARGEST:,}"
        )
    write_whole(path, content.SerializeToString(), who="to_onnx")


def _proto(onnx, model, lengths):
    from tinynet import __version__

    graph, kinds, values, ends = Graph(onnx), onnx.TensorProto, [], []
    takes, gives = _shapes(model)
    for (number, entry, layers), shape in zip(_inputs(model), takes, strict=True):
        x = graph.value(f"x{number}", len(shape))
        ends.append((f"x{number}", kinds.INT64 if entry.takes_integers else kinds.FLOAT, shape))
        if lengths and (number == "" or _ends_time(layers, entry.input_shape)):
            check_along_time(layers, entry.input_shape[0])
            x.lengths = f"lengths{number}"
            ends.append((x.lengths, kinds.INT64, ["N"]))
            x = x.filled(0 if entry.takes_integers else 0.0)
        values.append(x)
    if lengths and all(x.lengths is None for x in values):
        raise ValueError("to_onnx: none of the model's inputs can have lengths: no branch minds them and ends the time")
    y = graph.through(model.layers, values if takes_several(model.input_shape) else values[0])
    graph.nodes.append(onnx.helper.make_node("Identity", [y.filled(0.0).last()], ["y"]))
    *given, y = (onnx.helper.make_tensor_value_info(*end) for end in (*ends, ("y", kinds.FLOAT, gives)))
    return onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "tinynet", given, [y], graph.arrays),
        producer_name="tinynet", producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
    )  # fmt: skip


def _inputs(model):
    """(what follows "x" in its name, where it enters, the layers that nothing else goes through) of each input."""
    if not takes_several(model.input_shape):
        return [("", model.layers[0], model.layers)]
    return [(str(number), entry, entry.layers) for number, entry in enumerate(model.layers[0].entries)]


def _shapes(model):
    """Those of the inputs, a list, and of y: a name stands for any number."""
    takes, gives = [["N", *entry.input_shape] for _, entry, _ in _inputs(model)], ["N", *model.output_shape]
    if not all(layer.any_length for layer in model.walk()):
        return takes, gives
    for (number, _, layers), shape in zip(_inputs(model), takes, strict=True):
        try:
            T_in, T_out = shape[1], check_along_time(layers, shape[1])
        except (IndexError, ValueError):  # it is no sequence, or one layer has it whole: a Flatten
            continue
        if T_out is None or number == "":  # what several inputs share is of the length that the model was built for
            shape[1] = f"T{number}"
        if T_out is not None and number == "":
            gives[1] = "T" if T_in == T_out else "T_out"
    return takes, gives


def _ends_time(layers, shape):
    """Whether layers mind lengths of samples of this shape, and what they make of them has no axis of time."""
    try:
        return bool(shape) and check_along_time(layers, shape[0]) is None
    except ValueError:
        return False


class Graph:
    """Nodes and constants, to which layers add theirs."""

    def __init__(self, onnx: Any) -> None:
        self.nodes: list = []
        self.arrays: list = []
        self._onnx, self._seen = onnx, {}

    def add(self, kind: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """A node of names, arrays or numbers; returns the name of its output, or a list of `outputs` names."""
        number = len(self.nodes)
        names = [f"{number}_{kind}_{k}" if outputs > 1 else f"{number}_{kind}" for k in range(outputs)]
        inputs = [given if isinstance(given, str) else self.array(given) for given in inputs]
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names if outputs > 1 else names[0]

    def array(self, value: Any) -> str:
        """The name of a constant: floats become float32, whole numbers int64."""
        value = np.asarray(value)
        key = value.ctypes.data, value.shape, value.strides, value.dtype
        if key not in self._seen:
            kept = value.astype(np.int64 if value.dtype.kind in "iu" else np.float32, order="C")
            name = f"constant_{len(self.arrays)}"
            self.arrays.append(self._onnx.numpy_helper.from_array(kept, name))
            self._seen[key] = name, value  # the array, so that no other one gets its place in memory
        return self._seen[key][0]

    def value(self, name: str, axes: int, layout: str = "last") -> "Value":
        """The output of a node, as a Value of so many axes."""
        return Value(self, name, axes, layout)

    def windows(self, lengths: str | None, more: int, stride: int) -> str | None:
        """How many windows lie in sequences of these lengths: (length + more) // stride, and none where that is 0."""
        if lengths is None:
            return None
        count = self.add("Div", self.add("Max", self.add("Add", lengths, more), 0), stride)
        return self.add("Where", self.add("Less", 0, lengths), count, 0)

    def through(self, layers: Any, x: "Value") -> "Value":
        """What layers in a row make of x; sequences stay as long as they are, where a layer says nothing else."""
        for layer in layers:
            lengths, x = getattr(x, "lengths", None), layer.onnx(self, x)  # several inputs are a list
            if x.lengths is None and layer.output_lengths(np.ones(1, int)) is not None:
                x.lengths = lengths
        return x


class Value:
    """A tensor (N, ...) of so many axes, in one layout or in several."""

    lengths: str | None = None  # the name of those of its sequences (N,), where not all positions count

    def __init__(self, graph: Graph, name: str, axes: int, layout: str = "last") -> None:
        self.graph, self.axes, self.layout, self._names = graph, axes, layout, {layout: name}

    def last(self) -> str:
        """Its name as (N, ..., C)."""
        return self.named("last")

    def first(self) -> str:
        """Its name as (N, C, ...)."""
        return self.named("first")

    def time(self) -> str:
        """Its name as (T, N, ...)."""
        return self.named("time")

    def named(self, layout: str) -> str:
        """Its name in a layout, "last", "first" or "time"."""
        if layout not in self._names:
            here, there = self._order(self.layout), self._order(layout)
            name = self._names[self.layout]
            if here != there:
                name = self.graph.add("Transpose", name, perm=[here.index(axis) for axis in there])
            self._names[layout] = name
        return self._names[layout]

    def inside(self) -> str:
        """Which positions are within the lengths, (N, T)."""
        T = self.graph.add("Squeeze", self.graph.add("Shape", self.last(), start=1, end=2))
        ends = self.graph.add("Unsqueeze", self.lengths, [1])
        return self.graph.add("Less", self.graph.add("Range", 0, T, 1), ends)

    def filled(self, number: float) -> "Value":
        """The same with this number behind the lengths, where there are any."""
        if self.lengths is None:
            return self
        inside = self.inside()
        if self.axes > 2:
            inside = self.graph.add("Unsqueeze", inside, list(range(2, self.axes)))
        found = Value(self.graph, self.graph.add("Where", inside, self.last(), number), self.axes)
        found.lengths = self.lengths
        return found

    def rows(self) -> tuple[str, str]:
        """Its name and layout with channels on the last axis."""
        layout = "last" if self.layout == "first" else self.layout
        return self.named(layout), layout

    def map(self, kind: str, *more: Any, **attributes: Any) -> "Value":
        """A node that takes each number by itself, and so is done in the layout that x is in."""
        name = self.graph.add(kind, self.named(self.layout), *more, **attributes)
        return Value(self.graph, name, self.axes, self.layout)

    def channels(self) -> int:
        """The axis of the channels in the layout that it is in."""
        return 1 if self.layout == "first" else self.axes - 1

    def _order(self, layout):
        """Which of the axes (N, ..., C) is where."""
        axes = list(range(self.axes))
        if layout == "first" and axes[1:]:
            return [0, axes[-1], *axes[1:-1]]
        return [1, 0, *axes[2:]] if layout == "time" else axes
