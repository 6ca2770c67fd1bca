"""What programs send and get, as OpenAPI shows it. Amounts are tokens, boxes pixels of the original image."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from core.geometry import IMG_SIZES_PX
from core.inference.detections import CONFIDENCE_STORED_MIN
from core.tiles import OVERLAP_PERCENT, TILES_PX

DEFAULT_CONFIDENCE = 0.25
DEFAULT_IMG_SIZE = 640
DEFAULT_MODEL = "yolov8s-fall"

Format = Literal["json", "coco", "yolo", "csv"]


def split_names(value: Any) -> Any:
    """The list of names in a query's or a form's text. None chosen is no filter, in whatever way it is said."""
    names = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    return None if names == [] else names


def _aware(moment: datetime) -> datetime:
    """A moment that names no zone is in UTC; one that no calendar of ours holds is refused (422)."""
    if not 1970 <= moment.year <= 9998:
        raise ValueError("a year from 1970 to 9998")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _written(value: Any) -> Any:
    """Only text such as 2026-11-24T10:15:00Z: pydantic would also take a number, for seconds or for milliseconds."""
    if not isinstance(value, datetime) and not re.match(r"\d{4}-\d\d-\d\d", str(value)):
        raise ValueError("a time such as 2026-11-24T10:15:00Z")
    return value


Moment = Annotated[datetime, BeforeValidator(_written), AfterValidator(_aware)]
Names = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=1000)]
Confidence = Annotated[
    float,
    Field(ge=CONFIDENCE_STORED_MIN, le=1, description="Detections below it are left out; changing it later is free."),
]
Classes = Annotated[
    Names | None, BeforeValidator(split_names), Field(description="Only these classes, by name; also comma-separated.")
]


class Sent(BaseModel):
    """A body. A field that is not known is an error: a misspelt one would be ignored in silence."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ImageIn(Sent):
    """A picture: `image_url` or `image`."""

    image_url: str | None = Field(
        default=None,
        max_length=4096,
        description="Its address; public https or http.",
        examples=["https://example.com/bus.jpg"],
    )
    image: str | None = Field(default=None, description="Its bytes in base64; a data URL will do.")
    name: str | None = Field(default=None, max_length=200, description="What to call it in results and receipts.")


class RunOptions(Sent):
    """What a run is asked for, and how its result is wanted."""

    model: str = Field(default=DEFAULT_MODEL, max_length=100, description="A name from GET /v1/models.")
    img_size: int = Field(
        default=DEFAULT_IMG_SIZE,
        description="The longer side of the network input in pixels; it decides the price.",
        json_schema_extra={"enum": list(IMG_SIZES_PX)},
    )
    tile_px: int | None = Field(
        default=None,
        description="For small objects: the picture is also cut into tiles with this side in its pixels, which overlap "
        f"by {OVERLAP_PERCENT} %, and each is run like a picture of its own. A picture no larger than a tile has none.",
        json_schema_extra={"enum": [*TILES_PX, None]},
    )
    confidence: Confidence = DEFAULT_CONFIDENCE
    classes: Classes = None
    format: Format = Field(default="json", description="How the result is written.")

    def facts(self, *, without: set[str]) -> dict[str, Any]:
        """What an idempotency key stands for, besides the pictures. A field that came later is not among them unset:
        a key that was used before that means the same request.
        """
        return self.model_dump(exclude=without if self.tile_px is not None else {*without, "tile_px"})


class DetectIn(RunOptions, ImageIn):
    """One picture, answered at once."""

    annotated: Literal["png"] | None = Field(default=None, description="Answer with the picture, boxes drawn.")


class BatchIn(RunOptions):
    """Many pictures with one quote; or a quote that was made before, by its id."""

    images: list[ImageIn] | None = Field(default=None, description="The pictures; or leave it out and name a quote_id.")
    quote_id: str | None = Field(default=None, max_length=64, description="A quote whose pictures were sent with it.")


class JobIn(BatchIn):
    """The same, answered at once with a job that goes on by itself."""

    webhook_url: str | None = Field(
        default=None, max_length=2048, description="Called once with the finished job, signed (Standard Webhooks)."
    )


class QuoteIn(RunOptions, ImageIn):
    """One picture or many: their exact price."""

    images: list[ImageIn] | None = Field(default=None, description="Many pictures instead of one.")


# Answers -------------------------------------------------------------------------------------------


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(protected_namespaces=())


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` says what to do next; facts such as `required` stand beside it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None


class Box(Answer):
    """A box in pixels of the original, upright image."""

    x1: float
    y1: float
    x2: float
    y2: float


class MaskCode(Answer):
    """A mask as COCO's compressed run lengths: `size` is height and width of the picture."""

    size: list[int]
    counts: str


class Prediction(Answer):
    """One detected object, or a class of the whole picture.

    `mask` and `polygons`, `keypoints` or `corners` are there for models of those tasks.
    """

    class_: int = Field(alias="class")
    name: str
    confidence: float
    box: Box | None = Field(default=None, description="Not of a class of the whole picture.")
    mask: MaskCode | None = Field(default=None, description="Segment: its pixels.")
    polygons: list[list[list[int]]] | None = Field(
        default=None, description="Segment: the outer outlines of its mask, the largest first, each of x, y."
    )
    keypoints: list[list[float]] | None = Field(default=None, description="Pose: each point as x, y, confidence.")
    corners: list[list[float]] | None = Field(
        default=None, description="Oriented boxes: its four corners as x, y in turn; they may lie outside the picture."
    )


class Usage(Answer):
    """What one picture cost, and the balance right after it. `times_ms` by stage."""

    tokens: float
    remaining_tokens: float
    held_tokens: float
    cached: bool
    receipt_id: str | None
    quote_id: str
    price_version: str
    times_ms: dict[str, float]


class ImageOut(Answer):
    """The picture as it was received. `sha256` is that of its decoded pixels."""

    name: str
    width: int
    height: int
    sha256: str


class DetectOut(Answer):
    """The answer for one picture. `tiles_failed` of its tiles gave nothing and were not charged."""

    id: str
    job_id: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None
    tiles_failed: int
    image: ImageOut
    predictions: list[Prediction]
    usage: Usage


class ResultOut(Answer):
    """A stored result."""

    id: str
    job_id: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None
    tiles_failed: int
    image: ImageOut
    predictions: list[Prediction]
    created_at: datetime


class CocoImage(Answer):
    """A picture of a COCO data set."""

    id: int
    file_name: str
    width: int
    height: int


class CocoCategory(Answer):
    """A class of a COCO data set; of poses with the names of its points and what limbs join."""

    id: int
    name: str
    keypoints: list[str] | None = Field(default=None)
    skeleton: list[list[int]] | None = Field(default=None)


class CocoAnnotation(Answer):
    """An object of a COCO data set: `bbox` is x, y, width and height in pixels.

    `segmentation` is a mask's run lengths or an oriented box's polygon, `keypoints` are x, y, visibility in one list.
    """

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    score: float
    segmentation: MaskCode | list[list[float]] | None = Field(default=None)
    keypoints: list[float] | None = Field(default=None)
    num_keypoints: int | None = Field(default=None)


class CocoOut(Answer):
    """What `format` = `coco` answers: a data set of the pictures and what was found in them."""

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoAnnotation]


class QuoteImage(Answer):
    """The price of one picture; `free_reason` says why it costs nothing. `tiles` run besides the whole of it."""

    name: str
    width: int
    height: int
    input_width: int
    input_height: int
    tiles: int
    tile_input_width: int
    tile_input_height: int
    list_tokens: float
    tokens: float
    free_reason: Literal["processed", "duplicate"] | None


class QuoteOut(Answer):
    """An exact price that binds until `expires_at`."""

    id: str
    tokens: float
    list_tokens: float
    discount_percent: float
    price_version: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None
    created_at: datetime
    expires_at: datetime
    images: list[QuoteImage]


class JobImages(Answer):
    """How many pictures ended how."""

    total: int
    done: int
    charged: int
    free: int
    failed: int
    cancelled: int
    interrupted: int


class JobUsage(Answer):
    """What a job was quoted, what it took so far, what it holds and gave back; and the account's balance now."""

    quoted_tokens: float
    tokens: float
    held_tokens: float
    returned_tokens: float
    remaining_tokens: float


class ImageUsage(Answer):
    """What one picture of a job cost."""

    tokens: float
    cached: bool
    receipt_id: str | None


class ImageResult(Answer):
    """The outcome of one picture of a job; `error` is a code."""

    position: int
    name: str
    image: ImageOut
    status: Literal["queued", "running", "charged", "free", "failed", "cancelled", "interrupted"]
    error: str | None
    tiles_failed: int
    id: str | None
    predictions: list[Prediction]
    usage: ImageUsage


class JobOut(Answer):
    """A job; `results` only where they are asked for."""

    id: str
    status: Literal["queued", "running", "finished"]
    quote_id: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None
    created_at: datetime
    finished_at: datetime | None
    images: JobImages
    usage: JobUsage
    results: list[ImageResult] | None = None


class JobList(Answer):
    """A page of jobs, newest first; `next` goes into `before` for the page after it."""

    jobs: list[JobOut]
    next: str | None


# What bodies and answers of several types name in the OpenAPI document by themselves.
NAMED: list[type[BaseModel]] = [
    DetectIn,
    BatchIn,
    JobIn,
    QuoteIn,
    DetectOut,
    JobOut,
    ResultOut,
    CocoOut,
]
