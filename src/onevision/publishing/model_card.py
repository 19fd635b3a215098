"""The model card of a bundle: what it is, what it was made from, how well it does, and how to take it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onevision import __version__
from onevision.artifacts import Artifact
from onevision.data.snapshot import Snapshot
from onevision.evaluation.gate import CHALLENGER
from onevision.publishing.headline import METRICS, Headline, percent

_PURPOSE = (
    "Visual product search: from a shopper's photo and, where known, the shopper's recent history, the generator "
    "writes the semantic IDs of the items to show. Everything that serving needs is in this folder; nothing in it is "
    "executed on loading (safetensors, Parquet and JSON)."
)
_LIMITS = (
    "It finds items of this catalogue only; an item that entered later needs a semantic ID first.",
    "It was trained on the clicks of this shop's shoppers and repeats their habits and their blind spots.",
    "A user whom the features do not know is served as a cold user: by the photo alone.",
    "The figures are from logged clicks of past days; they do not replace an online test.",
)
_SYNTHETIC = "The shop is synthetic: the figures show that the method works, not how it does in a real shop."


def model_card(
    *,
    shop: Snapshot,
    parents: Mapping[str, Artifact],
    headline: Headline,
    decision: Mapping[str, Any],
    counts: Mapping[str, int],
    generation: str | None,
    seed: int,
) -> str:
    """Markdown of the card; the same inputs give the same text."""
    limits = [*_LIMITS, *([_SYNTHETIC] if shop.source == "synthetic" else [])]
    sections = [
        "# OneVision bundle",
        _PURPOSE,
        "## Decision",
        "**Promoted.**" if decision["promote"] else "**Not promoted.** The champion, if there is one, stays.",
        "\n".join(f"- {rule['sentence']}" for rule in decision["rules"]),
        *([decision["note"]] if decision["note"] else []),
        "## Figures",
        f"{headline.queries:,} held-out queries of snapshot `{shop.snapshot_id}`; percent, with 95 % bootstrap "
        f"intervals. `{CHALLENGER}` is what this bundle serves.",
        _figures(headline),
        "## Data",
        f"Snapshot `{shop.snapshot_id}` (source: {shop.source}), as of {shop.as_of.isoformat()}; "
        + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())
        + ".",
        "## Made from",
        _lineage(parents, generation, seed),
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits),
        "## Rolling back",
        "`champion.json` in a bundle store names the bundle that is served and the one before it. `onevision rollback "
        "--store STORE` serves the one before again, `--to BUNDLE` any other that the store still keeps, in one step; "
        "`onevision champion history --store STORE` tells which there were.",
    ]
    return "\n\n".join(sections) + "\n"


def _figures(headline: Headline) -> str:
    rows = [f"| system | {' | '.join(METRICS)} |", "| --- |" + " --- |" * len(METRICS)]
    rows += [f"| {s.system} | {' | '.join(percent(i) for i in s.intervals)} |" for s in headline.systems]
    return "\n".join(rows)


def _lineage(parents: Mapping[str, Artifact], generation: str | None, seed: int) -> str:
    rows = ["| artifact | identity |", "| --- | --- |"]
    rows += [f"| {name} | `{artifact.identity}` |" for name, artifact in sorted(parents.items())]
    rows += [f"| generation of codebooks | `{generation}` |", f"| seed | {seed} |", f"| library | {__version__} |"]
    return (
        "\n".join(rows)
        + "\n\nAn identity is a hash of content and lineage; the settings of each part are in its `config.json`."
    )
