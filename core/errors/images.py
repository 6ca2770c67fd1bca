"""Failures of images, of models and of the engine that runs the ones through the others."""

from __future__ import annotations

from core.errors.base import VisionMeterError


class ImageRefusedError(VisionMeterError):
    """An upload that cannot be served. `code` names the reason; nothing was held for it."""

    code = "image_refused"


class ImageEmptyError(ImageRefusedError):
    """Zero bytes."""

    code = "image_empty"


class ImageTooManyBytesError(ImageRefusedError):
    """The file is larger than the limit."""

    code = "image_too_many_bytes"


class ImageTooManyPixelsError(ImageRefusedError):
    """The header announces more pixels than the limit (a decompression bomb, or a very large picture)."""

    code = "image_too_many_pixels"


class ImageUnsupportedError(ImageRefusedError):
    """The bytes are no picture in a format that we decode, whatever the name says."""

    code = "image_unsupported"


class ImageBrokenError(ImageRefusedError):
    """The bytes begin like a picture but cannot be decoded to the end."""

    code = "image_broken"


class ImageAnimatedError(ImageRefusedError):
    """Several frames in one file."""

    code = "image_animated"


class ArchiveRefusedError(ImageRefusedError):
    """A ZIP, or a file in it, that cannot be read."""

    code = "archive_refused"


class TooManyImagesError(VisionMeterError):
    """More images in one batch than the limit."""

    code = "too_many_images"


class ModelNotFoundError(VisionMeterError):
    """No model has this name."""

    code = "model_not_found"


class ModelNotReadyError(VisionMeterError):
    """The model is known but its weights are not on this machine."""

    code = "model_not_ready"


class WeightsRefusedError(VisionMeterError):
    """The weights file is not the registered one, or names code outside the allow-list."""

    code = "weights_refused"


class InvalidImageSizeError(VisionMeterError):
    """`img_size` is not one that the engine serves."""

    code = "invalid_img_size"


class InvalidTileSizeError(VisionMeterError):
    """`tile_px` is not one that is offered, or an image has too many tiles of that size."""

    code = "invalid_tile_px"


class FormatNotApplicableError(VisionMeterError):
    """A format of boxes was asked for, and the model tells classes of whole pictures."""

    code = "format_not_applicable"


class InferenceError(VisionMeterError):
    """The model failed on this image."""

    code = "inference_failed"


class EngineBusyError(VisionMeterError):
    """The engine's queue is full; nothing was held."""

    code = "engine_busy"


class EngineStoppedError(VisionMeterError):
    """The engine is shutting down."""

    code = "engine_stopped"


class DiskFullError(VisionMeterError):
    """There is no room on the disk for a picture; nothing was held."""

    code = "disk_full"


class JobNotFoundError(VisionMeterError):
    """There is no such job for this account."""

    code = "job_not_found"
