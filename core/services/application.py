"""The parts of one process, started in order and stopped in reverse: database, registry, engine, runner."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import Settings
from core.db import Database
from core.errors import VisionMeterError
from core.fetch.fetch import Fetcher
from core.jobs.blobs import BlobStore
from core.jobs.hands import Hands
from core.mail.smtp import Smtp, read_smtp
from core.payments.providers import list_providers
from core.pricing.book import KnownPrices, adopt_published
from core.rates import RateLimiter, read_limits
from core.redis_link import RedisLink

# torch takes seconds to import: a command that only reads the database does without.
if TYPE_CHECKING:
    from core.inference.backends.probe import ProbeReport
    from core.inference.engine import Engine
    from core.inference.registry import Registry

log = logging.getLogger("visionmeter")


@dataclass(frozen=True, slots=True)
class Application:
    """What every service is given."""

    settings: Settings
    db: Database
    registry: Registry
    engine: Engine
    blobs: BlobStore
    fetcher: Fetcher
    rates: RateLimiter
    redis: RedisLink | None = None
    smtp: Smtp | None = None
    hands: Hands = field(default_factory=Hands)
    prices: KnownPrices = field(default_factory=KnownPrices)
    backends_measured: ProbeReport | None = None

    def close(self) -> None:
        """Close the connections to the database and to Redis."""
        if self.redis is not None:
            self.redis.close()
        self.db.close()


def open_application(settings: Settings) -> Application:
    """Migrate the database, store the default prices, put the embedded model in place; starts no thread."""
    from core.inference.embedded import place_embedded_model
    from core.inference.engine import Engine, choose_device
    from core.inference.registry import Registry
    from core.services.serving import measure_backends, open_serving

    # A wrong setting stops the start, and not a customer.
    list_providers(settings)
    smtp = read_smtp(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    db = Database(settings.sqlalchemy_url)
    db.migrate()
    with db.write() as session:
        adopt_published(session)
    registry = Registry(settings.weights_dir, fetch_allowed=settings.model_fetch)
    try:
        if place_embedded_model(registry) is None:
            log.warning("the embedded model is not installed: see the README, Models")
    except VisionMeterError as error:
        log.error("%s", error.message)
    device = choose_device(settings.device)
    cache_dir = converted_dir(settings)
    report = measure_backends(settings, registry, device, cache_dir=cache_dir)
    engine = Engine(
        open_serving(settings, device, cache_dir=cache_dir, report=report),
        device=device,
        queue_max=settings.engine_queue_max,
        models_loaded_max=settings.models_loaded_max,
        models_bytes_max=settings.models_memory_mb_max * 1_000_000 or None,
    )
    redis = RedisLink(settings.redis_url) if settings.redis_url else None
    return Application(
        settings=settings,
        db=db,
        registry=registry,
        engine=engine,
        blobs=BlobStore(settings.data_dir / "images"),
        fetcher=Fetcher(
            allowed_hosts=settings.fetch_allowed_hosts,
            timeout_s=settings.fetch_timeout_s,
            redirects_max=settings.fetch_redirects_max,
        ),
        rates=RateLimiter(read_limits(settings), redis),
        redis=redis,
        smtp=smtp,
        backends_measured=report,
    )


def converted_dir(settings: Settings) -> Path:
    """Where converted networks are kept: beside the weights, or with the data where that cannot be written."""
    beside = settings.weights_dir / "converted"
    try:
        beside.mkdir(parents=True, exist_ok=True)
    except OSError:
        return settings.data_dir / "converted"
    return beside if os.access(beside, os.W_OK) else settings.data_dir / "converted"


def warm_models(app: Application) -> None:
    """Load the first model that is ready, so that the first customer does not wait for it."""
    from core.services.serving import use_first

    use_first(app.registry, app.engine.warm)


_current: Application | None = None


def set_current(app: Application | None) -> None:
    """Make an application the one of this process (the launcher does, and tests)."""
    global _current  # noqa: PLW0603  # one process, one application; Streamlit offers no other place for it
    _current = app


def current() -> Application:
    """The application of this process. Raises `RuntimeError` before the launcher has started it."""
    if _current is None:
        raise RuntimeError("the application has not been started: run app.py, not ui/portal.py")
    return _current
