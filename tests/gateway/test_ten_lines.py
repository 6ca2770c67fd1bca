"""The call that the service is advertised by, as it stands, against the running server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import cv2
import pytest
import requests

from core.config import ROOT, Settings
from core.inference.images import decode_image, encode_png
from core.services import audit
from core.services.application import open_application
from tests.gateway.calls import serve_files
from tests.gateway.server import GatewayServer, gateway_server, make_key

# Word for word what the documentation advertises; only the image's address and the model's line are put in.
CALL = """\
r = requests.post(f"{host}/yolo/detect",
                  headers={"Authorization": f"Bearer {key}"},
                  json={"image_url": "...", "model": "yolov8l", "img_size": 960})
r.json()["predictions"]; r.json()["usage"]["tokens"]; r.json()["usage"]["remaining_tokens"]
"""


@pytest.fixture(scope="module")
def pictures(photo_bytes: dict[str, bytes]) -> Iterator[str]:
    """The address of a server on the loopback with `bus.jpg` as it is and as a square of 960 pixels."""
    bus = decode_image(photo_bytes["bus.jpg"], bytes_max=10**7, pixels_max=10**8)
    files = {"bus.jpg": photo_bytes["bus.jpg"], "square.png": encode_png(cv2.resize(bus.pixels, (960, 960)))}
    with serve_files(files) as url:
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pictures: str) -> Iterator[GatewayServer]:
    """The gateway with a `yolov8l` of the published architecture: random weights, a real forward."""
    import torch
    from ultralytics import YOLO

    folder = tmp_path_factory.mktemp("gateway")
    weights = folder / "weights"
    weights.mkdir()
    torch.manual_seed(4)
    YOLO("yolov8l.yaml").save(weights / "yolov8l.pt")
    with gateway_server(folder, fetch_allowed_hosts=pictures.removeprefix("http://")) as server:
        yield server


def call(
    server: GatewayServer, key: str, image_url: str, model: str = "yolov8l", img_size: int = 960
) -> requests.Response:
    """Run the advertised lines with a host, a key and an image address (or another model and its usual size)."""
    names: dict[str, Any] = {"requests": requests, "host": server.url, "key": key}
    lines = CALL.replace('"..."', f'"{image_url}"').replace("yolov8l", model).replace("960", str(img_size))
    answer: requests.Response
    try:
        exec(lines, names)  # these lines are what is tested
    except KeyError:
        # Its last line finds no predictions in a refusal, as it should be.
        assert not names["r"].ok
    answer = names["r"]
    return answer


def test_the_advertised_call(server: GatewayServer, pictures: str) -> None:
    """Unchanged but for host, key and image address: 960 × 960 on yolov8l is 5.625 tokens, to the third decimal."""
    key = make_key(server, tokens=20)
    answer = call(server, key, f"{pictures}/square.png")
    assert answer.status_code == 200, answer.text
    body, usage = answer.json(), answer.json()["usage"]
    assert (usage["tokens"], usage["remaining_tokens"], usage["held_tokens"]) == (5.625, 14.375, 0.0)
    assert (body["model"], body["img_size"], usage["cached"]) == ("yolov8l", 960, False)
    assert (body["image"]["width"], body["image"]["height"]) == (960, 960)
    assert answer.headers["X-Tokens-Charged"] == "5.625"
    assert answer.headers["X-Tokens-Remaining"] == "14.375"
    assert answer.headers["X-Receipt-Id"] == usage["receipt_id"]
    assert usage["times_ms"]["model"] > 0
    assert isinstance(body["predictions"], list)

    headers = {"Authorization": f"Bearer {key}"}
    balance = requests.get(f"{server.url}/v1/balance", headers=headers, timeout=10).json()
    assert (balance["tokens"], balance["held_tokens"], balance["remaining_tokens"]) == (14.375, 0.0, 14.375)
    receipt = requests.get(f"{server.url}/v1/receipts/{usage['receipt_id']}", headers=headers, timeout=10)
    assert receipt.status_code == 200
    again = call(server, key, f"{pictures}/square.png").json()
    assert (again["usage"]["tokens"], again["usage"]["cached"]) == (0.0, True)
    assert again["predictions"] == body["predictions"]


def test_the_same_call_with_real_weights(server: GatewayServer, pictures: str) -> None:
    """With the embedded model the boxes are right: four people in `bus.jpg` at 0.5, in pixels of the original."""
    key = make_key(server, tokens=20)
    answer = call(server, key, f"{pictures}/bus.jpg", model="yolov8s-fall", img_size=640)
    assert answer.status_code == 200, answer.text
    people = [one for one in answer.json()["predictions"] if one["confidence"] >= 0.5]
    assert len(people) == 4
    boxes = sorted(one["box"]["x1"] for one in people)
    # The published boxes of this photograph: at the left edge, left, right of it and at the right edge.
    assert boxes == pytest.approx([0, 50, 222, 669], abs=15)
    for one in people:
        box = one["box"]
        assert 0 <= box["x1"] < box["x2"] <= 810
        assert 0 <= box["y1"] < box["y2"] <= 1080
    # 480 × 640 pixels of network input at β = 1.
    assert answer.json()["usage"]["tokens"] == 0.75


def test_the_calls_of_the_help(server: GatewayServer, pictures: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help's calls run as they stand, but for host, key and address: paid once, quoted free, answered again."""
    text = (ROOT / "docs" / "help" / "en" / "api.md").read_text("utf-8")
    lines = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    names: dict[str, Any] = {}
    for written, meant in (
        ("http://localhost:8501", server.url),
        ("vm_…", make_key(server, tokens=20)),
        ("https://ultralytics.com/images", pictures),
    ):
        assert written in lines
        lines = lines.replace(written, meant)
    exec(lines, names)  # these lines are what is tested
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ objects for 0\.75 tokens", printed[0])
    assert printed[1] == "19.25 tokens are left"
    assert printed[2].startswith("0.0 tokens, binding until ")
    assert names["job"]["id"].startswith("job_")
    assert printed[3] == "True true"


def test_short_balance(server: GatewayServer, pictures: str) -> None:
    """Who cannot pay gets 402 with both numbers and where to top up, and the image is not run."""
    answer = call(server, make_key(server, tokens=Decimal("5.624")), f"{pictures}/square.png")
    assert answer.status_code == 402
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert (body["code"], body["required"], body["available"]) == ("insufficient_tokens", 5.625, 5.624)
    assert body["top_up_url"].startswith(server.url)


def test_the_ledger_agrees(server: GatewayServer) -> None:
    """After these calls every account's entries lead to its balance, and nothing is held."""
    app = open_application(
        Settings(_env_file=None, data_dir=server.data_dir, weights_dir=Path(server.data_dir, "weights"))
    )
    try:
        outcome = audit.replay(app.db)
    finally:
        app.close()
    assert outcome.ok, outcome.problems
