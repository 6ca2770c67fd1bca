"""The page of a mail's link, in a run of Streamlit's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData
from streamlit.testing.v1 import AppTest

import ui.mail_links
from core.services import sign_in, sign_up_by_mail
from core.services.application import Application, set_current
from core.services.sign_up_by_mail import Opened
from tests.conftest import PASSWORD, OpenApp
from tests.core.services import test_mails
from tests.core.services.test_password_reset import send_all
from tests.mail_server import MailServer
from ui.format import plain

server = test_mails.server


@pytest.fixture
def app(open_app: OpenApp, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """The application of this process, which sends mail, with its operator."""
    app = open_app(**server.settings())
    sign_in.sign_up(app, "operator@example.com", PASSWORD)
    # What talks to a browser, which there is none of here.
    monkeypatch.setattr(ui.mail_links, "language_switch", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(ui.mail_links, "carry_ticket", lambda _ticket: False)
    monkeypatch.setattr(ui.mail_links, "current_user", lambda: None)
    set_current(app)
    yield app
    set_current(None)


def page() -> None:
    """What the portal runs while a link is open in its tab."""
    from ui.mail_links import find_link, show_link

    link = find_link()
    if link is not None:
        show_link(*link)


def opened_link(app: Application, server: MailServer) -> AppTest:
    """The page of the link with which somebody opens his account."""
    sign_up_by_mail.request_mail(app, "ann@example.com")
    send_all(app)
    tab = AppTest.from_function(page, default_timeout=20)
    tab.query_params["sign_up"] = server.received[-1].secret
    return tab.run()


def test_pressing_twice_signs_in(app: Application, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second press while the account is being opened ends the first run, and neither the ticket nor the account."""
    tab = opened_link(app, server)
    for field in tab.text_input:
        field.set_value(PASSWORD)
    tab.button[0].click()
    again = RerunData(query_string="", widget_states=tab._tree.get_widget_states())
    open_account = sign_up_by_mail.open_account
    tickets: list[str] = []

    def open_and_press(*args: Any, **kwargs: Any) -> Opened:
        opened = open_account(*args, **kwargs)
        tickets.append(opened.ticket)
        context = get_script_run_ctx()
        assert context is not None
        assert context.script_requests is not None
        context.script_requests.request_rerun(again)
        return opened

    monkeypatch.setattr(sign_up_by_mail, "open_account", open_and_press)
    tab.run()
    assert [one.value for one in tab.error] == []
    assert [one.value for one in tab.info] == ["Signing you in …"]
    assert [tab.session_state["mail_link_opening"]["ticket"]] == tickets


def test_a_used_link_leads_to_signing_in(app: Application, server: MailServer) -> None:
    """Whoever opens it again hears that his account is open, and goes on to where he signs in."""
    tab = opened_link(app, server)
    sign_up_by_mail.open_account(app, server.received[-1].secret, PASSWORD)
    tab.run()
    assert [one.value for one in tab.error] == []
    assert [one.value for one in tab.success] == ["Your account is open: sign in."]
    tab.button(key="mail_link_go_on").click().run()
    assert "mail_link" not in tab.session_state


def test_who_is_signed_in_hears_what_another_account_does(
    app: Application, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before he opens it the page names whom he is signed in as; to nobody it says nothing of that."""
    tab = opened_link(app, server)
    assert [one.value for one in tab.info] == []
    operator = sign_in.signed_in_user(
        app, sign_in.open_session(app, sign_in.sign_in(app, "operator@example.com", PASSWORD))
    )
    monkeypatch.setattr(ui.mail_links, "current_user", lambda: operator)
    [said] = tab.run().info
    assert plain("operator@example.com") in said.value
