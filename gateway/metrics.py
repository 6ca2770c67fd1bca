"""What Prometheus scrapes: counters and histograms of this process, and gauges that are read at each scrape.

No label holds an id, a key or anything else that a caller wrote: the code bounds the number of series.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from core.errors import NotAllowedError, NotSignedInError
from core.services.application import current
from core.services.load import get_load
from core.usage.records import on_record
from core.usage.tables import UsageRecord

OTHER = "other"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
STAGES_OF_A_REQUEST = ("fetch", "decode", "hold", "capture")
DELIVERY_OUTCOMES = ("delivered", "retried", "given_up")
MAIL_OUTCOMES = ("sent", "retried", "down", "given_up", "dropped")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# What a proxy on this machine passes on comes from the loopback too; it carries one of these.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives no type for it
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_requests = Counter("visionmeter_http_requests", "Requests answered.", ["route", "method", "status"], registry=REGISTRY)
_request_seconds = Histogram(
    "visionmeter_http_request_seconds",
    "From the request to the last byte of its answer.",
    ["route"],
    buckets=SECONDS,
    registry=REGISTRY,
)
_images = Counter("visionmeter_images", "Images with a final outcome.", ["outcome", "model"], registry=REGISTRY)
_stage_seconds = Histogram(
    "visionmeter_stage_seconds", "One image in one stage.", ["stage"], buckets=SECONDS, registry=REGISTRY
)
_charged_mt = Counter(
    "visionmeter_tokens_charged_millitokens", "Captured, in thousandths of a token.", registry=REGISTRY
)
_rate_limited = Counter("visionmeter_rate_limited", "Requests refused by a rate limit.", registry=REGISTRY)
_deliveries = Counter(
    "visionmeter_webhook_deliveries", "Attempts to deliver a webhook.", ["outcome"], registry=REGISTRY
)
_mails = Counter("visionmeter_mails", "Attempts to send a mail.", ["outcome"], registry=REGISTRY)

router = APIRouter()


class RedisState(NamedTuple):
    """Whether Redis is asked now, how often it did not serve, and how many decisions were made without it."""

    up: bool
    failures: int
    fallbacks: int


# Counting ------------------------------------------------------------------------------------------


def count_request(route: str, method: str, status: int, seconds: float) -> None:
    """One request; `route` is a template of the code such as `/v1/jobs/{job_id}`, or `other`."""
    _requests.labels(route, _one_of(METHODS, method), str(status)).inc()
    _request_seconds.labels(route).observe(seconds)


def count_stages(times_ms: Mapping[str, float]) -> None:
    """How long one image was in the stages of a request. `wait` and `model` are counted with its record."""
    for stage in STAGES_OF_A_REQUEST:
        if stage in times_ms:
            _stage_seconds.labels(stage).observe(times_ms[stage] / 1000)


def _count_record(record: UsageRecord) -> None:
    """One image with its outcome, whoever ran it: a request or the runner."""
    _images.labels(record.outcome, record.model).inc()
    _charged_mt.inc(record.amount_mt)
    for stage, ms in (("wait", record.wait_ms), ("model", record.model_ms)):
        if ms is not None:
            _stage_seconds.labels(stage).observe(ms / 1000)


on_record(_count_record)


def count_rate_limited() -> None:
    """One request, image or run refused by a rate limit."""
    _rate_limited.inc()


def count_delivery(outcome: str) -> None:
    """One attempt to deliver a webhook: `delivered`, `retried` (it failed, and another follows) or `given_up`."""
    _deliveries.labels(_one_of(DELIVERY_OUTCOMES, outcome)).inc()


def count_mail(outcome: str) -> None:
    """One attempt to send a mail, with an outcome of `core.services.mails.send_next`."""
    _mails.labels(_one_of(MAIL_OUTCOMES, outcome)).inc()


_redis_probe: Callable[[], RedisState] | None = None


def set_redis_probe(probe: Callable[[], RedisState] | None) -> None:
    """Ask this at every scrape how Redis is. It must answer at once: from what is known, not by a call."""
    global _redis_probe  # noqa: PLW0603  # one registry a process, and one Redis
    _redis_probe = probe


def _one_of(names: Collection[str], name: str) -> str:
    return name if name in names else OTHER


# Reading at a scrape -------------------------------------------------------------------------------


class _Gauges(Collector):
    """What is asked only when somebody wants to know."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("visionmeter_threads", "Threads of this process.", value=_count_threads())
        yield GaugeMetricFamily(
            "visionmeter_python_threads", "Threads that run Python code.", value=threading.active_count()
        )
        if _redis_probe is not None:
            redis = _redis_probe()
            yield GaugeMetricFamily("visionmeter_redis_up", "Whether Redis answers.", value=int(redis.up))
            yield CounterMetricFamily(
                "visionmeter_redis_failures", "Calls and probes that Redis did not serve.", value=redis.failures
            )
            yield CounterMetricFamily(
                "visionmeter_redis_fallbacks", "Decisions made without Redis.", value=redis.fallbacks
            )
        yield from self._collect_application()

    @staticmethod
    def _collect_application() -> Iterator[Metric]:
        try:
            app = current()
        except RuntimeError:
            return  # not started yet, or stopped
        yield GaugeMetricFamily(
            "visionmeter_engine_queue_depth", "Images that wait for the engine.", value=app.engine.queue_depth
        )
        yield CounterMetricFamily(
            "visionmeter_engine_streams_lost",
            "Streams of the engine whose forward pass never ended.",
            value=app.engine.streams_lost,
        )
        yield GaugeMetricFamily(
            "visionmeter_engine_queue_max", "Images that may wait.", value=app.settings.engine_queue_max
        )
        try:
            load = get_load(app)
        except SQLAlchemyError:
            yield GaugeMetricFamily("visionmeter_database_up", "Whether the database answers.", value=0)
            return
        yield GaugeMetricFamily("visionmeter_database_up", "Whether the database answers.", value=1)
        yield GaugeMetricFamily(
            "visionmeter_open_images", "Images of runs that wait or run, in all processes.", value=load.open_images
        )
        yield GaugeMetricFamily("visionmeter_open_holds", "Holds that have not ended.", value=load.open_holds)
        yield GaugeMetricFamily(
            "visionmeter_held_millitokens", "What open holds reserve, in thousandths of a token.", value=load.held_mt
        )


REGISTRY.register(_Gauges())


def _count_threads() -> int:
    """Also those of torch and of the database's driver, where the system tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


# The route -----------------------------------------------------------------------------------------


@router.get("/metrics", include_in_schema=False)
def metrics_response(request: Request) -> Response:
    """The metrics of this process, as text or as OpenMetrics.

    With `metrics_token` set, whoever sends it as a bearer token gets them (401 otherwise); without, only a caller on
    this machine (403 otherwise).
    """
    _require_scraper(request, current().settings.metrics_token)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(REGISTRY), headers={"Content-Type": media_type, "Cache-Control": "no-store"})


def _require_scraper(request: Request, token: str) -> None:
    """Raises `NotSignedInError` or `NotAllowedError`."""
    if token:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), token.encode()):
            raise NotSignedInError(
                "Send the metrics token: Authorization: Bearer followed by VISIONMETER_METRICS_TOKEN."
            )
    elif not _is_local(request):
        raise NotAllowedError(
            "Metrics are for this machine only; set VISIONMETER_METRICS_TOKEN to read them from another."
        )


def _is_local(request: Request) -> bool:
    """Whether the caller runs on this machine; what a proxy passes on does not count."""
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
