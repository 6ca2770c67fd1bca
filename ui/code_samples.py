"""Calls of the HTTP API to paste: each runs as it stands once the key is in it, or in the environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

# Where a sample reads the key while its secret is not at hand.
KEY_VARIABLE = "VISIONMETER_API_KEY"
# A photograph that anybody may fetch; its four people are found by every model here.
IMAGE_URL = "https://ultralytics.com/images/bus.jpg"
IMG_SIZE = 640

# A name or an address, and a port.
_PLACE = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Call:
    """What a sample is filled in with. `secret` is None where it is not shown: then it comes from the environment."""

    host: str
    model: str
    secret: str | None = None
    image_url: str = IMAGE_URL


def own_host(page_url: str | None) -> str:
    """Scheme, host and port by which the reader reached this page: programs reach the gateway by the same.

    What looks like no host is left out, because it would be pasted into a shell.
    """
    address = urlsplit(page_url or "")
    place = address.netloc.rpartition("@")[2]
    if address.scheme not in ("http", "https") or not _PLACE.fullmatch(place):
        return "http://localhost:8501"
    return f"{address.scheme}://{place}"


def curl_file(call: Call) -> str:
    """Upload a file from a shell."""
    return f"""\
curl {call.host}/yolo/detect \\
  -H "Authorization: Bearer {_shell_key(call)}" \\
  -F file=@photo.jpg \\
  -F model={call.model} \\
  -F img_size={IMG_SIZE}
"""


def curl_url(call: Call) -> str:
    """Name an image's address from a shell."""
    return f"""\
curl {call.host}/yolo/detect \\
  -H "Authorization: Bearer {_shell_key(call)}" \\
  -H "Content-Type: application/json" \\
  -d '{{"image_url": "{call.image_url}", "model": "{call.model}", "img_size": {IMG_SIZE}}}'
"""


def _shell_key(call: Call) -> str:
    return call.secret or f"${KEY_VARIABLE}"


def python_file(call: Call) -> str:
    """Upload a file with `requests`."""
    return f"""\
{_python_head(call, "requests")}
with open("photo.jpg", "rb") as photo:
    r = requests.post(f"{{host}}/yolo/detect",
                      headers={{"Authorization": f"Bearer {{key}}"}},
                      files={{"file": photo}},
                      data={{"model": "{call.model}", "img_size": {IMG_SIZE}}})
{_PYTHON_TAIL}"""


def python_url(call: Call) -> str:
    """Name an image's address with `requests`."""
    return f"""\
{_python_head(call, "requests")}
r = requests.post(f"{{host}}/yolo/detect",
                  headers={{"Authorization": f"Bearer {{key}}"}},
                  json={{"image_url": "{call.image_url}",
                        "model": "{call.model}", "img_size": {IMG_SIZE}}})
{_PYTHON_TAIL}"""


def _python_head(call: Call, library: str) -> str:
    if call.secret:
        return f'import {library}\n\nhost = "{call.host}"\nkey = "{call.secret}"\n'
    return f'import os\n\nimport {library}\n\nhost = "{call.host}"\nkey = os.environ["{KEY_VARIABLE}"]\n'


_PYTHON_TAIL = """\
answer = r.json()
if not r.ok:
    raise SystemExit(answer["detail"])
print(answer["predictions"])
print(answer["usage"]["tokens"], answer["usage"]["remaining_tokens"])
"""


def javascript_file(call: Call) -> str:
    """Upload a file from Node 18 or newer, without packages."""
    return f"""\
// detect.mjs
import {{ readFile }} from "node:fs/promises";

{_javascript_head(call)}
const form = new FormData();
form.append("file", new Blob([await readFile("photo.jpg")]), "photo.jpg");
form.append("model", "{call.model}");
form.append("img_size", "{IMG_SIZE}");

const response = await fetch(`${{host}}/yolo/detect`, {{
  method: "POST",
  headers: {{ Authorization: `Bearer ${{key}}` }},
  body: form,
}});
{_JAVASCRIPT_TAIL}"""


def javascript_url(call: Call) -> str:
    """Name an image's address from Node 18 or newer, without packages."""
    return f"""\
// detect.mjs
{_javascript_head(call)}
const response = await fetch(`${{host}}/yolo/detect`, {{
  method: "POST",
  headers: {{ Authorization: `Bearer ${{key}}`, "Content-Type": "application/json" }},
  body: JSON.stringify({{
    image_url: "{call.image_url}",
    model: "{call.model}",
    img_size: {IMG_SIZE},
  }}),
}});
{_JAVASCRIPT_TAIL}"""


def _javascript_head(call: Call) -> str:
    key = f'"{call.secret}"' if call.secret else f"process.env.{KEY_VARIABLE}"
    return f'const host = "{call.host}";\nconst key = {key};\n'


_JAVASCRIPT_TAIL = """\
const answer = await response.json();
if (!response.ok) throw new Error(answer.detail);
console.log(answer.predictions);
console.log(answer.usage.tokens, answer.usage.remaining_tokens);
"""
