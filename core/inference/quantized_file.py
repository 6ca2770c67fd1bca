"""Quantized networks as weights: one file with OpenVINO's graph, its constants, and a manifest with the measured loss.

A zip without compression, so that whatever is in it is no larger than the file. Like an ONNX file it can run no code.
What is refused is what could reach beyond it (other files, operations of others' libraries, state that stays from
picture to picture), could compute for ever (loops), or says other than it holds. OpenVINO never reads the graph as it
stands in the file: it is written anew from what was checked.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, cast

# Entities, the danger of this parser, need a document type, and a text with one is refused before.
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import WeightsRefusedError
from core.inference.backends.network import NetworkFacts
from core.inference.onnx_file import CLASSES_MAX, METADATA_LENGTH_MAX, NODES_MAX

SUFFIX = ".openvino"
PRECISION = "int8"
MANIFEST, GRAPH, CONSTANTS = FILES = ("manifest.json", "model.xml", "model.bin")
# Where the first name of a zip stands: what was written here begins with the manifest, and torch's checkpoints do not.
HEAD_BYTES = 30 + len(MANIFEST)
# A yolov8s has 0.5 MB of graph with 12,000 elements.
GRAPH_BYTES_MAX = 8_000_000
ELEMENTS_MAX = 300_000
DEPTH_MAX = 20
_PIECE = 65_536
# Small constants of one value are kept once and named often.
CONSTANTS_SHARED_BYTES = 1_000_000

_SIGNED = b"PK\x03\x04"
# The end of a zip (APPNOTE 4.3.16): so many bytes where it has no comment, and the mark that a 64-bit one precedes.
_END_BYTES, _END_SIGNED, _LOCATOR_BYTES, _LOCATOR_SIGNED = 22, b"PK\x05\x06", 20, b"PK\x06\x07"
# What `zipfile` raises for numbers that make no sense; NotImplementedError for a version of the format beyond its own.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)
_DIRECTORY_BYTES_MAX = 1_000

_TAGS = {"net", "layers", "layer", "data", "input", "output", "port", "dim", "edges", "edge"}
# What networks that find boxes are made of once Ultralytics, OpenVINO and NNCF have written them. Each computes its
# outputs from its inputs alone.
_OPERATIONS = re.compile(
    r"Abs|Add|AvgPool|Broadcast|Ceiling|Clamp|Concat|Const|Convert|ConvertLike|Convolution|"
    r"ConvolutionBackpropData|Divide|Elu|Equal|Exp|FakeQuantize|Floor|FloorMod|Gather|Gelu|Greater|"
    r"GreaterEqual|GroupConvolution|GroupConvolutionBackpropData|HSigmoid|HSwish|HardSigmoid|Interpolate|Less|"
    r"LessEqual|Log|MatMul|MaxPool|Maximum|Minimum|Mish|Mod|Multiply|Negative|PRelu|Pad|Parameter|Power|Range|"
    r"ReLU|ReduceMax|ReduceMean|ReduceMin|ReduceSum|Reshape|Result|Select|ShapeOf|ShuffleChannels|Sigmoid|"
    r"Slice|SoftMax|SoftPlus|Split|Sqrt|Squeeze|StridedSlice|Subtract|Swish|Tanh|Tile|TopK|Transpose|Unsqueeze|"
    r"VariadicSplit"
)
_OPSET = re.compile(r"opset\d{1,2}")
_ITEM_BYTES = {"f32": 4, "f16": 2, "i64": 8, "i32": 4, "i8": 1, "u8": 1, "boolean": 1}
_SHAPE = re.compile(r"(\d{1,9}(, ?\d{1,9}){0,7})?")
_NUMBER = re.compile(r"\d{1,12}")

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Release = Annotated[str, Field(pattern=r"^[\w.+/-]{1,80}$")]
Sizes = Annotated[tuple[Annotated[int, Field(ge=32, le=10_000)], ...], Field(min_length=1, max_length=20)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Worst(_Strict):
    """The class of which INT8 finds the smallest part of what FP32 finds: `found` of `objects`."""

    class_id: Annotated[int, Field(ge=0)]
    objects: Annotated[int, Field(ge=1, le=1_000_000_000)]
    found: Count


class Loss(_Strict):
    """What a quantized network loses against the one in FP32, measured on pictures that it was not calibrated with.

    Of the `objects` that FP32 finds at `confidence_min` or more, each counted at each of `sizes`, INT8 finds `found` at
    that confidence, too: of the same class, with IoU ≥ 0.5; and `besides` that FP32 does not find. `confidence_mean`
    and `confidence_most` are how far their confidences are apart, `iou_mean` how well their boxes overlap. `time` is
    the time of one image as a part of FP32's, the median of measurements in turns, `time_least` to `time_most`.
    """

    pictures: Annotated[int, Field(ge=1, le=1_000_000)]
    sizes: Sizes
    confidence_min: Share
    objects: Annotated[int, Field(ge=1, le=1_000_000_000)]
    found: Annotated[int, Field(ge=1, le=1_000_000_000)]
    besides: Count
    confidence_mean: Share
    confidence_most: Share
    iou_mean: Share
    time: Ratio
    time_least: Ratio
    time_most: Ratio
    worst: Worst | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Loss:
        worst = self.worst
        if (
            self.found > self.objects
            or self.confidence_mean > self.confidence_most
            or (worst is not None and (worst.found > worst.objects or worst.objects > self.objects))
        ):
            raise ValueError("more was found than there is")
        return self


class Manifest(_Strict):
    """What a quantized network says about itself: for what it is, from what and with what it was made, what it loses.

    `calibration_sha256` is the SHA-256 of the lines with the SHA-256 of each picture that it was calibrated with,
    ascending.
    """

    format: Literal[1]
    precision: Literal["int8"]
    task: Literal["detect"]
    names: dict[Annotated[int, Field(ge=0)], str]
    weights_sha256: Sha256
    openvino: Release
    nncf: Release
    calibration_pictures: Annotated[int, Field(ge=1, le=1_000_000)]
    calibration_sha256: Sha256
    loss: Loss

    @model_validator(mode="after")
    def _names_classes(self) -> Manifest:
        if not 1 <= len(self.names) <= CLASSES_MAX or set(self.names) != set(range(len(self.names))):
            raise ValueError("names are no dictionary of numbers from 0 on")
        if self.loss.worst is not None and self.loss.worst.class_id not in self.names:
            raise ValueError("the worst class is none of them")
        return self

    @property
    def facts(self) -> NetworkFacts:
        """The same as a back end knows it."""
        return NetworkFacts(self.names, self.task, end2end=False)


def is_quantized(path: Path) -> bool:
    """Whether a file's name says that it is one; whether it is, `read_quantized` finds out."""
    return path.suffix == SUFFIX


def begins_quantized(head: bytes) -> bool:
    """Whether a file is one, by its first `HEAD_BYTES`: a zip whose first name is the manifest's."""
    return head[:4] == _SIGNED and head[30:HEAD_BYTES] == MANIFEST.encode()


def read_manifest(path: Path) -> Manifest:
    """The manifest alone. Raises `WeightsRefusedError` and `OSError`."""
    with _open(path) as archive:
        return _read_manifest(path, archive)


def read_quantized(path: Path) -> tuple[Manifest, bytes, bytes]:
    """The manifest, the graph as OpenVINO reads it, and its constants. Nothing computes.

    Raises `WeightsRefusedError` for what is not served.
    """
    try:
        with _open(path) as archive:
            manifest = _read_manifest(path, archive)
            constants = _read(path, archive, CONSTANTS)
            return manifest, _check_graph(path, _parse(path, _read(path, archive, GRAPH)), len(constants)), constants
    except OSError as error:
        raise _refuse(path, "cannot be read") from error


def clean_graph(path: Path, graph: bytes, constants_bytes: int) -> bytes:
    """What OpenVINO saved, as it is kept: without the notes of the tools that made it, which nothing computes with.

    `path` is what errors name. Raises `WeightsRefusedError` for a network that is not served.
    """
    root = _parse(path, graph)
    for parent in root.findall(".//rt_info/.."):
        for notes in parent.findall("rt_info"):
            parent.remove(notes)
    return _check_graph(path, root, constants_bytes)


def write_quantized(path: Path, manifest: Manifest, graph: bytes, constants: bytes) -> None:
    """Write a clean graph and its constants as one file. Raises `OSError`."""
    parts = {MANIFEST: manifest.model_dump_json(indent=1).encode(), GRAPH: graph, CONSTANTS: constants}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            # Without the time of day, so that the same network is the same version.
            archive.writestr(zipfile.ZipInfo(name), data)


# The zip --------------------------------------------------------------------------------------------


def _open(path: Path) -> zipfile.ZipFile:
    """A zip of the three files, stored as they are, whose list of contents is as short as three are."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _END_BYTES - _LOCATOR_BYTES))
        tail = file.read()
    end = tail[-_END_BYTES:]
    # Before `zipfile` reads that list, which could name millions of files.
    if (
        not end.startswith(_END_SIGNED)
        or end[20:] != b"\0\0"  # with a comment, `zipfile` would look for another end
        or tail[:4] == _LOCATOR_SIGNED
        or int.from_bytes(end[10:12], "little") != len(FILES)
        or int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES_MAX
    ):
        raise _refuse(path, f"is no zip of {', '.join(FILES)}")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise _refuse(path, "is a damaged zip") from error
    inside = archive.infolist()
    if (
        tuple(one.filename for one in inside) != FILES
        or any(one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size for one in inside)
        or any(one.flag_bits or one.extra or one.file_size > size for one in inside)
        or any(not 0 <= one.header_offset < size for one in inside)
    ):
        archive.close()
        raise _refuse(path, f"is no zip of {', '.join(FILES)}, each stored as it is")
    return archive


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    if name != CONSTANTS and archive.getinfo(name).file_size > GRAPH_BYTES_MAX:
        raise _refuse(path, f"has more than {GRAPH_BYTES_MAX:,} bytes of {name}")
    try:
        return archive.read(name)
    except (*_DAMAGED, EOFError, RuntimeError) as error:
        raise _refuse(path, f"has a damaged {name}") from error


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    if archive.getinfo(MANIFEST).file_size > METADATA_LENGTH_MAX:
        raise _refuse(path, "has more to say about itself than a model has")
    try:
        return Manifest.model_validate_json(_read(path, archive, MANIFEST))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:4]) or MANIFEST
        raise _refuse(path, f"does not say what it is as VisionMeter writes it ({where})") from error


# The graph ------------------------------------------------------------------------------------------


def _parse(path: Path, data: bytes) -> ElementTree.Element:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _refuse(path, f"has a {GRAPH} that is no text in UTF-8") from error
    if "<!" in text:
        raise _refuse(path, f"has a {GRAPH} with a document type, an entity or a comment, which no network needs")
    # As text: what encoding it claims to have does not count. Piece by piece: what is too large is not built first.
    parser: ElementTree.XMLPullParser[ElementTree.Element] = ElementTree.XMLPullParser(events=("start", "end"))
    root: ElementTree.Element | None = None
    elements = depth = 0
    try:
        for begin in range(0, len(text) + _PIECE, _PIECE):
            if begin < len(text):
                parser.feed(text[begin : begin + _PIECE])
            else:
                parser.close()  # some parsers keep events until then
            for event, element in cast(Iterator[tuple[str, ElementTree.Element]], parser.read_events()):
                root = element  # that of the last event is all of it
                elements += event == "start"
                depth += 1 if event == "start" else -1
                if elements > ELEMENTS_MAX or depth > DEPTH_MAX:
                    raise _refuse(path, f"has a {GRAPH} of more than {ELEMENTS_MAX:,} elements, or too deep a one")
    except ElementTree.ParseError as error:
        raise _refuse(path, f"has a {GRAPH} that is no XML") from error
    if root is None or root.tag != "net":
        raise _refuse(path, f"has a {GRAPH} that is no network of OpenVINO")
    return root


def _check_graph(path: Path, root: ElementTree.Element, constants_bytes: int) -> bytes:
    """A network of one picture of any size, of known operations, whose constants lie in the file; written anew."""
    if root.get("version") != "11":
        raise _refuse(path, "is no network of OpenVINO's format 11")
    foreign = sorted({element.tag[:60] for element in root.iter()} - _TAGS)
    if foreign:
        # Bodies of loops and branches, and whatever a later OpenVINO understands.
        raise _refuse(path, f"has what a network is not made of ({', '.join(foreign[:3])})", names=foreign[:3])
    layers = list(root.iter("layer"))
    if len(layers) > NODES_MAX:
        raise _refuse(path, f"has more than {NODES_MAX} operations")
    foreign = sorted(
        {
            f"{layer.get('version', '')}.{layer.get('type', '')}"[:60]
            for layer in layers
            if not _OPERATIONS.fullmatch(layer.get("type", "")) or not _OPSET.fullmatch(layer.get("version", ""))
        }
    )
    if foreign:
        raise _refuse(path, f"names operations that are not served ({', '.join(foreign[:3])})", names=foreign[:3])
    kinds = [layer.get("type") for layer in layers]
    inputs = [_data(layer) for layer in layers if layer.get("type") == "Parameter"]
    if (
        kinds.count("Result") != 1
        or len(inputs) != 1
        or inputs[0].get("element_type") != "f32"
        or inputs[0].get("shape", "").replace(" ", "") not in ("?,3,?,?", "-1,3,-1,-1")
    ):
        raise _refuse(path, "does not take pictures of three channels and any size, or gives more than one output")
    if "FakeQuantize" not in kinds:
        raise _refuse(path, "is not quantized")
    _require_constants(path, [_data(layer) for layer in layers if layer.get("type") == "Const"], constants_bytes)
    return ElementTree.tostring(root)


def _require_constants(path: Path, constants: list[dict[str, str]], length: int) -> None:
    """Each has as many bytes as its shape says, all of them in the file, and hardly any of them twice."""
    total = 0
    for data in constants:
        shape, offset, size = (data.get(name, "") for name in ("shape", "offset", "size"))
        item = _ITEM_BYTES.get(data.get("element_type", ""))
        if item is None or not _SHAPE.fullmatch(shape) or not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(size):
            raise _refuse(path, "has a constant that says neither what it is nor where it lies")
        if math.prod(int(side) for side in shape.split(",") if side.strip()) * item != int(size):
            raise _refuse(path, "has a constant of another size than its shape")
        if int(offset) + int(size) > length:
            raise _refuse(path, f"has a constant that lies beyond the end of {CONSTANTS}")
        total += int(size)
    if total > length + CONSTANTS_SHARED_BYTES:
        raise _refuse(path, "has more constants than bytes for them")


def _data(layer: ElementTree.Element) -> dict[str, str]:
    data = layer.find("data")
    return {} if data is None else data.attrib


def _refuse(path: Path, why: str, **details: object) -> WeightsRefusedError:
    return WeightsRefusedError(f"{path.name} {why}. It was not used.", reason="quantized", **details)
