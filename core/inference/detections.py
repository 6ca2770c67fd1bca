"""What a model found in one image, and how it is stored and filtered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_STORED_MIN = 0.05


@dataclass(frozen=True, slots=True)
class Detections:
    """`N` detections, most confident first.

    `xyxy` is `(N, 4)` float32 as `(x_min, y_min, x_max, y_max)` in pixels of the original, upright image;
    `confidence` is `(N,)` float32; `class_id` is `(N,)` int; `names` maps class ids to names.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    names: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.confidence)

    def filter(self, *, confidence_min: float, classes: Collection[str] | None = None) -> Detections:
        """Those at or above `confidence_min`, of `classes` if given. Free: nothing runs again."""
        keep = self.confidence >= np.float32(confidence_min)
        if classes is not None:
            wanted = [class_id for class_id, name in self.names.items() if name in classes]
            keep &= np.isin(self.class_id, wanted)
        return Detections(self.xyxy[keep], self.confidence[keep], self.class_id[keep], self.names)

    def class_names(self) -> list[str]:
        """The class of each detection, `(N,)`."""
        return [self.names[int(class_id)] for class_id in self.class_id]

    def counts(self) -> dict[str, int]:
        """Detections by class, most frequent first."""
        return dict(Counter(self.class_names()).most_common())

    def to_json(self) -> list[dict[str, Any]]:
        """The stored form, which is the API's: class, name, confidence and box in original pixels."""
        return [
            {
                "class": int(class_id),
                "name": self.names[int(class_id)],
                "confidence": round(float(confidence), 4),
                "box": {
                    "x1": round(float(box[0]), 1),
                    "y1": round(float(box[1]), 1),
                    "x2": round(float(box[2]), 1),
                    "y2": round(float(box[3]), 1),
                },
            }
            for box, confidence, class_id in zip(self.xyxy, self.confidence, self.class_id, strict=True)
        ]

    @classmethod
    def from_json(cls, items: Sequence[Mapping[str, Any]]) -> Detections:
        """The inverse of `to_json`."""
        return cls(
            xyxy=np.array(
                [[i["box"]["x1"], i["box"]["y1"], i["box"]["x2"], i["box"]["y2"]] for i in items],
                dtype=np.float32,
            ).reshape(-1, 4),
            confidence=np.array([i["confidence"] for i in items], dtype=np.float32),
            class_id=np.array([i["class"] for i in items], dtype=np.int64),
            names={int(i["class"]): str(i["name"]) for i in items},
        )
