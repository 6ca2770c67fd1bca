"""Calls of the HTTP API to paste: each runs as it stands once the key is in it, or in the environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

# Where a sample reads the key while its secret is not at hand.
KEY_VARIABLE = "VISIONMETER_API_KEY"
# Where `make run` serves.
HOST_DEFAULT = "http://localhost:8501"
# A photograph of a bus and four people that anybody may fetch.
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
    try:
        address = urlsplit(page_url or "")
    except ValueError:
        return HOST_DEFAULT
    place = address.netloc.rpartition("@")[2]
    if address.scheme not in ("http", "https") or not _PLACE.fullmatch(place):
        return HOST_DEFAULT
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
  -d '{{"image_url": "{call.image_url}",
       "model": "{call.model}", "img_size": {IMG_SIZE}}}'
"""


def _shell_key(call: Call) -> str:
    return call.secret or f"${KEY_VARIABLE}"


def python_file(call: Call) -> str:
    """Upload a file with `requests`."""
    return f"""\
{_python_head(call)}
with open("photo.jpg", "rb") as photo:
    r = requests.post(f"{{host}}/yolo/detect",
                      headers={{"Authorization": f"Bearer {{key}}"}},
                      files={{"file": photo}},
                      data={{"model": "{call.model}", "img_size": {IMG_SIZE}}})
{_PYTHON_TAIL}"""


def python_url(call: Call) -> str:
    """Name an image's address with `requests`."""
    return f"""\
{_python_head(call)}
r = requests.post(f"{{host}}/yolo/detect",
                  headers={{"Authorization": f"Bearer {{key}}"}},
                  json={{"image_url": "{call.image_url}",
                        "model": "{call.model}", "img_size": {IMG_SIZE}}})
{_PYTHON_TAIL}"""


def _python_head(call: Call) -> str:
    key = f'"{call.secret}"' if call.secret else f'os.environ["{KEY_VARIABLE}"]'
    imports = "" if call.secret else "import os\n\n"
    return f"""\
{imports}import requests

host = "{call.host}"
key = {key}
"""


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


def client_file(call: Call) -> str:
    """Upload a file with our own client."""
    return f"""\
{_client_head(call)}
answer = client.detect("photo.jpg", model="{call.model}", img_size={IMG_SIZE})
{_CLIENT_TAIL}"""


def client_url(call: Call) -> str:
    """Name an image's address with our own client."""
    return f"""\
{_client_head(call)}
answer = client.detect("{call.image_url}", model="{call.model}", img_size={IMG_SIZE})
{_CLIENT_TAIL}"""


def _client_head(call: Call) -> str:
    key = f'"{call.secret}"' if call.secret else f'os.environ["{KEY_VARIABLE}"]'
    # The client sends no key in clear to another machine unless it is told to.
    allow = ", allow_http=True" if call.host.startswith("http:") and not _is_loopback(call.host) else ""
    imports = "" if call.secret else "import os\n\n"
    return f"""\
# From a checkout of VisionMeter: pip install ./clients/python
{imports}from visionmeter_client import VisionMeter

client = VisionMeter("{call.host}", {key}{allow})"""


_CLIENT_TAIL = """\
for found in answer.predictions:
    print(found.name, found.confidence, found.box)
print(answer.usage.tokens, answer.usage.remaining_tokens)
"""


def _is_loopback(host: str) -> bool:
    name = urlsplit(host).hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
