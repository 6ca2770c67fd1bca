"""Writing down whom the pages show which file, for the guard before Streamlit's own route (`core.services.media`)."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import streamlit as st
from streamlit.runtime import get_instance

from core.services.media import note_same, note_shown

_OWNER = "media_owner"


def watch_media(user_id: str | None) -> None:
    """From now on in this run, what is shown is shown to this user; None is somebody who is not signed in."""
    st.session_state[_OWNER] = user_id
    manager: Any = get_instance().media_file_mgr
    if getattr(manager, "is_watched", False):
        return
    add, add_deferred, execute_deferred = manager.add, manager.add_deferred, manager.execute_deferred

    def add_and_note(*arguments: Any, **options: Any) -> str:
        url: str = add(*arguments, **options)
        note_shown(_file_id(url), st.session_state.get(_OWNER))
        return url

    def add_deferred_and_note(*arguments: Any, **options: Any) -> str:
        file_id: str = add_deferred(*arguments, **options)
        note_shown(file_id, st.session_state.get(_OWNER))
        return file_id

    # A file that is made when its button is pressed, in no script's thread: it is for whom the button was shown to.
    def execute_and_note(file_id: str) -> str:
        url: str = execute_deferred(file_id)
        note_same(file_id, _file_id(url))
        return url

    # Streamlit has no hook for this; a browser test of downloads, and one of strangers, hold it.
    manager.add, manager.add_deferred, manager.execute_deferred = add_and_note, add_deferred_and_note, execute_and_note
    manager.is_watched = True


def _file_id(url: str) -> str:
    return PurePosixPath(url).stem
