"""Who may open a picture or a file that a page showed: whoever it was shown to.

Streamlit names what it serves by a digest of its content and gives it to anybody who asks. The portal writes down here
whom it showed what, and the guard before Streamlit looks it up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

# A page of results shows some dozens; the oldest are forgotten, and shown again by a reload.
FILES_MAX = 200_000

_mutex = threading.Lock()
_shown_to: OrderedDict[str, set[str | None]] = OrderedDict()


def note_shown(file_id: str, user_id: str | None) -> None:
    """A page showed this file to a user, or to somebody who is not signed in."""
    with _mutex:
        _shown_to.setdefault(file_id, set()).add(user_id)
        _shown_to.move_to_end(file_id)
        while len(_shown_to) > FILES_MAX:
            _shown_to.popitem(last=False)


def note_same(file_id: str, other_id: str) -> None:
    """The second file is what comes of the first one: whoever was shown that may open it."""
    with _mutex:
        users = set(_shown_to.get(file_id, ()))
    for user_id in users:
        note_shown(other_id, user_id)


def may_open(file_id: str, user_id: str | None) -> bool:
    """Whether a file was shown to this user, or to everybody; what was never shown is for nobody."""
    with _mutex:
        shown_to = _shown_to.get(file_id, set())
    return None in shown_to or (user_id is not None and user_id in shown_to)
