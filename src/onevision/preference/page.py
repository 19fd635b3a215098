"""The report of the stage `align-preferences`."""

from __future__ import annotations

from onevision.features.queries import QuerySet
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import PreferenceLists
from onevision.preference.reward_fitting import FittedReward
from onevision.preference.training import Monitor
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import line_chart
from onevision.semantic_ids.catalogue import Catalogue

PREVIEWED = 5
_CAPTION = (
    "Objective: {}. Checks rank what the parent's beams found; who passes is asked once more as it is served. Every "
    "search is judged by a reranker that was fitted on others."
)
CHARTS = {
    "Log-probability of chosen, rejected and guarded items": (
        ("chosen", "rejected", "guarded"),
        "A falling chosen line is the known failure.",
    ),
    "Preference accuracy": (("accuracy",), "Share of losers that fell behind their winner, against the reference."),
    "Distance from the reference": (("KL", "entropy"), "Exact, over what the beams found, in nats."),
    "Expected gain": (("expected gain",), "Reward level of one item drawn from the policy."),
}


def make_report(
    monitor: Monitor,
    fitted: FittedReward | None,
    gates: dict[str, bool],
    config: PreferenceConfig,
    lists: PreferenceLists,
    queries: QuerySet,
    catalogue: Catalogue,
) -> StageReport:
    """Checks on validation days, training monitors, preference lists and the reward model's calibration."""
    parent, best = monitor.checks[0], max(monitor.checks, key=lambda c: c.ndcg)
    named = {f"check {n}" if n else "parent": check for n, check in enumerate(monitor.checks)}
    named |= dict(zip(("parent, served", "best, served"), monitor.served, strict=False))
    named |= dict(zip(("without reranker", "with reranker"), monitor.reranked, strict=False))
    checks = [
        [
            name,
            *(round(v, 4) for v in (c.hit_rate, c.ndcg, c.similarity, c.personal_hit_rate, c.reward)),
            c.distinct,
        ]
        for name, c in named.items()
    ]
    columns = ["checkpoint", "HR@10", "NDCG@10, orders double", "image similarity", "HR@10, personal", "reward"]
    charts = [
        Figure(
            title,
            "svg",
            line_chart(monitor.steps, {name: monitor.values.get(name, []) for name in names}, title=title, y_label=""),
            caption,
        )
        for title, (names, caption) in CHARTS.items()
    ]
    warnings = [] if any(gates.values()) else ["no gain on validation days: the parent goes on unchanged"]
    if fitted is None:
        warnings.append("too few items were shown and found: no reward model, so hits have no click probability")
    return StageReport(
        "align-preferences",
        counts=lists.counts
        | (fitted.counts if fitted else {})
        | {"lists_usable": monitor.usable, "queries": len(queries)},
        metrics={
            **{gate: float(passed) for gate, passed in gates.items()},
            "validation_parent_hr@10": parent.hit_rate,
            "validation_parent_order_ndcg@10": parent.ndcg,
            "validation_best_order_ndcg@10": best.ndcg,
            "validation_best_hr@10": best.hit_rate,
            **({"validation_reranked_order_ndcg@10": monitor.reranked[1].ndcg} if monitor.reranked else {}),
            **(fitted.metrics() if fitted else {}),
        },
        warnings=warnings,
        tables=[
            ReportTable("Validation days", [*columns, "distinct items"], checks, _CAPTION.format(config.objective)),
            _preview(lists, queries, catalogue),
            *(fitted.tables() if fitted else []),
        ],
        figures=[*charts, *(fitted.figures() if fitted else [])],
    )


def _preview(lists: PreferenceLists, queries: QuerySet, catalogue: Catalogue) -> ReportTable:
    rows = []
    for n in range(min(PREVIEWED, len(lists))):
        losers = [
            f"{catalogue.item_ids[item]} ({reward:g})"
            for item, reward in zip(lists.losers[n], lists.loser_reward[n], strict=True)
            if item >= 0
        ]
        guarded = [catalogue.item_ids[item] for item in lists.guarded[n] if item >= 0]
        winner = f"{catalogue.item_ids[lists.winner[n]]} ({lists.winner_reward[n]:g})"
        rows.append([queries.query_id[lists.row[n]], winner, ", ".join(losers), ", ".join(guarded)])
    columns = ["search", "winner (reward)", "losers", "guarded"]
    return ReportTable("Preference lists", columns, rows, f"The first {len(rows)} of {len(lists)}.")
