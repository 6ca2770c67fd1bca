"""The OpenAPI document is the contract: whatever is sent, the answer is one that it documents, and no 5xx."""

from __future__ import annotations

import base64
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response
from schemathesis.generation.case import Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from core.fetch.addresses import check_url
from core.fetch.fetch import Fetched, Fetcher
from tests.core.services.helpers import pictures
from tests.gateway.calls import Customer, Gateway, make_asgi, open_gateway

if TYPE_CHECKING:
    from core.inference.engine import Engine

# A machine that does much else answers late; what hangs takes longer.
TIMEOUT_S = 120.0
SEED = int(os.environ.get("VISIONMETER_TEST_SEED", "20261124"))
# For each operation, besides the boundary values that Schemathesis works out by itself.
EXAMPLES = 40
EXAMPLES_SOAK = 1500
# Operations that take pictures in JSON.
RUNS = ("POST /detect", "POST /quotes", "POST /batch", "POST /jobs")
# What an operation answers when the model's weights are away or the queue is full, with a Retry-After.
UNAVAILABLE = ("model_not_ready", "engine_busy", "engine_stopped", "weights_refused")

PICTURE = base64.b64encode(next(iter(pictures(1).values()))).decode()

schema = schemathesis.openapi.from_asgi("/v1/openapi.json", make_asgi())


def public(_host: str, _port: int) -> list[str]:
    """Every name leads to one machine on the public net, which nobody calls."""
    return ["93.184.216.34"]


class ExampleWeb(Fetcher):
    """Every address that may be called gives one picture: what is fetched is tested elsewhere."""

    def fetch(self, url: str, *, bytes_max: int) -> Fetched:
        """The picture, for any address that passes the rules."""
        check_url(url, self._allowed)
        return Fetched(base64.b64decode(PICTURE), url, 1)


@dataclass
class Contract:
    """The gateway, a customer, and ids of what he has, so that not every id of a case leads nowhere."""

    customer: Customer
    ids: dict[str, str]
    random: random.Random
    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path, engine: Engine) -> Iterator[Gateway]:
    """The gateway on SQLite, with a small network under the names of the examples' models."""
    import torch
    from ultralytics import YOLO

    folder = tmp_path_factory.mktemp("gateway")
    weights = folder / "weights"
    weights.mkdir()
    (weights / "yolov8s-fall.pt").symlink_to(weights_dir / "yolov8s-fall.pt")
    torch.manual_seed(4)
    YOLO("yolov8n.yaml").save(weights / "yolov8s.pt")
    (weights / "yolov8l.pt").symlink_to(weights / "yolov8s.pt")
    with open_gateway(
        "sqlite", folder, weights, engine, rate_jobs_concurrent=10_000, fetcher=ExampleWeb(resolve=public)
    ) as served:
        yield served


def make_contract(gateway: Gateway) -> Contract:
    """Somebody with a finished job, a quote, a result, a receipt, a webhook message and a key."""
    customer = gateway.customer(100_000)
    job = customer.run("/batch", pictures(2)).json()
    quote = customer.run("/quotes", pictures(2, seed=2)).json()
    told = customer.run("/jobs", pictures(1), webhook_url="https://example.com/visionmeter").json()
    customer.wait(told["id"])
    ids = {
        "job_id": job["id"],
        "quote_id": quote["id"],
        "result_id": job["results"][0]["id"],
        "receipt_id": job["results"][0]["usage"]["receipt_id"],
        "key_id": customer.make_key().key.id,
        "delivery_id": customer.get("/webhooks/deliveries").json()["deliveries"][0]["id"],
    }
    return Contract(customer, ids, random.Random(SEED))


@pytest.fixture(scope="module")
def contract(gateway: Gateway) -> Iterator[Contract]:
    """Whoever sends the cases."""
    print(f"seed {SEED}")  # noqa: T201  # pytest shows it when a test fails
    contract = make_contract(gateway)
    started = time.monotonic()
    yield contract
    calls = sum(contract.calls.values())
    print(f"{calls} cases in {time.monotonic() - started:.0f} s: {sorted(contract.statuses.items())}")  # noqa: T201


@pytest.fixture(scope="module")
def example(gateway: Gateway) -> Contract:
    """Whoever sends the examples: the cases have used up another's keys."""
    return make_contract(gateway)


def no_server_error(_ctx: CheckContext, response: Response, _case: Case[Any]) -> None:
    """No 5xx but the documented 503, which says when to come back."""
    if response.status_code >= 500:
        assert response.status_code == 503, response.text
        assert response.json()["code"] in UNAVAILABLE, response.text
        assert int(response.headers["retry-after"][0]) >= 1


CHECKS: list[Any] = [
    no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


def lead_somewhere(contract: Contract, case: Case[Any]) -> None:
    """Half of the time put in an id that there is, and a picture that can be read."""
    if case.operation.label in RUNS and isinstance(case.body, dict) and contract.random.random() < 0.5:
        image: dict[str, Any] = {"image": PICTURE}
        if case.operation.label in ("POST /detect", "POST /quotes"):
            case.body = {**{k: v for k, v in case.body.items() if k not in ("image_url", "images")}, **image}
        else:
            case.body = {**{k: v for k, v in case.body.items() if k != "quote_id"}, "images": [image]}
    for name in case.path_parameters or {}:
        if name in contract.ids and contract.random.random() < 0.5:
            case.path_parameters[name] = contract.ids[name]


def send(contract: Contract, case: Case[Any]) -> None:
    """Send a case as the customer and check the answer."""
    lead_somewhere(contract, case)
    contract.calls[case.operation.label] += 1
    headers = {"Authorization": f"Bearer {contract.customer.secret}"}
    kwargs = {"headers": headers, "timeout": TIMEOUT_S}
    response = case.call(**kwargs)
    contract.statuses[response.status_code] += 1
    case.validate_response(response, checks=CHECKS, headers=headers, transport_kwargs=kwargs)


fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@schema.parametrize()
@seed(SEED)
@fuzzed
def test_every_answer_is_as_documented(case: Case[Any], contract: Contract) -> None:
    """Good, odd and broken requests to every operation: a documented status, type, headers and shape."""
    send(contract, case)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@schema.parametrize()
@seed(SEED)
@settings(parent=fuzzed, max_examples=EXAMPLES_SOAK)
def test_every_answer_is_as_documented_for_long(case: Case[Any], contract: Contract) -> None:
    """The same with many more."""
    send(contract, case)


# Examples ------------------------------------------------------------------------------------------


DOCUMENT = schema.raw_schema
SHAPES = DOCUMENT["components"]["schemas"]
EXAMPLES_BY_SHAPE = {name: shape["examples"] for name, shape in SHAPES.items() if "examples" in shape}
OPERATIONS = [
    (method.upper(), path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]


def shape_sent(operation: dict[str, Any]) -> str | None:
    """The name of the shape that an operation takes as JSON."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    names = [one["$ref"].rsplit("/", 1)[-1] for one in (body, *body.get("anyOf", ())) if "$ref" in one]
    return names[0] if names else None


def shape_answered(operation: dict[str, Any]) -> tuple[int, str | None]:
    """The status of success, and the name of the shape that is answered as JSON."""
    status = next(int(status) for status in operation["responses"] if status.startswith("2"))
    answer = operation["responses"][str(status)].get("content", {}).get("application/json", {}).get("schema", {})
    answer = answer.get("items", answer.get("anyOf", [answer])[0])
    return status, answer["$ref"].rsplit("/", 1)[-1] if "$ref" in answer else None


def keys(value: Any) -> Any:
    """What an answer is made of: the names in it, without the values. Of a list its first item."""
    if isinstance(value, dict):
        return {name: keys(one) for name, one in value.items() if name not in ("times_ms", "secret", "results")}
    return [keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


@pytest.mark.parametrize("name", EXAMPLES_BY_SHAPE)
def test_examples_have_their_shape(name: str) -> None:
    """Each example in the document is one of its shape."""
    for example in EXAMPLES_BY_SHAPE[name]:
        jsonschema.validate(
            example,
            {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]},
            format_checker=jsonschema.FormatChecker(),
        )


def test_every_shape_that_is_sent_or_answered_has_an_example() -> None:
    """Whoever reads an operation sees what to send and what comes back."""
    wanted = {name for _, _, operation in OPERATIONS for name in (shape_sent(operation), shape_answered(operation)[1])}
    assert wanted - {None} <= set(EXAMPLES_BY_SHAPE)


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_examples_work(method: str, path: str, operation: dict[str, Any], example: Contract) -> None:
    """Each operation, sent as its example says, succeeds; the example of its answer has the names of a real answer."""
    customer = example.customer
    url = path.format(**{**example.ids, "key_id": customer.make_key().key.id})
    query = {
        one["name"]: one.get("example", one["schema"].get("examples", [None])[0])
        for one in operation.get("parameters", ())
        if one["in"] == "query"
    }
    sent = shape_sent(operation)
    for body in EXAMPLES_BY_SHAPE[sent] if sent else [None]:
        answer = customer.call(
            method, url, params={k: v for k, v in query.items() if v is not None}, **({"json": body} if body else {})
        )
        status, shape = shape_answered(operation)
        assert answer.status_code == status, answer.text
        if shape is None:
            continue
        document = answer.json()
        document = document[0] if isinstance(document, list) else document
        jsonschema.validate(document, {"$ref": f"#/components/schemas/{shape}", "components": DOCUMENT["components"]})
        shown = EXAMPLES_BY_SHAPE[shape][0]
        if shape == "DetectOut" or shape == "ResultOut":  # a picture of noise has nobody in it
            document, shown = {**document, "predictions": []}, {**shown, "predictions": []}
        assert keys(document) == keys(shown)
