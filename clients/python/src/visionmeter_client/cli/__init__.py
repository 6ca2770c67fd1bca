"""The command `visionmeter`: detection from a shell, and what other packages of this machine add to it.

Exit codes: 0 done (also: only quoted), 1 some images failed, 2 refused, wrong usage, no answer or a fault of the
program, 130 stopped by Ctrl-C. Commands that are added have their own meaning for 1.
"""

from __future__ import annotations

import sys
import traceback

import typer

from visionmeter_client.cli import account, detect
from visionmeter_client.cli.extensions import Commands
from visionmeter_client.cli.session import REFUSED

# Plain help without frames: what is mailed by cron and read by scripts.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def describe() -> None:
    """VisionMeter from the shell: detect objects in images and know the price before.

    Host and API key come from --host and --key or, better, from VISIONMETER_HOST and VISIONMETER_API_KEY.
    """


app.command("detect")(detect.detect)
app.command("balance")(account.balance)
app.command("models")(account.models)
app.command("usage")(account.usage)


def main() -> None:
    """Run the command line; a fault of the program must look like no outcome of a command."""
    try:
        app(prog_name="visionmeter")
    except Exception:
        # An uncaught exception would end in 1, which says that images failed or that a ledger disagrees.
        traceback.print_exc()
        sys.exit(REFUSED)
