"""What an operator reads about weights: why a file is refused, and what quantized ones lose."""

from __future__ import annotations

from core.errors import VisionMeterError
from core.inference.quantized_file import Manifest
from core.services.models import CLASS_LENGTH_MAX
from ui.format import plain
from ui.i18n import _
from ui.messages import explain


def loss_words(version: str, manifest: Manifest, *, origin_known: bool) -> str:
    """What a version loses, as its file says that it was measured when it was made."""
    loss, worst = manifest.loss, manifest.loss.worst
    words = _(
        "Version {version} is INT8. Its file says that it was made from {origin}, and finds {found} of {objects} "
        "objects of FP32 ({share}), and {besides} besides, in {pictures} pictures that it was not calibrated with, at "
        "{count} sizes ({sizes} pixels), each object counted at each; confidences differ by {mean} on average and "
        "{most} at most, boxes overlap by IoU {iou}. An image took {time} of the time of FP32 ({least} to {longest})."
    ).format(
        version=version,
        origin=manifest.weights_sha256[:12],
        found=loss.found,
        objects=loss.objects,
        share=f"{loss.found / loss.objects:.1%}",
        besides=loss.besides,
        pictures=loss.pictures,
        count=len(loss.sizes),
        sizes=", ".join(map(str, loss.sizes)),
        mean=f"{loss.confidence_mean:.3f}",
        most=f"{loss.confidence_most:.3f}",
        iou=f"{loss.iou_mean:.3f}",
        time=f"{loss.time:.2f}",
        least=f"{loss.time_least:.2f}",
        longest=f"{loss.time_most:.2f}",
    )
    if worst is not None:
        words += " " + _("Of the worst class, {name}, it finds {found} of {objects}.").format(
            name=plain(manifest.names[worst.class_id][:CLASS_LENGTH_MAX]), found=worst.found, objects=worst.objects
        )
    if not origin_known:
        words += " " + _("The version that it was made from is none that is known here.")
    return words


def explain_to_operator(error: VisionMeterError) -> str:
    """A failure in words for whoever brought the weights: customers are only told to choose another model."""
    if error.code != "weights_refused":
        return explain(error)
    reason, names = error.details.get("reason"), error.details.get("names")
    if reason == "onnx":
        words = _(
            "This ONNX file is not one that is served here: {problem} Export it with Ultralytics as format=onnx with "
            "dynamic=True, in FP32, and without nms."
        )
    elif reason == "quantized":
        words = _("This quantized file is not one that is served here: {problem} Make it with {command}.")
    elif reason == "no_openvino":
        words = _("A quantized file runs in OpenVINO only, which is not installed here. Nothing was changed.")
    elif reason == "too_large":
        words = _("The file is larger than {limit} MB, which is the limit of this installation.")
    elif reason == "registered":
        words = _("The weights of this model come with the installation and cannot be others.")
    elif names:
        words = _(
            "This file names code that no detection model needs ({names}). It was not loaded, and nothing was changed."
        )
    else:
        words = _(
            "This file does not run as a detection model here. Nothing was changed: export it again with Ultralytics."
        )
    return words.format(
        problem=plain(error.message),
        command="`visionmeter catalog quantize`",
        limit=error.details.get("bytes_max", 0) // 1_000_000,
        names=plain(", ".join((names or [])[:3])),
    )
