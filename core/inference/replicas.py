"""Models that are loaded: found or loaded once, kept while they are used, the least recently used given up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.inference.backends.network import Arrays, Network, TakesPixels
from core.inference.decode import decode
from core.inference.detections import Detections
from core.inference.images import Pixels
from core.inference.pipeline import DetectParams, prepare, to_batch
from core.inference.registry import ModelVersion

# Files are half precision and a loaded network is more: under OpenVINO on two cores, compiled and run at 640 × 640, one
# of 22.5 MB took 290 MB and one of 52 MB took 470 MB, the package itself among it.
BYTES_PER_FILE_BYTE = 8


@dataclass(frozen=True, slots=True)
class Replica:
    """One loaded version of a model on one device."""

    version: ModelVersion
    network: Network

    def forward(self, padded: list[Pixels]) -> Arrays:
        """So many network inputs `(H, W, 3)`, all of one shape, to all outputs (`Network.forward`)."""
        if isinstance(self.network, TakesPixels):
            return self.network.forward_pixels(padded)
        return self.network.forward(to_batch(padded))

    def run(self, pixels: Pixels, params: DetectParams) -> tuple[Detections, tuple[int, int]]:
        """One image, `(H, W, 3)` BGR, from beginning to end, and the `(height, width)` of its network input."""
        padded, shape = prepare(pixels, params.img_size, self.version.model)
        outputs = [output[0] for output in self.forward([padded])]
        detections = decode(outputs, self.network.facts, params, shape, pixels.shape[0], pixels.shape[1])
        return detections, (padded.shape[0], padded.shape[1])


def estimate_bytes(version: ModelVersion) -> int:
    """What a loaded version takes in memory, about: its file's size, in bytes, times `BYTES_PER_FILE_BYTE`."""
    try:
        return version.path.stat().st_size * BYTES_PER_FILE_BYTE
    except OSError:
        return 0  # its file was taken away while it was loaded: only their number limits it


@dataclass(slots=True)
class _Held:
    replica: Replica
    bytes: int
    users: int = 0
    given_up: bool = False


class Replicas:
    """Loaded replicas by the SHA-256 of their weights. Thread-safe; loading one keeps nobody from using another.

    At most `loaded_max` are kept, and no more than are estimated to take `bytes_max`; one that is in use stays.
    """

    def __init__(self, load: Callable[[ModelVersion], Network], loaded_max: int, bytes_max: int | None = None) -> None:
        self._load = load
        self._loaded_max = loaded_max
        self._bytes_max = bytes_max
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._loading: dict[str, threading.Event] = {}
        self._mutex = threading.Lock()

    @contextmanager
    def use(self, version: ModelVersion) -> Iterator[Replica]:
        """The replica of a version, loaded if need be, and not given up while the block lasts.

        Raises `WeightsRefusedError`, or whatever a back end raises that cannot load it.
        """
        held = self._get(version)
        try:
            yield held.replica
        finally:
            with self._mutex:
                held.users -= 1
                closing = held.replica if held.given_up and not held.users else None
            if closing is not None:
                closing.network.close()

    def loaded(self) -> list[Replica]:
        """Those that are loaded now, the least recently used first."""
        with self._mutex:
            return [held.replica for held in self._held.values()]

    def discard(self, replica: Replica) -> None:
        """Use a replica no more: the next use of its version loads it anew."""
        with self._mutex:
            held = self._held.get(replica.version.sha256)
            if held is not None and held.replica is replica:
                self._give_up(replica.version.sha256)

    def close(self) -> None:
        """Give up all of them."""
        with self._mutex:
            for sha256 in list(self._held):
                self._give_up(sha256)

    def _get(self, version: ModelVersion) -> _Held:
        """The replica with one more user."""
        while True:
            with self._mutex:
                held = self._held.get(version.sha256)
                if held is not None:
                    held.users += 1
                    self._held.move_to_end(version.sha256)
                    return held
                loading = self._loading.get(version.sha256)
                mine = loading is None
                if loading is None:
                    loading = self._loading[version.sha256] = threading.Event()
            if not mine:
                # Whoever loads it may fail: then this one tries.
                loading.wait()
                continue
            try:
                network = self._load(version)
                with self._mutex:
                    held = self._held[version.sha256] = _Held(
                        Replica(version, network), estimate_bytes(version), users=1
                    )
                    self._make_room()
                    return held
            finally:
                with self._mutex:
                    del self._loading[version.sha256]
                loading.set()

    def _make_room(self) -> None:
        for sha256 in list(self._held):
            taken = sum(held.bytes for held in self._held.values())
            if len(self._held) <= self._loaded_max and (self._bytes_max is None or taken <= self._bytes_max):
                return
            if not self._held[sha256].users:
                self._give_up(sha256)

    def _give_up(self, sha256: str) -> None:
        held = self._held.pop(sha256)
        held.given_up = True
        if not held.users:
            held.replica.network.close()
