"""An operator quantizes a model on pictures of his own, and sees what is lost before anybody is served with it.

What is written is a version of the model like any other: nothing changes until the operator puts it in its place.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.config import Settings
from core.errors import ImageRefusedError, InvalidImageSizeError, QuantizationRefusedError, VisionMeterError
from core.geometry import IMG_SIZES_PX
from core.inference.backends.choose import count_cores
from core.inference.backends.head import NotConvertibleError
from core.inference.backends.network import NetworkFacts
from core.inference.backends.openvino_network import OpenVinoNetwork, read_fp32, read_int8
from core.inference.engine import choose_device
from core.inference.images import Pixels, decode_image
from core.inference.pipeline import prepare, to_batch
from core.inference.quantization_loss import measure_loss
from core.inference.quantize import quantize, require_nncf
from core.inference.quantized_file import PRECISION, SUFFIX, Loss, Manifest, is_quantized, write_quantized
from core.inference.registry import ModelVersion, Registry
from core.inference.replicas import Replica
from core.inference.trial import try_weights
from core.inference.weights import hash_file
from core.services.application import converted_dir

if TYPE_CHECKING:
    import openvino as ov

PICTURES_MIN = 20
# A part of the pictures is held out to measure with; more of either say little more and take minutes.
HELD_OUT_PART = 4
HELD_OUT_MAX = 100
CALIBRATION_MAX = 300
FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized version that lies in a file; `skipped` of the files that were given are no pictures."""

    path: Path
    sha256: str
    manifest: Manifest
    skipped: int

    @property
    def loss(self) -> Loss:
        """What it loses."""
        return self.manifest.loss


def quantize_model(
    settings: Settings,
    registry: Registry,
    name: str,
    pictures: Sequence[Path],
    output: Path,
    *,
    sizes: Sequence[int] = IMG_SIZES_PX,
    tell: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Write the weights that a model serves to `output` in INT8, with the loss measured on a part of the pictures.

    A picture is a file, or a folder of them. `tell` hears of what is going on. Raises `ModelNotFoundError`,
    `ModelNotReadyError`, `InvalidImageSizeError`, `WeightsRefusedError`, and `QuantizationRefusedError` for what cannot
    be quantized or measured; then nothing is written.
    """
    version = _require_quantizable(registry, name)
    sizes = tuple(dict.fromkeys(sizes))
    if not sizes or not set(sizes) <= set(IMG_SIZES_PX):
        raise InvalidImageSizeError(f"A size is one of {', '.join(map(str, IMG_SIZES_PX))}.")
    require_nncf()
    _require_new(settings, output)
    found, skipped = _find_pictures(settings, pictures)
    if len(found) < PICTURES_MIN:
        raise QuantizationRefusedError(
            f"{len(found)} different pictures are too few: give at least {PICTURES_MIN}, better some hundred, of what "
            "this model is for. A part of them is held out to measure what INT8 loses."
        )
    # By their SHA-256, which is as good as by chance and the same each time.
    held_out = sorted(found)[: min(len(found) // HELD_OUT_PART, HELD_OUT_MAX)]
    calibration = sorted(set(found).difference(held_out))[:CALIBRATION_MAX]
    device = choose_device(settings.device).type
    if device != "cpu":
        tell(
            f"Here FP32 serves on {device}, and INT8 would on the processor. Both are measured on the processor: "
            "the time does not hold for this service."
        )
    tell(f"{name}: calibrating with {len(calibration)} pictures, measuring with {len(held_out)} others.")
    partial = output.with_name(f".{output.stem}.{os.getpid()}{SUFFIX}")
    try:
        manifest = _quantize(settings, version, found, calibration, held_out, sizes, partial)
        tell("Trying it in a process of its own.")
        sha256 = hash_file(partial)
        try_weights(partial, sha256, version.model.task)
        partial.replace(output)
    except OSError as error:
        # The converted network is kept in a folder of its own.
        raise QuantizationRefusedError(f"{error.filename or output} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return Quantized(output, sha256, manifest, skipped)


def _quantize(
    settings: Settings,
    version: ModelVersion,
    found: Mapping[str, Path],
    calibration: Sequence[str],
    held_out: Sequence[str],
    sizes: Sequence[int],
    partial: Path,
) -> Manifest:
    model, facts = _read_network(version, settings)

    def load(sample: tuple[str, int]) -> NDArray[np.float32]:
        digest, size = sample
        return to_batch([prepare(_decode(settings, found[digest]), size, version.model)[0]])

    # Each picture at one size, the sizes in turn.
    samples = [(digest, sizes[index % len(sizes)]) for index, digest in enumerate(calibration)]
    graph, constants = quantize(model, samples, load, named=partial)
    cores = count_cores()
    networks = [
        OpenVinoNetwork(model, facts, cores=cores),
        OpenVinoNetwork(read_int8(graph, constants), facts, cores=cores, precision=PRECISION),
    ]
    try:
        fp32, int8 = (Replica(version, network) for network in networks)
        loss = measure_loss(fp32, int8, _decode_all(settings, found, held_out), sizes)
    finally:
        for network in networks:
            network.close()
    manifest = Manifest(
        format=1,
        precision="int8",
        task="detect",
        names=dict(facts.names),
        weights_sha256=version.sha256,
        openvino=importlib.metadata.version("openvino"),
        nncf=importlib.metadata.version("nncf"),
        calibration_pictures=len(calibration),
        calibration_sha256=hashlib.sha256("".join(f"{digest}\n" for digest in calibration).encode()).hexdigest(),
        loss=loss,
    )
    write_quantized(partial, manifest, graph, constants)
    return manifest


def _read_network(version: ModelVersion, settings: Settings) -> tuple[ov.Model, NetworkFacts]:
    try:
        return read_fp32(version.path, version.sha256, cache_dir=converted_dir(settings))
    except ImportError:
        raise QuantizationRefusedError(
            "Quantizing needs OpenVINO, which is not installed here, and so does running what it writes."
        ) from None
    except NotConvertibleError as error:
        raise QuantizationRefusedError(f"{version.model.name} stays in FP32: {error}.") from None


def _require_quantizable(registry: Registry, name: str) -> ModelVersion:
    version = registry.now(name)
    if version.model.task != "detect":
        raise QuantizationRefusedError(
            f"{name} is for the task {version.model.task}: only models that find boxes are quantized, for what INT8 "
            "loses is measured in boxes."
        )
    if is_quantized(version.path):
        raise QuantizationRefusedError(
            f"The weights of {name} are quantized already: roll back to the version that they were made from first."
        )
    return version


def _require_new(settings: Settings, output: Path) -> None:
    if output.suffix != SUFFIX:
        raise QuantizationRefusedError(f"{output} does not end in {SUFFIX}, as quantized weights do.")
    if output.resolve().is_relative_to(settings.weights_dir.resolve()):
        raise QuantizationRefusedError(
            f"{output} lies in the weights folder, where it could come into service at once: name a file elsewhere "
            "with --output."
        )
    if output.exists():
        raise QuantizationRefusedError(f"{output} is there already: name another file with --output, or remove it.")
    if not os.access(output.resolve().parent, os.W_OK):
        raise QuantizationRefusedError(f"The folder of {output} is not there or cannot be written.")


def _find_pictures(settings: Settings, given: Sequence[Path]) -> tuple[dict[str, Path], int]:
    """Different pictures by the SHA-256 of their files, and how many files of folders are none."""
    found: dict[str, Path] = {}
    skipped = 0
    for path in given:
        if not path.is_dir():
            found[_look(settings, path)] = path
            continue
        for one in sorted(path.rglob("*")):
            if one.is_file() and one.suffix.lower() in FOLDER_SUFFIXES:
                try:
                    found[_look(settings, one)] = one
                except QuantizationRefusedError:
                    skipped += 1
    return found, skipped


def _look(settings: Settings, path: Path) -> str:
    try:
        data = path.read_bytes()
        decode_image(data, bytes_max=settings.image_bytes_max, pixels_max=settings.image_pixels_max)
    except OSError as error:
        raise QuantizationRefusedError(f"{path} cannot be read: {error.strerror}.") from None
    except VisionMeterError as error:
        raise QuantizationRefusedError(f"{path}: {error.message}") from None
    return hashlib.sha256(data).hexdigest()


def _decode(settings: Settings, path: Path) -> Pixels:
    try:
        data = path.read_bytes()
        return decode_image(data, bytes_max=settings.image_bytes_max, pixels_max=settings.image_pixels_max).pixels
    except (OSError, ImageRefusedError) as error:
        raise QuantizationRefusedError(f"{path} has changed while it was used: leave the pictures alone.") from error


def _decode_all(settings: Settings, found: Mapping[str, Path], digests: Sequence[str]) -> Iterator[Pixels]:
    for digest in digests:
        yield _decode(settings, found[digest])
