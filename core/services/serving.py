"""Which back ends serve: as the settings say, or as measured at start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from core.config import Settings
from core.errors import VisionMeterError
from core.inference.backends.choose import ON_PROCESSORS, open_networks
from core.inference.backends.network import Network
from core.inference.backends.probe import ProbeReport, choose_backend
from core.inference.registry import ModelState, ModelVersion, Registry

T = TypeVar("T")

log = logging.getLogger("visionmeter")


def measure_backends(
    settings: Settings, registry: Registry, device: torch.device, *, cache_dir: Path
) -> ProbeReport | None:
    """Measure the back ends with the first model that is ready; None unless the settings ask for it and one is."""
    if settings.backend != "measured":
        return None

    def choose(version: ModelVersion) -> ProbeReport:
        report = choose_backend(version, device=device, cache_dir=cache_dir)
        for one in report.measured:
            log.info("back end %s: %s", one.backend, one.problem or f"{one.ms} ms an image with {version.model.name}")
        log.info("back end %s serves", report.chosen)
        return report

    report = use_first(registry, choose)
    if report is None:
        log.warning("no model is ready: no back end was measured")
    return report


def use_first(registry: Registry, use: Callable[[ModelVersion], T]) -> T | None:
    """What `use` makes of the first ready model that it can use; None without one."""
    for model in registry.models():
        if registry.state(model.name) is ModelState.READY:
            try:
                return use(registry.resolve(model.name))
            except VisionMeterError as error:
                # A bad file must not keep the portal from starting: its page says what is wrong.
                log.error("%s: %s", model.name, error.message)
    return None


def open_serving(
    settings: Settings, device: torch.device, *, cache_dir: Path, report: ProbeReport | None
) -> Callable[[ModelVersion], Network]:
    """What opens networks as the settings say; the fastest of the `report` first, if there is one."""
    return open_networks(
        device,
        cache_dir=cache_dir,
        backend="auto" if settings.backend == "measured" else settings.backend,
        preferred=report.preferred if report is not None else ON_PROCESSORS,
        compiled_shapes_max=settings.compiled_shapes_max,
    )
