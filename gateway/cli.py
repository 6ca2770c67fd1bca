"""What an operator types: `visionmeter ledger verify`, `head` and `seal`. It makes and migrates no database.

`visionmeter calibrate` is in `gateway.cli_calibrate`, `visionmeter catalog` in `gateway.cli_models`.

Exit codes: 0 the ledger agrees, 1 it disagrees, 2 it could not be checked (usage, a file, the database).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from core.errors import InvalidHeadError
from core.ledger.seal import Head
from core.ledger.verify import PROBLEMS_MAX, Verification
from core.money import format_tokens
from core.services import audit
from gateway.cli_backup import backup, restore
from gateway.cli_calibrate import calibrate
from gateway.cli_database import NOT_CHECKED, fail, open_database, write_atomically
from gateway.cli_doctor import doctor
from gateway.cli_models import catalog
from gateway.cli_password import reset_password
from gateway.cli_second_factor import reset_second_factor

DISAGREES = 1

# Plain text without a frame: what cron mails and what a script reads.
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
ledger = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Check the ledger, and export what proves it.",
)
app.add_typer(ledger, name="ledger")
app.add_typer(calibrate)
app.add_typer(backup)
app.add_typer(restore)
app.add_typer(doctor)
app.add_typer(reset_second_factor)
app.add_typer(reset_password)
app.add_typer(catalog, name="catalog")

AccountOption = Annotated[str | None, typer.Option("--account", metavar="ID", help="Only this account.")]


@app.callback()
def describe() -> None:
    """VisionMeter's commands for the operator of an installation. They read its settings (VISIONMETER_…, .env)."""


@ledger.command()
def verify(
    account: AccountOption = None,
    head: Annotated[
        list[Path] | None,
        typer.Option("--head", metavar="FILE", help="An exported head that the ledger must still agree with."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Replay every entry; name the first wrong one of each account. Exit code 1 when anything disagrees."""
    heads = [one for path in head or [] for one in _read_heads(path, account)]
    with open_database() as db:
        outcome = audit.replay(db, account, heads=heads)
    if account is not None and outcome.ok and not outcome.accounts:
        fail(f"There is no account {account}.")
    if as_json:
        typer.echo(json.dumps({"ok": outcome.ok, **asdict(outcome), "heads": len(heads)}, indent=2))
    else:
        _print_outcome(outcome, len(heads))
    if not outcome.ok:
        raise typer.Exit(DISAGREES)


@ledger.command("head")
def write_head(
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
    account: AccountOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a head although the ledger does not agree with it.")
    ] = False,
) -> None:
    """Seal what is new and export the heads of the chains, to be kept where nobody can change them.

    A FILE that is there already is overwritten only if the whole ledger agrees with it; otherwise it is left as it is
    and the exit code is 1.
    """
    replaced = output if output is not None and output.exists() and not force else None
    kept = _read_heads(replaced) if replaced is not None else []
    if account is not None and any(one.account_id != account for one in kept):
        fail(f"{output} also covers other accounts: write the head of this account to another file.")
    with open_database() as db:
        if replaced is None:
            heads = audit.collect_heads(db, account)
        else:
            heads, outcome = audit.extend_heads(db, kept, account)
            if not outcome.ok:
                _print_outcome(outcome, len(kept), error=True)
                typer.echo(f"{output} was left as it is: keep it, it is the proof.", err=True)
                raise typer.Exit(DISAGREES)
    text = audit.write_heads(heads)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_atomically(output, text)
    typer.echo(f"Wrote the heads of {_count(len(heads), 'account')} to {output}.")


@ledger.command("seal")
def seal_new() -> None:
    """Continue the hash chains over the newest entries, as a running server does by itself."""
    with open_database() as db:
        typer.echo(f"Sealed {_count(audit.seal(db), 'entry', 'entries')}.")


def _read_heads(path: Path, account: str | None = None) -> list[Head]:
    try:
        heads = audit.read_heads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}.")
    except (InvalidHeadError, UnicodeDecodeError):
        fail(f"{path} is no exported head of a ledger: give the file as `visionmeter ledger head` wrote it.")
    if account is not None:
        heads = [head for head in heads if head.account_id == account]
        if not heads:
            fail(f"{path} does not cover the account {account}: nothing can be checked against it.")
    return heads


def _print_outcome(outcome: Verification, heads: int, *, error: bool = False) -> None:
    for line in _outcome_lines(outcome, heads):
        typer.echo(line, err=error)


def _outcome_lines(outcome: Verification, heads: int) -> Iterable[str]:
    for problem in outcome.problems:
        yield f"{problem.message} [{problem.code}]"
    if len(outcome.problems) == PROBLEMS_MAX:
        yield f"Only the first {PROBLEMS_MAX} accounts with a problem are named."
    if not outcome.problems and outcome.ledger_sum_mt:
        yield f"All accounts together have {format_tokens(outcome.ledger_sum_mt)} tokens that came from nowhere."
    counts = (
        f"{_count(outcome.accounts, 'account')}, {_count(outcome.entries, 'entry', 'entries')} "
        f"({outcome.unsealed:,} not sealed yet), {_count(heads, 'head')}"
    )
    yield f"{counts}: everything agrees." if outcome.ok else f"{counts}: THE LEDGER DISAGREES."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def main() -> None:
    """Run the command line; a fault of the program must not look like one of the ledger."""
    try:
        app(prog_name="visionmeter")
    except Exception:
        # An uncaught exception would end in 1, which says that the ledger disagrees.
        traceback.print_exc()
        sys.exit(NOT_CHECKED)


if __name__ == "__main__":
    main()
