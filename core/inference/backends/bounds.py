"""What a stranger's graph may take in memory: known for each shape of picture before OpenVINO computes with it.

A trial shows what one picture of one shape takes, and a graph can make its arrays as large as it likes of the sides of
a picture or of its pixels. With the sides given, OpenVINO works out the shapes of all arrays without computing any;
what stays open then depends on pixels.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import WeightsRefusedError

if TYPE_CHECKING:
    import openvino as ov

# Arrays that are needed at once. Of the networks that were looked at (docs/adr/0039), at 1280 × 1280, the least took 38
# bytes a pixel and the most 115; a yolo12x, the largest, would take some 700.
BYTES_A_PIXEL = 1_000
# What constants become that are computed once and stay: eight bits become 32 in three steps.
BYTES_A_CONSTANT_BYTE = 16
BYTES_BESIDE = 16_000_000
# Of an array of which a shape is made.
SHAPE_ITEMS_MAX = 1_000
# Which inputs of an operation say how large its output is, and which parts of what it takes.
_SHAPE_INPUTS = {
    "Broadcast": (1, 2),
    "ConvolutionBackpropData": (2,),
    "Gather": (2,),
    "GroupConvolutionBackpropData": (2,),
    "Interpolate": (1, 2, 3),
    "Pad": (1, 2),
    "Range": (0, 1, 2),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "StridedSlice": (1, 2, 3),
    "Tile": (1,),
    "TopK": (1,),
    "Transpose": (1,),
    "Unsqueeze": (1,),
    "VariadicSplit": (1, 2),
}


class Bounds:
    """The memory of one graph, by the shape of a picture. Thread-safe. Has a copy of the graph, which shares constants.

    Raises `WeightsRefusedError` for a graph that computes shapes with large arrays, or makes much of its constants.
    """

    def __init__(self, path: Path, model: ov.Model, constants_bytes: int) -> None:
        self._path = path
        self._model = model.clone()
        self._constants_max = BYTES_BESIDE + BYTES_A_CONSTANT_BYTE * constants_bytes
        self._mutex = threading.Lock()
        self._known: set[tuple[int, int]] = set()
        self._require_small_shapes()
        self._constant = self._find_constant()

    def require(self, height: int, width: int) -> None:
        """Raise `WeightsRefusedError` where a picture of this shape takes more than a network that finds boxes does."""
        with self._mutex:
            if (height, width) in self._known:
                return
            try:
                self._model.reshape([1, 3, height, width])
            except RuntimeError as error:
                raise self._refuse(f"does not take pictures of {width} × {height}") from error
            if self._take(height, width) > BYTES_A_PIXEL * height * width + self._constants_max:
                raise self._refuse(f"takes too much memory for pictures of {width} × {height}")
            self._known.add((height, width))

    def _take(self, height: int, width: int) -> int:
        """The most bytes that are there at once: each array until the last that needs it, computed constants always."""
        at_once = most = 0
        waiting: dict[tuple[str, int], tuple[int, int]] = {}
        for operation in self._model.get_ordered_ops():
            for output in operation.outputs():
                if output.get_partial_shape().is_dynamic:
                    raise self._refuse(f"makes arrays whose size depends on the pixels ({operation.get_type_name()})")
                if operation.get_type_name() != "Constant":
                    size = math.prod(output.get_shape()) * output.get_element_type().size
                    at_once += size
                    users = 0 if operation.get_name() in self._constant else len(output.get_target_inputs())
                    waiting[operation.get_name(), output.get_index()] = (users, size)
            most = max(most, at_once)
            for given in operation.input_values():
                key = given.get_node().get_name(), given.get_index()
                users, size = waiting.get(key, (0, 0))
                if users:
                    waiting[key] = users - 1, size
                    at_once -= size if users == 1 else 0
        return most

    def _find_constant(self) -> set[str]:
        """The operations that OpenVINO computes once, for no picture has a part in them."""
        found: set[str] = set()
        for operation in self._model.get_ordered_ops():
            given = operation.input_values()
            if operation.get_type_name() == "ShapeOf":
                constant = given[0].get_partial_shape().is_static
            else:
                constant = operation.get_type_name() != "Parameter" and all(
                    one.get_node().get_name() in found for one in given
                )
            if constant:
                found.add(operation.get_name())
        return found

    def _require_small_shapes(self) -> None:
        """OpenVINO computes what shapes are made of whenever it works them out: their size must not depend on them."""
        seen: set[str] = set()
        waiting = [
            operation.input_value(index)
            for operation in self._model.get_ops()
            for index in _SHAPE_INPUTS.get(operation.get_type_name(), ())
            if index < operation.get_input_size()
        ]
        while waiting:
            output = waiting.pop()
            operation = output.get_node()
            if operation.get_name() in seen or operation.get_type_name() == "ShapeOf":
                continue
            seen.add(operation.get_name())
            for one in operation.outputs():
                shape = one.get_partial_shape()
                if shape.is_dynamic or math.prod(shape.to_shape()) > SHAPE_ITEMS_MAX:
                    raise self._refuse(f"makes shapes of other than a few numbers ({operation.get_type_name()})")
            waiting.extend(operation.input_values())

    def _refuse(self, why: str) -> WeightsRefusedError:
        return WeightsRefusedError(f"{self._path.name} {why}. It was not used.", reason="quantized")
