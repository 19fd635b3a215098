"""`onevision ids ...`: what the shop asks of its semantic IDs. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevision.errors import OneVisionError

Holder = Annotated[Path, typer.Argument(help="semantic_ids artifact, or a bundle")]

ids_app = typer.Typer(help="Look semantic IDs up, and compare them.", no_args_is_help=True)


@ids_app.command("lookup")
def lookup(
    ids: Annotated[Path, typer.Option(help="semantic_ids artifact, or a bundle")],
    item: Annotated[str | None, typer.Option(help="show the semantic ID of this item")] = None,
    sid: Annotated[str | None, typer.Option(help="show the items of this semantic ID, such as 3-17-5")] = None,
) -> None:
    """Find an item's semantic ID, or a semantic ID's items."""
    from onevision.semantic_ids.lookup import format_sid, items_of, open_semantic_ids, parse_sid, sid_of

    if (item is None) == (sid is None):
        raise OneVisionError("give either --item or --sid")
    artifact = open_semantic_ids(ids)
    if item is not None:
        print(format_sid(sid_of(artifact, item)))
    elif sid is not None:
        print("\n".join(items_of(artifact, parse_sid(sid)) or ["no item has this semantic ID"]))


@ids_app.command("diff")
def diff(
    old: Holder,
    new: Holder,
    out: Annotated[Path | None, typer.Option(help="also write every change to this .parquet or .json file")] = None,
) -> None:
    """Count the items that moved, are new, or are gone between two sets of semantic IDs."""
    from onevision.semantic_ids.lookup import diff, open_semantic_ids

    changes = diff(open_semantic_ids(old), open_semantic_ids(new))
    if changes.old.generation != changes.new.generation:
        print(
            f"codebooks of two generations, {changes.old.generation} and {changes.new.generation}: codes do not compare"
        )
    print(", ".join(f"{name} {count:,}" for name, count in changes.counts.items()))
    if out:
        changes.save(out)
        print(f"written to {out}")
