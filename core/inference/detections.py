"""What a model found in one image, and how it is stored and filtered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.inference.masks import Mask

CONFIDENCE_STORED_MIN = 0.05


@dataclass(frozen=True, slots=True)
class Detections:
    """`N` detections, most confident first.

    `xyxy` is `(N, 4)` float32 as `(x_min, y_min, x_max, y_max)` in pixels of the original, upright image;
    `confidence` is `(N,)` float32; `class_id` is `(N,)` int; `names` maps class ids to names.

    What a model of another task finds beside boxes, in the same pixels, and None where it does not: `masks`, one an
    instance; `keypoints`, `(N, K, 3)` float32 as x, y, confidence; `corners` of oriented boxes, `(N, 4, 2)` float32 as
    x, y in turn around the box, which may lie outside the image. `xyxy` is then the upright box around them.

    `whole_picture`: these are the likely classes of all of the picture, without a box; `xyxy` says nothing.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    names: Mapping[int, str]
    masks: tuple[Mask, ...] | None = None
    keypoints: NDArray[np.float32] | None = None
    corners: NDArray[np.float32] | None = None
    whole_picture: bool = False

    @classmethod
    def of_whole_picture(
        cls, confidence: NDArray[np.float32], class_id: NDArray[np.int64], names: Mapping[int, str]
    ) -> Detections:
        """Classes of all of a picture with their probabilities, both `(N,)`, the most probable first."""
        # One and the same for all: whatever compares boxes finds that they cover each other.
        anywhere = np.tile(np.array((0, 0, 1, 1), np.float32), (len(confidence), 1))
        return cls(anywhere, confidence, class_id, dict(names), whole_picture=True)

    def __len__(self) -> int:
        return len(self.confidence)

    def filter(self, *, confidence_min: float, classes: Collection[str] | None = None) -> Detections:
        """Those at or above `confidence_min`, of `classes` if given. Free: nothing runs again."""
        keep = self.confidence >= np.float32(confidence_min)
        if classes is not None:
            wanted = [class_id for class_id, name in self.names.items() if name in classes]
            keep &= np.isin(self.class_id, wanted)
        return self.take(np.flatnonzero(keep))

    def take(self, indices: NDArray[np.int64]) -> Detections:
        """Those at some indices, `(K,)`, in that order."""
        return Detections(
            self.xyxy[indices],
            self.confidence[indices],
            self.class_id[indices],
            self.names,
            masks=None if self.masks is None else tuple(self.masks[int(index)] for index in indices),
            keypoints=None if self.keypoints is None else self.keypoints[indices],
            corners=None if self.corners is None else self.corners[indices],
            whole_picture=self.whole_picture,
        )

    def class_names(self) -> list[str]:
        """The class of each detection, `(N,)`."""
        return [self.names[int(class_id)] for class_id in self.class_id]

    def counts(self) -> dict[str, int]:
        """Detections by class, most frequent first."""
        return dict(Counter(self.class_names()).most_common())

    def to_json(self) -> list[dict[str, Any]]:
        """The stored form, which is the API's: class, name, confidence, box in original pixels, what else there is.

        Classes of whole pictures have no box.
        """
        items: list[dict[str, Any]] = [
            {
                "class": int(class_id),
                "name": self.names[int(class_id)],
                "confidence": round(float(confidence), 4),
            }
            for confidence, class_id in zip(self.confidence, self.class_id, strict=True)
        ]
        if self.whole_picture:
            return items
        for index, item in enumerate(items):
            x1, y1, x2, y2 = (round(float(side), 1) for side in self.xyxy[index])
            item["box"] = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
            if self.masks is not None:
                item.update(self.masks[index].to_json())
            if self.keypoints is not None:
                item["keypoints"] = [
                    [round(float(x), 1), round(float(y), 1), round(float(confidence), 4)]
                    for x, y, confidence in self.keypoints[index]
                ]
            if self.corners is not None:
                item["corners"] = [[round(float(x), 1), round(float(y), 1)] for x, y in self.corners[index]]
        return items

    @classmethod
    def from_json(cls, items: Sequence[Mapping[str, Any]]) -> Detections:
        """The inverse of `to_json`."""
        if items and "box" not in items[0]:
            return cls.of_whole_picture(
                np.array([i["confidence"] for i in items], dtype=np.float32),
                np.array([i["class"] for i in items], dtype=np.int64),
                {int(i["class"]): str(i["name"]) for i in items},
            )
        return cls(
            xyxy=np.array(
                [[i["box"]["x1"], i["box"]["y1"], i["box"]["x2"], i["box"]["y2"]] for i in items],
                dtype=np.float32,
            ).reshape(-1, 4),
            confidence=np.array([i["confidence"] for i in items], dtype=np.float32),
            class_id=np.array([i["class"] for i in items], dtype=np.int64),
            names={int(i["class"]): str(i["name"]) for i in items},
            # One model found all of them: what the first has, all have.
            masks=tuple(Mask.from_json(i) for i in items) if items and "mask" in items[0] else None,
            keypoints=_part(items, "keypoints"),
            corners=_part(items, "corners"),
        )


def _part(items: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float32] | None:
    return np.array([i[name] for i in items], dtype=np.float32) if items and name in items[0] else None
