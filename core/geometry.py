"""The network input: the one function that both the price and the engine use.

Geometry follows Ultralytics' rectangular letterboxing (`ultralytics.data.augment.LetterBox` with
`auto=True`): the longer side becomes `img_size`, the aspect is kept, and each side is padded up to the
model's stride. Models that tell classes of whole pictures see a square instead (`square_input`). `H × W` of the result
is what the model computes and what the customer pays for.
"""

from __future__ import annotations

from dataclasses import dataclass

STRIDE_PX = 32
IMG_SIZES_PX = (320, 416, 512, 640, 768, 960, 1280)


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """Where an image lands in the tensor handed to the model; everything in pixels.

    The tensor is `(3, height, width)`; the resized image of `resized_height × resized_width` lies in it with
    `pad_top` and `pad_left` pixels of grey before it.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    pad_top: int
    pad_left: int


def network_input(image_height: int, image_width: int, img_size: int, *, stride: int = STRIDE_PX) -> NetworkInput:
    """The network input of an image of `image_height × image_width` pixels at `img_size`.

    An image that fits in a single stride cell (both sides ≤ `stride`) is not enlarged: it holds nothing that
    more pixels would show, so it runs as one cell and costs the minimum. Raises `ValueError` for a side < 1
    or an `img_size` that is not a positive multiple of `stride`.
    """
    if image_height < 1 or image_width < 1:
        raise ValueError(f"an image of {image_width}×{image_height} pixels has no pixels")
    if img_size < stride or img_size % stride:
        raise ValueError(f"img_size must be a multiple of {stride}, not {img_size}")

    if max(image_height, image_width) <= stride:
        resized_height, resized_width = image_height, image_width
    else:
        scale = min(img_size / image_height, img_size / image_width)
        resized_height = max(1, round(image_height * scale))
        resized_width = max(1, round(image_width * scale))
    height = -(-resized_height // stride) * stride
    width = -(-resized_width // stride) * stride
    # LetterBox centres the image and sends the odd pixel to the bottom and the right.
    pad_top = round((height - resized_height) / 2 - 0.1)
    pad_left = round((width - resized_width) / 2 - 0.1)
    return NetworkInput(height, width, resized_height, resized_width, pad_top, pad_left)


def square_input(img_size: int, *, stride: int = STRIDE_PX) -> NetworkInput:
    """The network input of a model for classes of whole pictures: `img_size` on both sides, whatever the image is.

    The image's shorter side becomes `img_size`, and what the longer one has more is cut off in equal parts, as
    Ultralytics' `classify_transforms` does. Raises `ValueError` for an `img_size` that is no positive multiple of
    `stride`.
    """
    if img_size < stride or img_size % stride:
        raise ValueError(f"img_size must be a multiple of {stride}, not {img_size}")
    return NetworkInput(img_size, img_size, img_size, img_size, 0, 0)
