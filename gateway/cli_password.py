"""What an operator types for somebody who forgot his password: `visionmeter reset-password EMAIL`.

Exit codes: 0 the link was printed, 1 nobody signs in with this address, 2 the database or the settings cannot be read.
"""

from __future__ import annotations

from typing import Annotated

import typer

from core.config import load_settings
from core.errors import InvalidEmailError, MemberNotFoundError
from core.services import password_reset
from gateway.cli_database import open_database

NOBODY = 1

reset_password = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Print a link with which somebody chooses a new password."
)


@reset_password.command("reset-password")
def print_link(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The address that he signs in with.")],
) -> None:
    """Print a link with which somebody who forgot his password chooses a new one, once, within a day.

    Make sure who it is that asks, and hand it over where nobody else reads it. A link that was printed or mailed before
    ends. With the new password every sign-in ends; it is on the audit log that you made the link.
    """
    with open_database() as db:
        try:
            secret = password_reset.make_link(db, email)
        except (InvalidEmailError, MemberNotFoundError) as error:
            typer.echo(error.message, err=True)
            raise typer.Exit(NOBODY) from None
    base = load_settings().public_base
    if not base:
        typer.echo("Put the portal's address before it (VISIONMETER_PUBLIC_URL is not set):", err=True)
    typer.echo(f"{base}/?reset={secret}")
