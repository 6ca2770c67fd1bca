"""Calls to paste: they parse, hold what they are filled in with and nothing that a page's address smuggles in."""

from __future__ import annotations

import ast
import json
import re
import shlex

import pytest

from ui.code_samples import (
    HOST_DEFAULT,
    IMAGE_URL,
    KEY_VARIABLE,
    Call,
    client_file,
    client_url,
    curl_file,
    curl_url,
    javascript_file,
    javascript_url,
    own_host,
    python_file,
    python_url,
)

SAMPLES = (curl_file, curl_url, python_file, python_url, client_file, client_url, javascript_file, javascript_url)
SECRET = "vm_" + "aB3" * 13 + "z"


@pytest.mark.parametrize(
    ("page_url", "host"),
    [
        ("http://localhost:8501/api_keys", "http://localhost:8501"),
        ("https://vision.example.com/api_keys?section=1#x", "https://vision.example.com"),
        ("https://ann:secret@vision.example.com/api_keys", "https://vision.example.com"),
        ("http://[::1]:8501/", "http://[::1]:8501"),
        ("http://192.0.2.7/", "http://192.0.2.7"),
        (None, HOST_DEFAULT),
        ("", HOST_DEFAULT),
        ("ftp://vision.example.com/", HOST_DEFAULT),
        ("http://$(id).example.com/", HOST_DEFAULT),
        ("http://a`id`b/", HOST_DEFAULT),
        ("http://a;id/", HOST_DEFAULT),
        ('http://a"b/', HOST_DEFAULT),
        ("http://a\u2028b/", HOST_DEFAULT),
        ("http://[::1/", HOST_DEFAULT),
    ],
)
def test_the_host_is_the_readers(page_url: str | None, host: str) -> None:
    """Scheme, name and port are those of the page; what a shell would read otherwise is left out."""
    assert own_host(page_url) == host


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_key_is_there_or_its_variable(sample) -> None:
    """With a secret it stands there once and no variable does; without one, the variable does."""
    call = Call("https://vision.example.com", "yolov8l", SECRET)
    assert (sample(call).count(SECRET), KEY_VARIABLE in sample(call)) == (1, False)
    without = sample(Call("https://vision.example.com", "yolov8l"))
    assert (without.count(KEY_VARIABLE), "vm_" in without) == (1, False)
    for code in (sample(call), without):
        assert code.count("https://vision.example.com") == 1
        assert code.count("yolov8l") == 1
        assert max(map(len, code.splitlines())) <= 100


@pytest.mark.parametrize("secret", [SECRET, None])
@pytest.mark.parametrize("sample", [python_file, python_url, client_file, client_url])
def test_python_parses(sample, secret: str | None) -> None:
    """The samples in Python are Python."""
    ast.parse(sample(Call("http://localhost:8501", "yolov8l", secret)))


def test_the_shell_reads_one_command() -> None:
    """A shell makes one call of each sample in cURL, and the body is JSON."""
    by_file, by_address = (
        # shlex does not join lines as a shell does.
        shlex.split(sample(Call("http://localhost:8501", "yolov8l", SECRET)).replace("\\\n", ""))
        for sample in (curl_file, curl_url)
    )
    command = ["curl", "http://localhost:8501/yolo/detect", "-H", f"Authorization: Bearer {SECRET}"]
    assert by_file == [*command, "-F", "file=@photo.jpg", "-F", "model=yolov8l", "-F", "img_size=640"]
    assert by_address[:-1] == [*command, "-H", "Content-Type: application/json", "-d"]
    assert json.loads(by_address[-1]) == {"image_url": IMAGE_URL, "model": "yolov8l", "img_size": 640}


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("http://localhost:8501", False),
        ("http://127.0.0.1:8501", False),
        ("http://[::1]:8501", False),
        ("https://vision.example.com", False),
        ("http://vision.example.com", True),
        ("http://192.0.2.7:8501", True),
    ],
)
def test_the_client_is_told_about_plain_http(host: str, is_allowed: bool) -> None:
    """The client sends no key in clear to another machine unless it is told to: a call of such a host tells it."""
    for sample in (client_file, client_url):
        assert bool(re.search(r", allow_http=True\)$", sample(Call(host, "yolov8l", SECRET)), re.M)) == is_allowed
