"""Failures of an operator who looks after models, and of customers who ask for one that is no longer offered."""

from __future__ import annotations

from core.errors.base import VisionMeterError


class ModelRetiredError(VisionMeterError):
    """The model is known, and no longer offered for new quotes."""

    code = "model_retired"


class ModelNameTakenError(VisionMeterError):
    """There is a model, or a file, of this name already."""

    code = "model_name_taken"


class InvalidModelError(VisionMeterError):
    """A name, title, β or percent that a model cannot have; `field` says which."""

    code = "invalid_model"


class CanaryNotFoundError(VisionMeterError):
    """No version of the model is being tried on a share of the accounts."""

    code = "canary_not_found"


class WeightsFolderError(VisionMeterError):
    """The weights folder cannot be written, or what an operator wrote into it cannot be read."""

    code = "weights_folder"


class QuantizationRefusedError(VisionMeterError):
    """A model cannot be quantized, or what it loses cannot be measured with these pictures."""

    code = "quantization_refused"
