"""What an operator types to keep an installation safe: `visionmeter backup` and `visionmeter restore`.

Exit codes: 0 done and the ledger agrees, 1 done and the ledger disagrees, 2 nothing was done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from core.config import load_settings
from core.db import Database, why
from core.errors import VisionMeterError
from core.services import backup as service
from core.services import second_factor
from core.services.backup import Outcome
from gateway.cli_database import fail, open_database

DISAGREES = 1

backup = typer.Typer(add_completion=False, rich_markup_mode=None, help="Back up everything to one file.")
restore = typer.Typer(add_completion=False, rich_markup_mode=None, help="Make an installation of a back-up.")


@backup.command("backup")
def write_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it must not be there yet.")],
    weights: Annotated[bool, typer.Option(help="With the weights folder.")] = True,
) -> None:
    """Write database, pictures and weights to FILE, while the service runs; verify the ledger of what was written.

    FILE has password digests, webhook secrets and customers' pictures: encrypt it before it leaves the machine.
    """
    settings = load_settings()
    with open_database() as db:
        try:
            outcome = service.back_up(settings, db, file, with_weights=weights)
        except OSError as error:
            fail(f"{error.filename or file}: {error.strerror or error}. No back-up was made.")
        if second_factor.examine_key(settings, db).seeds:
            typer.echo(
                f"Not in it, on purpose: the key of people's second factors. Keep {second_factor.name_key(settings)}, "
                "too, but in another place: without it their apps' codes are worth nothing after a restore."
            )
    _tell(f"Wrote {file}", outcome)


@restore.command("restore")
def read_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `visionmeter backup` wrote it.")],
) -> None:
    """Restore FILE to the database and the folders that the settings name, which must be empty; verify the ledger.

    FILE is compared with its digests first. Whatever is there already is left alone, and refused.
    """
    try:
        settings = load_settings()
        db = Database(settings.sqlalchemy_url)
        try:
            outcome = service.restore(settings, db, file)
            unreadable = second_factor.examine_key(settings, db).unreadable
        finally:
            db.close()
    except VisionMeterError as error:
        fail(error.message)
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror or error}. It cannot be restored.")
    except ImportError as error:
        fail(f"The driver of this database is not installed ({error.name}): see deploy/README.md, The database.")
    except SQLAlchemyError as error:
        fail(f"The database cannot be reached: {why(error)}")
    if unreadable:
        typer.echo(
            f"{unreadable} people have a second factor whose key is not here: bring {second_factor.name_key(settings)} "
            "from where you keep it. Until then they sign in by recovery code."
        )
    _tell(f"Restored {file}", outcome)


def _tell(deed: str, outcome: Outcome) -> None:
    verification = outcome.verification
    typer.echo(f"{deed}: {outcome.files} files, {outcome.file_bytes / 1e6:.1f} MB.")
    if verification.ok:
        typer.echo(f"The ledger of {verification.accounts} accounts agrees, {verification.entries} entries.")
        return
    for problem in verification.problems:
        typer.echo(f"{problem.message} [{problem.code}]", err=True)
    raise typer.Exit(DISAGREES)
