"""The application behind a running portal, to prepare or look at what its pages show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.config import Settings
from core.identity.tables import User
from core.identity.users import find_user
from core.services.application import Application, open_application
from tests.browser.conftest import Server


@contextmanager
def behind(server: Server) -> Iterator[Application]:
    """The services on the portal's own database, in this process."""
    app = open_application(
        Settings(
            _env_file=None,
            data_dir=server.data_dir,
            weights_dir=server.data_dir / "weights",
            device="cpu",
            model_fetch=False,
        )
    )
    try:
        yield app
    finally:
        app.db.close()


def user_of(app: Application, email: str) -> User:
    """Who signs in with this address."""
    with app.db.read() as session:
        user = find_user(session, email)
    assert user is not None
    return user
