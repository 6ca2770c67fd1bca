"""Files of quantized networks: what was written is read, and what is hostile or wrong is refused before it computes."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.errors import WeightsRefusedError
from core.inference.backends.openvino_network import open_openvino
from core.inference.quantized_file import (
    CONSTANTS,
    DEPTH_MAX,
    ELEMENTS_MAX,
    GRAPH,
    HEAD_BYTES,
    MANIFEST,
    read_manifest,
    read_quantized,
    write_quantized,
)
from core.inference.registry import ModelState, Registry
from core.inference.trial import try_weights
from core.inference.weights import hash_file, inspect_weights, suffix_of
from tests import quantized
from tests.quantized import make_small, parts_of, small_graph

Parts = dict[str, bytes]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is read."""
    return make_small(tmp_path_factory.mktemp("small") / "small.openvino")


def write(path: Path, parts: Parts, compression: int = zipfile.ZIP_STORED) -> Path:
    """The same parts as a zip, whatever they are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def test_what_was_written_is_read(small: Path) -> None:
    """The manifest and the constants are the same, the graph has no notes, and the same network is the same file."""
    manifest, graph, constants = read_quantized(small)
    assert manifest == read_manifest(small) == quantized.MANIFEST
    saved, same = small_graph()
    assert constants == same
    assert b"rt_info" in saved
    assert b"rt_info" not in graph
    write_quantized(small.with_name("again.openvino"), manifest, graph, constants)
    assert hash_file(small.with_name("again.openvino")) == hash_file(small)


def test_it_computes(small: Path) -> None:
    """In OpenVINO, from memory, and says that it is INT8."""
    network = open_openvino(small, hash_file(small), cache_dir=small.parent, cores=1)
    assert (network.precision, network.facts.task, network.names) == ("int8", "detect", {0: "Normal", 1: "Fall"})
    network.close()


def test_pictures_of_a_batch_do_not_meet(tmp_path: Path) -> None:
    """A graph that adds up the pictures of a batch, of two customers perhaps, sees each alone."""
    import openvino.opset13 as ops

    path = make_small(
        tmp_path / "mix.openvino", lambda output: ops.add(output, ops.reduce_max(output, np.array([0]), keep_dims=True))
    )
    network = open_openvino(path, hash_file(path), cache_dir=tmp_path, cores=1)
    batch = np.stack([np.zeros((3, 64, 64)), np.ones((3, 64, 64))]).astype(np.float32)
    alone = np.concatenate([network.forward(picture[None])[0] for picture in batch])
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_array_equal(network.forward(batch)[0], alone)


def test_kinds_are_told_apart(small: Path, version) -> None:
    """A checkpoint of torch is a zip, too: the first name in it says which of the two it is."""
    heads = [path.read_bytes()[:HEAD_BYTES] for path in (small, version.path)]
    assert heads[0][:4] == heads[1][:4] == b"PK\x03\x04"
    assert [suffix_of(head) for head in heads] == [".openvino", ".pt"]


def test_it_goes_before_others(small: Path, version, tmp_path: Path) -> None:
    """Beside a `.pt` and an `.onnx` it is the model's version; beside registered weights it is not looked at."""
    for name in ("yolov8s.onnx", "yolov8s.pt"):
        (tmp_path / name).symlink_to(version.path)
    for name in ("yolov8s.openvino", "yolov8s-fall.openvino"):
        (tmp_path / name).symlink_to(small)
    registry = Registry(tmp_path)
    assert registry.look("yolov8s").sha256 == hash_file(small)
    assert registry.state("yolov8s-fall") is ModelState.MISSING


@pytest.mark.parametrize("suffix", [".openvino", ".onnx", ".pt"])
def test_any_kind_takes_the_place_of_any(small: Path, tmp_path: Path, suffix: str) -> None:
    """What is moved into a model's place is its weights, whatever lies there."""
    for name in (".openvino", ".onnx", ".pt"):
        (tmp_path / f"yolov8s{name}").write_bytes(name.encode())
    registry, new = Registry(tmp_path), tmp_path / "new"
    new.write_bytes(small.read_bytes())
    registry.move_in_place(registry.get("yolov8s"), new, suffix)
    assert registry.look("yolov8s").path == tmp_path / f"yolov8s{suffix}"
    assert registry.look("yolov8s").sha256 == hash_file(small)


# What is refused -----------------------------------------------------------------------------------


def _graph(old: str, new: str) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        text = parts[GRAPH].decode()
        assert old in text
        return {**parts, GRAPH: text.replace(old, new).encode()}

    return change


def _constant(**attributes: str) -> Callable[[Parts], Parts]:
    """The first constant with other attributes."""

    def change(parts: Parts) -> Parts:
        before, found, after = parts[GRAPH].decode().partition('type="Const"')
        data = after[after.index("<data ") : after.index("/>") + 2]
        said = {"element_type": "f32", "shape": "", "offset": "0", "size": "4", **attributes}
        words = " ".join(f'{name}="{value}"' for name, value in said.items())
        return {**parts, GRAPH: f"{before}{found}{after.replace(data, f'<data {words} />', 1)}".encode()}

    return change


def _manifest(**fields: object) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        said = json.loads(parts[MANIFEST])
        loss = {**said["loss"], **fields} if fields.keys() <= said["loss"].keys() else said["loss"]
        own = {} if loss != said["loss"] else fields
        return {**parts, MANIFEST: json.dumps({**said, "loss": loss, **own}).encode()}

    return change


def _put(name: str, data: bytes) -> Callable[[Parts], Parts]:
    return lambda parts: {**parts, name: data}


def _layer(type_: str, opset: str = "opset1") -> Callable[[Parts], Parts]:
    return _graph("<layers>", f'<layers><layer id="99" name="x" type="{type_}" version="{opset}" />')


ENTITIES = '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><net>&b;</net>'
MEGABYTE = (
    '<layer type="Const" version="opset1"><data element_type="u8" shape="1000000" offset="0" size="1000000" /></layer>'
)
OUTSIDE = '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]><net>&a;</net>'

REFUSED: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "one file more": (_put("../../evil.pt", b"x"), "is no zip of manifest.json, model.xml, model.bin"),
    "other names": (
        lambda parts: {MANIFEST: parts[MANIFEST], "/etc/model.xml": parts[GRAPH], CONSTANTS: parts[CONSTANTS]},
        "each stored as it is",
    ),
    "another order": (lambda parts: dict(reversed(parts.items())), "each stored as it is"),
    "nothing in it": (lambda _: {}, "is no zip of"),
    "a manifest that is none": (_put(MANIFEST, b"\xff{"), "does not say what it is"),
    "a manifest without end": (_put(MANIFEST, b"[" * 100_000), "does not say what it is"),
    "too much to say": (_put(MANIFEST, b" " * 300_000), "more to say"),
    "something nobody asked for": (_manifest(command="rm"), "does not say what it is .* .command."),
    "another precision": (_manifest(precision="fp32"), "does not say what it is .* .precision."),
    "another task": (_manifest(task="segment"), "does not say what it is .* .task."),
    "classes with holes": (_manifest(names={"0": "a", "7": "b"}), "does not say what it is"),
    "no classes": (_manifest(names={}), "does not say what it is"),
    "a hash that is none": (_manifest(weights_sha256="<b>"), "does not say what it is .* .weights_sha256."),
    "a loss that is no number": (_manifest(confidence_mean=float("nan")), "does not say what it is"),
    "more found than there is": (_manifest(found=44), "does not say what it is .* .loss."),
    "a class that is none": (
        _manifest(worst={"class_id": 2, "objects": 4, "found": 3}),
        "does not say what it is",
    ),
    "more found of a class than there is": (
        _manifest(worst={"class_id": 1, "objects": 4, "found": 5}),
        "does not say what it is .* .loss.",
    ),
    "entities": (_put(GRAPH, ENTITIES.encode()), "with a document type, an entity or a comment"),
    "entities from elsewhere": (_put(GRAPH, OUTSIDE.encode()), "with a document type, an entity or a comment"),
    "entities in another encoding": (_put(GRAPH, ENTITIES.encode("utf-16")), "no text in UTF-8"),
    "no XML": (_put(GRAPH, b"<net>"), "that is no XML"),
    "no graph": (_put(GRAPH, b""), "that is no"),
    "another document": (_put(GRAPH, b"<html />"), "no network of OpenVINO"),
    "a graph without end": (
        _put(GRAPH, b"<net>" + b"<dim/>" * ELEMENTS_MAX + b"</net>"),
        "more than 300,000 elements",
    ),
    "a graph without bottom": (_put(GRAPH, b"<net>" * DEPTH_MAX * 5_000), "or too deep a one"),
    "too large a graph": (_put(GRAPH, b" " * 9_000_000), "more than 8,000,000 bytes of model.xml"),
    "another format": (_graph('version="11"', 'version="12"'), "format 11"),
    "a loop": (_graph("<layers>", "<layers><layer><body /></layer>"), "not made of .body."),
    "notes": (_graph("<layers>", "<layers><rt_info />"), "not made of .rt_info."),
    "an operation that computes for ever": (_layer("TensorIterator"), "not served .opset1.TensorIterator."),
    "state from picture to picture": (_layer("ReadValue", "opset6"), "not served .opset6.ReadValue."),
    "an operation of others": (_layer("Add", "extension"), "not served .extension.Add."),
    "a second output": (_layer("Result"), "more than one output"),
    "a second input": (_layer("Parameter"), "more than one output"),
    "one size": (_graph('shape="?,3,?,?"', 'shape="1,3,640,640"'), "any size"),
    "not quantized": (_graph('type="FakeQuantize"', 'type="Clamp"'), "is not quantized"),
    "constants that end early": (_put(CONSTANTS, b"\0" * 8), "beyond the end of model.bin"),
    "a constant beyond the end": (_constant(offset="999999999"), "beyond the end of model.bin"),
    "a constant before the beginning": (_constant(offset="-4"), "neither what it is nor where"),
    "a constant larger than it is": (_constant(shape="1000000,1000000"), "another size than its shape"),
    "a constant of text": (_constant(element_type="string"), "neither what it is nor where"),
    "constants named again and again": (
        lambda parts: _graph("<layers>", f"<layers>{MEGABYTE * 3}")(
            {**parts, CONSTANTS: parts[CONSTANTS] + bytes(1_000_000)}
        ),
        "more constants than bytes",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(small: Path, tmp_path: Path, what: str) -> None:
    """In a sentence that says why, before OpenVINO sees any of it; nothing is written beside the file."""
    change, sentence = REFUSED[what]
    path = write(tmp_path / "wrong.openvino", change(parts_of(small)))
    with pytest.raises(WeightsRefusedError, match=sentence) as caught:
        inspect_weights(path)
    assert caught.value.message.startswith("wrong.openvino ")
    assert caught.value.details["reason"] == "quantized"
    assert list(tmp_path.iterdir()) == [path]


def test_zips_that_are_none(small: Path, tmp_path: Path) -> None:
    """Half a file, a damaged one, noise, a compressed one, one with a name twice, a locked one: each is refused."""
    whole, parts = small.read_bytes(), parts_of(small)
    flipped = bytearray(whole)
    flipped[whole.index(parts[CONSTANTS]) + 5] ^= 1
    locked = bytearray(whole)
    locked[whole.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry of the list of contents
    path = tmp_path / "wrong.openvino"
    half, commented = whole[: len(whole) // 2], whole[:-2] + b"\1\0"
    for data in (b"", half, whole[:-1], whole + b"x", commented, whole[100:], bytes(flipped), bytes(locked)):
        path.write_bytes(data)
        with pytest.raises(WeightsRefusedError):
            inspect_weights(path)
    # 100 MB of nothing in 100 KB.
    write(path, {**parts, CONSTANTS: bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(WeightsRefusedError, match="stored as it is"):
        inspect_weights(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for name in (MANIFEST, GRAPH, GRAPH):
            archive.writestr(name, parts[name])
    with pytest.raises(WeightsRefusedError, match="stored as it is"):
        inspect_weights(path)


@pytest.mark.parametrize("entry", [0, 2])
@pytest.mark.parametrize("offset", [2**64 - 1, 2**63 + 5])
def test_offsets_beyond_the_file(small: Path, tmp_path: Path, entry: int, offset: int) -> None:
    """A list of contents whose 64-bit field says that a part lies beyond all files: refused in a sentence."""
    whole = small.read_bytes()
    end = whole.rindex(b"PK\x05\x06")
    size, begin = struct.unpack("<II", whole[end + 12 : end + 20])
    listed = [b"PK\x01\x02" + one for one in whole[begin : begin + size].split(b"PK\x01\x02")[1:]]
    listed[entry] = (
        listed[entry][:30]
        + b"\x0c\0"
        + listed[entry][32:42]
        + b"\xff" * 4
        + listed[entry][46:]
        + struct.pack("<HHQ", 1, 8, offset)
    )
    contents = b"".join(listed)
    path = tmp_path / "wrong.openvino"
    path.write_bytes(
        whole[:begin] + contents + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 3, 3, len(contents), begin, 0)
    )
    with pytest.raises(WeightsRefusedError, match="each stored as it is"):
        inspect_weights(path)


def test_an_encoding_that_is_a_lie(small: Path, tmp_path: Path) -> None:
    """What the graph says of its encoding counts for nothing: OpenVINO reads what was checked, written anew."""
    parts = parts_of(small)
    lie = b'<?xml version="1.0" encoding="utf-16"?>' + parts[GRAPH]
    path = write(tmp_path / "odd.openvino", {**parts, GRAPH: lie})
    assert read_quantized(path)[1] == read_quantized(small)[1]


def test_a_file_that_lies_about_its_task(small: Path) -> None:
    """A network that gives something else runs in the child, and is refused for what it gives, in the child's words; an
    operator is told how to make such a file, in the portal too."""
    with pytest.raises(
        WeightsRefusedError, match=r"^small.openvino gives other numbers than its task says: "
    ) as caught:
        try_weights(small, hash_file(small))
    assert caught.value.details["reason"] == "quantized"


def _many(output, count):
    """The output with something added that takes `count` numbers of four bytes."""
    import openvino.opset13 as ops

    most = ops.reduce_max(output, np.array([0, 1, 2, 3]), keep_dims=False)
    many = ops.broadcast(ops.unsqueeze(most, np.array(0)), ops.reshape(count, np.array([1]), special_zero=False))
    return ops.add(output, ops.reduce_max(ops.sigmoid(many), np.array([0]), keep_dims=True))


def _of_sides(output):
    """Nothing at 64 and at 1280, and gigabytes between."""
    import openvino.opset13 as ops

    height = ops.gather(ops.shape_of(output), np.array([2]), np.array(0))
    between = ops.multiply(ops.subtract(height, np.array([64])), ops.subtract(np.array([1280]), height))
    return _many(output, ops.add(ops.multiply(between, np.array([10_000])), np.array([1])))


def _of_pixels(output):
    import openvino.opset13 as ops

    most = ops.reduce_max(output, np.array([0, 1, 2, 3]), keep_dims=False)
    return _many(output, ops.add(ops.convert(most, "i64"), ops.constant(np.int64(1))))


def _of_constants(output):
    """A hundred megabytes that are made of two numbers when it is compiled."""
    import openvino.opset13 as ops

    many = ops.broadcast(ops.constant(np.float32([0.5])), np.array([25_000_000]))
    place = ops.convert(ops.reduce_max(output, np.array([0, 1, 2, 3]), keep_dims=False), "i64")
    return ops.add(output, ops.gather(many, place, np.array(0)))


def _of_products(output):
    """Each pixel with each: no size stands anywhere."""
    import openvino.opset13 as ops

    column, row = (ops.reshape(output, np.array(shape), special_zero=False) for shape in ([-1, 1], [1, -1]))
    return ops.add(output, ops.reduce_max(ops.add(column, row), np.array([0, 1]), keep_dims=False))


@pytest.mark.parametrize(
    ("change", "height", "sentence"),
    [
        (_of_sides, 640, "takes too much memory for pictures of 64 × 640"),
        (_of_pixels, None, "makes shapes of other than a few numbers"),
        (_of_constants, None, "takes too much memory for pictures of 64 × 64"),
        (_of_products, None, "takes too much memory for pictures of 64 × 64"),
    ],
)
def test_memory_is_known_before_it_is_taken(
    tmp_path: Path, change: Callable[..., object], height: int | None, sentence: str
) -> None:
    """Arrays as large as a graph likes, of the picture's sides, of pixels, of constants: refused where it is opened, or
    at the first picture of a shape, and other shapes compute."""
    path = make_small(tmp_path / "greedy.openvino", change)
    if height is None:
        with pytest.raises(WeightsRefusedError, match=sentence):
            open_openvino(path, hash_file(path), cache_dir=tmp_path, cores=1)
        return
    network = open_openvino(path, hash_file(path), cache_dir=tmp_path, cores=1)
    with pytest.raises(WeightsRefusedError, match=sentence):
        network.forward(np.zeros((1, 3, height, 64), np.float32))
    assert network.forward(np.zeros((1, 3, 64, 64), np.float32))[0].shape == (1, 2, 64, 64)


def test_a_file_that_takes_memory(tmp_path: Path) -> None:
    """A small file that computes with 16 GB is refused in its trial, before it takes them."""
    import openvino.opset13 as ops

    def grow(output):
        side = ops.constant(np.array([1, 2, 60_000, 60_000], np.int64))
        many = ops.broadcast(ops.reduce_max(output, np.array([0, 1, 2, 3]), keep_dims=True), side)
        return ops.add(output, ops.reduce_max(ops.sigmoid(many), np.array([0, 1, 2, 3]), keep_dims=True))

    path = make_small(tmp_path / "greedy.openvino", grow)
    inspect_weights(path)
    with pytest.raises(WeightsRefusedError, match="takes too much memory"):
        try_weights(path, hash_file(path))
