"""`onevision champion ...` and `onevision rollback`: what is served, and taking it back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

Store = Annotated[str, typer.Option("--store", help="bundle store: a folder, or gs://bucket/prefix")]

champion_app = typer.Typer(help="The bundle that a store serves.", no_args_is_help=True)


@champion_app.command("history")
def history(store: Store) -> None:
    """List the champions of a store, the present one first."""
    from onevision.publishing.history import read_history

    found = read_history(store)
    if not found:
        print(f"{store}: no champion is recorded")
        return
    print(f"{'since (UTC)':<18}{'until':<18}{'how':<13}bundle")
    for reign in reversed(found):
        print(f"{_minute(reign.since):<18}{_minute(reign.until):<18}{reign.how:<13}{reign.bundle}")


def rollback(
    store: Store,
    to: Annotated[str | None, typer.Option("--to", help="bundle to serve; by default the champion before")] = None,
) -> None:
    """Serve an earlier bundle again, in one step."""
    from onevision.publishing.promotion import roll_back

    print(f"{store}: the champion is {roll_back(store, to)}")


def _minute(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else "now"
