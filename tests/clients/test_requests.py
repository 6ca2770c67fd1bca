"""What is sent: bodies, parameters, paths, and where the key may go."""

from __future__ import annotations

import base64
import inspect
import io
import json
import logging
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from visionmeter_client import AsyncVisionMeter, VisionMeter
from visionmeter_client import _calls as calls
from visionmeter_client._images import ImageSource
from visionmeter_client._request import Request

from tests.clients.calling import HOST, KEY, call

WANTED = calls.parameters("yolov8s", 960, 0.4, ["Fall", "Normal"])


def sent(request: Request[Any]) -> httpx.Request:
    """The message that a request becomes."""
    with VisionMeter(HOST, KEY) as client:
        return client._http.build_request(request.method, request.path, **request.arguments())


def test_the_clients_have_the_same_methods() -> None:
    """Whatever one can do the other can, with the same parameters and defaults."""

    def methods(kind: type) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(one.name, one.default) for one in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(VisionMeter) == methods(AsyncVisionMeter)
    assert "detect" in methods(VisionMeter)


@pytest.mark.parametrize("how", ["path", "text", "bytes", "bytearray", "file", "memory"])
def test_an_image_may_come_from_anywhere(how: str, tmp_path: Path) -> None:
    """A path, its text, bytes or an open file: the same bytes as one part, with a name where there is one."""
    path = tmp_path / "a picture.jpg"
    path.write_bytes(b"\xff\xd8 picture")
    with path.open("rb") as file:
        sources: dict[str, ImageSource] = {
            "path": path,
            "text": str(path),
            "bytes": path.read_bytes(),
            "bytearray": bytearray(path.read_bytes()),
            "file": file,
            "memory": io.BytesIO(path.read_bytes()),
        }
        request = calls.detect(sources[how], WANTED, None)
    name = "a picture.jpg" if how in ("path", "text", "file") else "image"
    assert request.parts == [("file", (name, b"\xff\xd8 picture", "application/octet-stream"))]
    assert request.form == {"model": "yolov8s", "img_size": "960", "confidence": "0.4", "classes": "Fall,Normal"}
    body = sent(request).read()
    assert body.count(b"\xff\xd8 picture") == 1


@pytest.mark.parametrize("wrong", [17, None, io.StringIO("text"), {"image_url": "https://example.com"}])
def test_what_is_no_image_is_a_type_error(wrong: Any) -> None:
    """It says what an image is, before anything is sent."""
    with pytest.raises(TypeError, match="An image is a path"):
        calls.detect(wrong, {}, None)


def test_an_address_is_sent_as_an_address() -> None:
    """As the JSON of the advertised call; nothing is fetched here."""
    message = sent(calls.detect("https://example.com/bus.jpg", WANTED, None))
    assert message.url == f"{HOST}/v1/detect"
    assert json.loads(message.read()) == {
        "image_url": "https://example.com/bus.jpg",
        "model": "yolov8s",
        "img_size": 960,
        "confidence": 0.4,
        "classes": ["Fall", "Normal"],
    }


def test_several_images_are_parts_and_beside_an_address_base64() -> None:
    """Files travel as they are; only where one is an address all of them go as JSON."""
    request = calls.quote([b"one", b"two"], {})
    assert [part for part, _ in request.parts] == ["files", "files"]
    message = sent(calls.create_job([b"one", "HTTPS://example.com/a.jpg"], {}, **NO_QUOTE))
    assert json.loads(message.read()) == {
        "images": [
            {"image": base64.b64encode(b"one").decode(), "name": "image"},
            {"image_url": "HTTPS://example.com/a.jpg"},
        ]
    }


NO_QUOTE: dict[str, Any] = {"quote_id": None, "webhook_url": None, "idempotency_key": None}


def test_a_job_is_images_or_a_quote() -> None:
    """Both or neither is a mistake, and so is one image where a list belongs, or none in it."""
    by_quote = {**NO_QUOTE, "quote_id": "quote_1", "webhook_url": "https://example.com/hook"}
    assert json.loads(sent(calls.create_job(None, {}, **by_quote)).read()) == {
        "quote_id": "quote_1",
        "webhook_url": "https://example.com/hook",
    }
    for images, facts in ((None, NO_QUOTE), ([b"one"], by_quote), ([], NO_QUOTE)):
        with pytest.raises(ValueError, match=r"Give (images|at least one)"):
            calls.create_job(images, {}, **facts)
    for single in ("a.jpg", b"one", Path("a.jpg")):
        with pytest.raises(TypeError, match="Give a list"):
            calls.quote(single, {})  # type: ignore[arg-type]


def test_nothing_is_said_of_what_is_not_asked_for() -> None:
    """The server's defaults are the server's."""
    assert calls.parameters(None, None, None, None) == {}
    assert calls.parameters(None, None, None, "Fall") == {"classes": ["Fall"]}  # type: ignore[arg-type]


def test_an_identifier_stays_in_its_place() -> None:
    """One that came from elsewhere leads to no other operation."""
    assert sent(calls.job("../keys?x=#")).url.raw_path == b"/v1/jobs/..%2Fkeys%3Fx%3D%23"
    for wrong in ("", ".", ".."):
        with pytest.raises(ValueError, match="no identifier"):
            calls.job(wrong)


def test_a_period_and_filters_go_into_the_query() -> None:
    """Days and confidences as the API reads them."""
    assert dict(sent(calls.usage(date(2026, 1, 1), None)).url.params) == {"start": "2026-01-01"}
    url = sent(calls.annotated_result("res_1", 0.5, ["Fall"])).url
    assert dict(url.params) == {"annotated": "png", "confidence": "0.5", "classes": "Fall"}


# The key -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "http://localhost:8501",
        "http://127.0.0.1",
        "http://127.8.9.10:1",
        "http://[::1]:8501/",
        "https://vision.example.com/behind/a/prefix/",
    ],
)
def test_hosts_that_get_a_key(host: str) -> None:
    """This machine, and any other over https."""
    with VisionMeter(host, f" {KEY}\n") as client:
        message = client._http.build_request("GET", "/balance")
    assert message.headers["Authorization"] == f"Bearer {KEY}"
    assert str(message.url) == f"{host.rstrip('/')}/v1/balance"


@pytest.mark.parametrize(
    "host",
    [
        "http://vision.example.com",
        "http://192.168.0.7:8501",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "HTTP://EXAMPLE.COM",
        "http://0.0.0.0",
    ],
)
def test_no_key_goes_over_the_network_unencrypted(host: str) -> None:
    """Unless it is said to be meant; without a key there is nothing to guard."""
    with pytest.raises(ValueError, match="unencrypted") as raised:
        VisionMeter(host, KEY)
    assert KEY not in str(raised.value)
    VisionMeter(host, KEY, allow_http=True).close()
    VisionMeter(host).close()


@pytest.mark.parametrize(
    "host",
    ["vision.example.com", "", "ftp://example.com", "https://", "https://u:p@example.com", "https://e.com?x=1", "a b"],
)
def test_what_is_no_host(host: str) -> None:
    """A sentence with examples."""
    with pytest.raises(ValueError, match="such as https"):
        VisionMeter(host, KEY)


@pytest.mark.parametrize("broken", ["vm_secret\r\nX: y", "vm_secret ü", "vm_sec ret", "", "  "])
def test_a_broken_key_is_not_shown(broken: str) -> None:
    """What no header can carry is refused before a library would quote it in its own error."""
    with pytest.raises(ValueError, match="copy it again") as raised:
        VisionMeter(HOST, broken)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_key_is_nowhere_to_be_read(
    kind: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in a `repr`, a log at its finest level, an error, or on the screen."""
    caplog.set_level(logging.DEBUG)

    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Exception) as raised:  # noqa: PT011  # whatever it is, it must not tell
        call(kind, refuse, "detect", b"a picture", retries_max=0)
    clients = (VisionMeter(HOST, KEY), AsyncVisionMeter(HOST, KEY))
    shown = [caplog.text, *capsys.readouterr(), repr(raised.value), str(raised.value), *map(repr, clients)]
    assert not any(KEY in text or KEY[3:] in text for text in shown)
    assert HOST in repr(clients[0])


def test_no_proxy_reads_what_goes_in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is for https, where it sees no key."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with VisionMeter("http://127.0.0.1:1", KEY) as here, VisionMeter(HOST, KEY) as there:
        assert not here._http._mounts
        assert there._http._mounts
