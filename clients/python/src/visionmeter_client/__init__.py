"""A small typed client of VisionMeter: metered object detection with the price known before anything runs.

`VisionMeter` waits, `AsyncVisionMeter` is awaited; `webhooks.verify` checks what the server sends by itself.
"""

from visionmeter_client import webhooks
from visionmeter_client._images import ImageSource
from visionmeter_client.answers import (
    Balance,
    Box,
    DayUsage,
    DetectionResult,
    Image,
    ImageUsage,
    Job,
    JobImage,
    JobImages,
    JobUsage,
    Model,
    Prediction,
    Quote,
    QuotedImage,
    Receipt,
    StoredResult,
    Usage,
    UsageReport,
    UsageTotals,
)
from visionmeter_client.async_client import AsyncVisionMeter
from visionmeter_client.client import VisionMeter
from visionmeter_client.errors import (
    ApiError,
    AuthenticationError,
    InsufficientTokensError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
    VisionMeterError,
    WebhookError,
)

__all__ = [
    "ApiError",
    "AsyncVisionMeter",
    "AuthenticationError",
    "Balance",
    "Box",
    "DayUsage",
    "DetectionResult",
    "Image",
    "ImageSource",
    "ImageUsage",
    "InsufficientTokensError",
    "InvalidRequestError",
    "Job",
    "JobImage",
    "JobImages",
    "JobUsage",
    "Model",
    "NotFoundError",
    "Prediction",
    "Quote",
    "QuotedImage",
    "RateLimitedError",
    "Receipt",
    "ServiceUnavailableError",
    "StoredResult",
    "UnexpectedAnswerError",
    "UnreachableError",
    "Usage",
    "UsageReport",
    "UsageTotals",
    "VisionMeter",
    "VisionMeterError",
    "WebhookError",
    "webhooks",
]
