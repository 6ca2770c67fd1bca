"""ONNX files as weights: they find what `YOLO.predict` finds with them, and what is hostile or wrong is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from ultralytics.models import YOLO

from core.errors import WeightsRefusedError
from core.inference.backends.choose import Backend, open_backend, open_networks
from core.inference.backends.network import Network
from core.inference.backends.onnx_network import open_onnx
from core.inference.images import DecodedImage
from core.inference.onnx_file import expected_shapes, inspect_onnx
from core.inference.pipeline import DetectParams
from core.inference.registry import Model, ModelState, ModelVersion, Registry
from core.inference.replicas import Replica
from core.inference.trial import try_weights
from core.inference.weights import hash_file, inspect_weights, suffix_of
from tests.core.inference.backends.test_tasks import weights_of
from tests.core.inference.test_weights import Hostile

CPU = torch.device("cpu")
SIZE_PX = 640


def version_of(path: Path, task: str = "detect") -> ModelVersion:
    """A model with the weights of a file."""
    return ModelVersion(Model(path.stem, path.stem, f"{path.stem}.pt", None, False, "", task), path, hash_file(path))


@pytest.fixture(scope="module")
def networks(onnx_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Network]:
    """The file in each back end that runs it."""
    version, cache_dir = version_of(onnx_weights), tmp_path_factory.mktemp("converted")
    opened = {
        name: open_backend(name, version, device=CPU, cache_dir=cache_dir, cores=2)
        for name in ("openvino", "onnxruntime")
    }
    assert not list(cache_dir.iterdir())  # nothing is converted
    return opened


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_same_as_plain_predict(
    networks: dict[str, Network], onnx_weights: Path, request: pytest.FixtureRequest, name: str
) -> None:
    """In OpenVINO and in ONNX Runtime, every object of a photograph is that of `predict` on the same file."""
    image: DecodedImage = request.getfixturevalue(name)
    boxes = (
        YOLO(str(onnx_weights), task="detect")
        .predict(image.pixels, imgsz=SIZE_PX, conf=0.05, verbose=False, device="cpu")[0]
        .boxes
    )
    assert len(boxes) >= 2
    for network in networks.values():
        assert network.precision == "fp32"
        found, _ = Replica(version_of(onnx_weights), network).run(image.pixels, DetectParams(SIZE_PX))
        np.testing.assert_allclose(found.confidence, boxes.conf.numpy(), atol=0.002)
        np.testing.assert_allclose(found.xyxy, boxes.xyxy.numpy(), atol=0.5)
        assert found.class_id.tolist() == boxes.cls.int().tolist()


@pytest.mark.parametrize(
    ("name", "task"), [("yolov8n-seg", "segment"), ("yolov8n-pose", "pose"), ("yolov8n-obb", "obb")]
)
def test_what_a_task_says(tmp_path: Path, name: str, task: str) -> None:
    """Of each task the file says what the network in torch says, and gives outputs of the shapes that are expected."""
    path = Path(YOLO(str(weights_of(name, tmp_path))).export(format="onnx", imgsz=64, dynamic=True, simplify=False))
    facts = inspect_onnx(path)
    reference = open_backend(
        "torch", version_of(path.with_suffix(".pt"), task), device=CPU, cache_dir=tmp_path, cores=2
    )
    assert facts == reference.facts
    network = open_onnx(path, hash_file(path), cache_dir=tmp_path, cores=2)
    batch = np.random.default_rng(3).random((1, 3, 96, 160), dtype=np.float32)
    outputs = network.forward(batch)
    assert [output.shape for output in outputs] == expected_shapes(facts, 96, 160)
    for left, right in zip(outputs, reference.forward(batch), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("backend", ["auto", "torch", "onnxruntime"])
def test_the_processor_computes_it(onnx_weights: Path, tmp_path: Path, backend: Backend) -> None:
    """Whatever the setting and the device are, one of the back ends that can run it does."""
    open_network = open_networks(torch.device("cuda"), cache_dir=tmp_path, backend=backend)
    network = open_network(version_of(onnx_weights))
    assert network.backend == ("onnxruntime" if backend == "onnxruntime" else "openvino")
    network.close()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_pictures_of_a_batch_do_not_meet(class_onnx: Path, tmp_path: Path, name: str) -> None:
    """A graph that adds up the pictures of a batch, of two customers perhaps, sees each alone."""
    model = onnx.load(class_onnx)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["honest" if one == output else one for one in node.output]
    model.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    model.graph.node.append(helper.make_node("ReduceMax", ["honest", "first"], ["most"], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["honest", "most"], [output]))
    path = tmp_path / "mix.onnx"
    path.write_bytes(model.SerializeToString())
    network = open_backend(name, version_of(path, "classify"), device=CPU, cache_dir=tmp_path, cores=1)
    batch = np.random.default_rng(3).random((2, 3, 64, 64), dtype=np.float32)
    alone = np.concatenate([network.forward(picture[None])[0] for picture in batch])
    assert np.abs(alone[0] - alone[1]).max() > 0
    np.testing.assert_allclose(network.forward(batch)[0], alone, atol=1e-6)


def test_it_is_tried_like_others(onnx_weights: Path) -> None:
    """The child says its task and classes."""
    assert try_weights(onnx_weights, hash_file(onnx_weights)) == ("detect", ["Normal", "Fall"])


def test_it_goes_before_a_pickle(onnx_weights: Path, weights_dir: Path, tmp_path: Path) -> None:
    """Beside a `.pt` the ONNX file is the model's version; beside registered weights it is not looked at."""
    for name in ("yolov8s.onnx", "yolov8s-fall.onnx"):
        (tmp_path / name).symlink_to(onnx_weights)
    registry = Registry(tmp_path)
    assert registry.state("yolov8s") is ModelState.READY
    assert registry.state("yolov8s-fall") is ModelState.MISSING
    for name in ("yolov8s.pt", "yolov8s-fall.pt"):
        (tmp_path / name).symlink_to(weights_dir / "yolov8s-fall.pt")
    assert registry.look("yolov8s").sha256 == hash_file(onnx_weights)
    assert registry.look("yolov8s-fall").path.name == "yolov8s-fall.pt"


# What is refused -----------------------------------------------------------------------------------


def _set_metadata(key: str, value: str | None) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
        helper.set_model_props(model, kept if value is None else {**kept, key: value})

    return change


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _hidden_external(model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.op_type, node.output[:] = "Constant", ["hidden"]
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(model.graph.initializer[0])
    attribute.t.data_location = TensorProto.EXTERNAL


def _add_node(op_type: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(op_type, ["images"], ["more"], domain=domain))

    return change


def _branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("Loop", ["images"], ["more"], body=inner))


def _function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("mine", "Mine", ["a"], ["b"], [], []))


def _opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def _fixed(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 640


def _half(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


REFUSED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "data elsewhere": (_external, "keeps data in other files"),
    "data elsewhere in an attribute": (_hidden_external, "keeps data in other files"),
    "an operation of others": (_add_node("Run", "com.evil"), "not ONNX's own .com.evil.Run."),
    "an operation of the runtime": (_add_node("FusedConv", "com.microsoft"), "not ONNX's own"),
    "an unknown operation": (_add_node("Frobnicate"), "not ONNX's own .Frobnicate."),
    "a loop": (_branch, "has graphs in its graph"),
    "a function": (_function, "brings functions"),
    "an old opset": (_opset(9), "is for opset 9"),
    "an opset of the future": (_opset(999), "is for opset 999"),
    "one size": (_fixed, "export it with dynamic=True"),
    "half precision": (_half, "without half=True"),
    "no task": (_set_metadata("task", None), "does not say its task"),
    "no classes": (_set_metadata("names", None), "does not say its task"),
    "classes that are code": (
        _set_metadata("names", "__import__('os').system('touch marker')"),
        "does not say its task",
    ),
    "classes without end": (_set_metadata("names", "[" * 100_000), "does not say its task"),
    "classes with holes": (_set_metadata("names", "{0: 'a', 7: 'b'}"), "does not say its task"),
    "arguments that are a list": (_set_metadata("args", "[]"), "does not say its task"),
    "too much to say": (_set_metadata("names", "x" * 300_000), "more to say"),
    "suppression": (_set_metadata("args", "{'nms': True}"), "suppresses or ranks"),
    "ranking": (_set_metadata("end2end", "True"), "suppresses or ranks"),
    "quantized": (_add_node("QuantizeLinear"), "is quantized"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(class_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """In a sentence that says why, before anything is loaded; nothing of it is executed."""
    monkeypatch.chdir(tmp_path)
    change, sentence = REFUSED[what]
    model = onnx.load(class_onnx)
    change(model)
    path = tmp_path / "wrong.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsRefusedError, match=sentence) as caught:
        inspect_weights(path)
    assert caught.value.message.startswith("wrong.onnx ")
    assert not (tmp_path / "marker").exists()


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    """Noise, half a file and a pickle under that name are refused; the pickle does not run."""
    marker = tmp_path / "marker"
    path = tmp_path / "wrong.onnx"
    for data in (b"", b"\x08" + bytes(range(256)), pickle.dumps(Hostile(marker), protocol=2)):
        path.write_bytes(data)
        with pytest.raises(WeightsRefusedError):
            inspect_weights(path)
    assert not marker.exists()


def test_a_file_that_lies_about_its_task(class_onnx: Path, tmp_path: Path) -> None:
    """A network for classes that calls itself one for boxes runs, and is refused for what it gives."""
    model = onnx.load(class_onnx)
    _set_metadata("task", "detect")(model)
    path = tmp_path / "liar.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsRefusedError, match="gives other numbers than its task says"):
        try_weights(path, hash_file(path))


@pytest.mark.parametrize("grows", [False, True])
def test_a_file_that_takes_memory(class_onnx: Path, tmp_path: Path, grows: bool) -> None:
    """A small file that computes with 4 GB of zeros, always or for the largest picture only, ends its trial, and not
    what else runs on the machine."""
    model = onnx.load(class_onnx)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["honest" if name == output else name for name in node.output]
    if grows:
        for name, value in (("second", 2), ("each", 1_000_000)):
            model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
        model.graph.node.append(helper.make_node("Shape", ["images"], ["shape"]))
        model.graph.node.append(helper.make_node("Gather", ["shape", "second"], ["height"]))
        model.graph.node.append(helper.make_node("Mul", ["height", "each"], ["count"]))
    else:
        model.graph.initializer.append(helper.make_tensor("count", TensorProto.INT64, [1], [1_000_000_000]))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    model.graph.node.extend(
        (
            helper.make_node("ConstantOfShape", ["count"], ["zeros"], value=zero),
            helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0),
            helper.make_node("Add", ["honest", "most"], [output]),
        )
    )
    path = tmp_path / "greedy.onnx"
    path.write_bytes(model.SerializeToString())
    inspect_weights(path)
    with pytest.raises(WeightsRefusedError, match="does not run and was not used"):
        try_weights(path, hash_file(path))


def test_kinds_are_told_apart(class_onnx: Path, class_weights: Path) -> None:
    """By the first byte, whatever the file is called."""
    assert suffix_of(class_onnx.read_bytes()[:1]) == ".onnx"
    assert suffix_of(class_weights.read_bytes()[:1]) == suffix_of(b"") == ".pt"
