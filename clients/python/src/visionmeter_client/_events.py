"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as far as jobs need them."""

from __future__ import annotations

from visionmeter_client._reading import load_json, read
from visionmeter_client.answers import Job


class JobEvents:
    """Turns the lines of an event stream into the states of a job."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def take(self, line: str) -> Job | None:
        """The state that this line completes, if it does."""
        if not line:
            data, self._data = "\n".join(self._data), []
            return read(Job, load_json(data)) if data else None
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return None
