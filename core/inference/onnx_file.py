"""ONNX files as weights: a look inside before anything computes, and what they say about themselves.

Unlike a pickle, an ONNX file can run no code: it is a graph of named operations. What is refused is what could reach
beyond it (data in other files, operations of others' libraries), could compute for ever (loops), or would not be
served right (sides that are fixed, boxes that are suppressed already).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import WeightsRefusedError
from core.geometry import STRIDE_PX
from core.inference.backends.network import NetworkFacts

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
INPUT = "images"
# Ultralytics writes 17 and later ones; older ones resize differently.
OPSET_MIN = 12
NODES_MAX = 20_000
# A thousand classes take 30,000 characters.
METADATA_LENGTH_MAX = 200_000
CLASSES_MAX = 10_000
# OpenVINO 2026.4 finds other boxes in these than ONNX Runtime, and says nothing.
_QUANTIZED = re.compile(r"(Dynamic)?(Quantize|Dequantize)Linear|QLinear\w+|(Conv|MatMul)Integer")
MASK_COEFFICIENTS = 32


def is_onnx(path: Path) -> bool:
    """Whether a file's name says that it is one; whether it is, `inspect_onnx` finds out."""
    return path.suffix == SUFFIX


def inspect_onnx(path: Path) -> NetworkFacts:
    """What the file says about itself. Nothing computes. Raises `WeightsRefusedError` for what is not served."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        # protobuf raises its own types for files that are none; each means: do not use it.
        raise _refuse(path, "is no ONNX file: export it again with Ultralytics") from error
    _require_plain(path, model)
    _require_opset(path, model, onnx.defs.onnx_opset_version())
    _require_open_input(path, model)
    try:
        return _read_metadata(path, {entry.key: entry.value for entry in model.metadata_props})
    except WeightsRefusedError:
        raise
    except Exception as error:
        # `literal_eval` runs nothing, and raises many types for what is no literal; literals of other types raise more.
        raise _refuse(path, "does not say its task and classes as Ultralytics writes them: export it there") from error


def expected_shapes(facts: NetworkFacts, height: int, width: int) -> list[tuple[int, ...]]:
    """The shapes of all outputs for one image of `height × width`, see `Network.forward`."""
    if facts.task == "classify":
        return [(1, len(facts.names))]
    candidates = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    keypoints = facts.keypoint_shape or (0, 0)
    extra = {"segment": MASK_COEFFICIENTS, "pose": keypoints[0] * keypoints[1], "obb": 1}.get(facts.task, 0)
    shapes: list[tuple[int, ...]] = [(1, 4 + len(facts.names) + extra, candidates)]
    if facts.task == "segment":
        shapes.append((1, MASK_COEFFICIENTS, height // 4, width // 4))
    return shapes


def _require_plain(path: Path, model: onnx.ModelProto) -> None:
    """Operations of ONNX itself without graphs in them, and all data in this file."""
    import onnx

    if model.functions or model.training_info:
        raise _refuse(path, "brings functions of its own: export it again with Ultralytics")
    if len(model.graph.node) > NODES_MAX:
        raise _refuse(path, f"has more than {NODES_MAX} operations")
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    foreign = sorted(
        {
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for node in model.graph.node
            if node.domain not in ("", "ai.onnx") or node.op_type not in known
        }
    )
    if foreign:
        names = [name[:60] for name in foreign[:3]]
        raise _refuse(path, f"names operations that are not ONNX's own ({', '.join(names)})", names=names)
    if any(_QUANTIZED.fullmatch(node.op_type) for node in model.graph.node):
        raise _refuse(path, "is quantized, which is not served: export it in FP32")
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        raise _refuse(path, "has graphs in its graph (a loop or a branch), which no detection model needs")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _tensors(model)):
        raise _refuse(path, "keeps data in other files: export it as one file")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _require_opset(path: Path, model: onnx.ModelProto, newest: int) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if not OPSET_MIN <= opset <= newest:
        raise _refuse(path, f"is for opset {opset}, and {OPSET_MIN} to {newest} are served: export it again")


def _require_open_input(path: Path, model: onnx.ModelProto) -> None:
    """One input `(B, 3, H, W)` of floats whose batch and sides are open."""
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    tensor = inputs[0].type.tensor_type if len(inputs) == 1 and inputs[0].name == INPUT else None
    sides = [] if tensor is None else [side.dim_value for side in tensor.shape.dim]
    if tensor is None or tensor.elem_type != onnx.TensorProto.FLOAT or len(sides) != 4 or sides[1] != 3:
        raise _refuse(path, "does not take pictures of three channels as 32-bit numbers: export it without half=True")
    if any(sides[axis] for axis in (0, 2, 3)):
        raise _refuse(path, "takes pictures of one size only: export it with dynamic=True")


def _read_metadata(path: Path, metadata: Mapping[str, str]) -> NetworkFacts:
    if sum(len(value) for value in metadata.values()) > METADATA_LENGTH_MAX:
        raise _refuse(path, "has more to say about itself than a model has")
    names = ast.literal_eval(metadata["names"])
    if not isinstance(names, dict) or not 1 <= len(names) <= CLASSES_MAX or set(names) != set(range(len(names))):
        raise ValueError("names are no dictionary of numbers from 0 on")
    args = ast.literal_eval(metadata.get("args", "{}"))
    if not isinstance(args, dict):
        raise ValueError("args are no dictionary")
    if args.get("nms") or metadata.get("end2end", "False") != "False":
        raise _refuse(path, "suppresses or ranks its boxes itself: export it with nms=False and end2end=False")
    if int(metadata["stride"]) > STRIDE_PX and metadata["task"] != "classify":
        raise _refuse(path, f"needs pictures in steps of {metadata['stride'][:9]} pixels, and {STRIDE_PX} are served")
    points = None
    if metadata["task"] == "pose":
        count, dimensions = ast.literal_eval(metadata["kpt_shape"])
        if not 1 <= count <= 1_000 or dimensions not in (2, 3):
            raise ValueError("a pose has up to 1,000 points of 2 or 3 numbers")
        points = (int(count), int(dimensions))
    return NetworkFacts(
        {int(key): str(name) for key, name in names.items()}, metadata["task"], end2end=False, keypoint_shape=points
    )


def _refuse(path: Path, why: str, **details: object) -> WeightsRefusedError:
    return WeightsRefusedError(f"{path.name} {why}. It was not used.", reason="onnx", **details)
