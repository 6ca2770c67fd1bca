"""Which back ends serve: as the settings say, or as measured at start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from core.config import Settings
from core.errors import VisionMeterError
from core.inference.backends.choose import ON_PROCESSORS, open_networks
from core.inference.backends.network import Network
from core.inference.backends.probe import ProbeReport, choose_backend
from core.inference.registry import ModelState, ModelVersion, Registry

log = logging.getLogger("visionmeter")


def measure_backends(
    settings: Settings, registry: Registry, device: torch.device, *, cache_dir: Path
) -> ProbeReport | None:
    """Measure the back ends with the first model that is ready; None unless the settings ask for it and one is."""
    if settings.backend != "measured":
        return None
    for model in registry.models():
        if registry.state(model.name) is not ModelState.READY:
            continue
        try:
            report = choose_backend(registry.look(model.name), device=device, cache_dir=cache_dir)
        except VisionMeterError as error:
            # A bad file must not keep the portal from starting: its page says what is wrong.
            log.error("%s: %s", model.name, error.message)
            continue
        for one in report.measured:
            log.info("back end %s: %s", one.backend, one.problem or f"{one.ms} ms an image with {model.name}")
        log.info("back end %s serves", report.chosen)
        return report
    log.warning("no model is ready: no back end was measured")
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
    )
