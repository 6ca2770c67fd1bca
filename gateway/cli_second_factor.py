"""What an operator types for somebody who lost his codes: `visionmeter reset-second-factor EMAIL`.

Exit codes: 0 done, 2 nothing was done.
"""

from __future__ import annotations

from typing import Annotated

import typer

from core.services import second_factor
from gateway.cli_database import fail, open_database

reset_second_factor = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Let somebody sign in without a second factor."
)


@reset_second_factor.command("reset-second-factor")
def reset(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The address that the person signs in with.")],
) -> None:
    """Remove a person's second factor, and end all his sign-ins; his password is enough again. The audit log keeps it.

    Make sure first that it is he who asks: whoever has his password gets in.
    """
    with open_database() as db:
        done = second_factor.reset_by_command(db, email)
    if not done:
        fail(f"Nobody signs in as {email} with a second factor: check the address.")
    typer.echo(f"{email} signs in with the password alone now; every sign-in was ended.")
