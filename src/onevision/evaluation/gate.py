"""The promotion gate: a pure rule over metrics, so that a decision can be repeated and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onevision.publishing.config import PublishingConfig

CHALLENGER = "generator_pruned"
"""The system that would serve: aligned, with the pruning setting."""
ITEMS_MOVED = "champion/items_moved"
_ROUNDING = 1e-9
"""A value on its bound passes, whatever the last bit says."""


@dataclass(frozen=True)
class Rule:
    """One rule of the gate and what it found; `value` is None where a metric was missing (which fails)."""

    name: str
    value: float | None
    bound: float
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and every rule's finding; one failing rule is enough to stay."""

    promote: bool
    rules: tuple[Rule, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `decision.json`."""
        return asdict(self) | {"rules": [asdict(rule) for rule in self.rules]}


def decide(
    metrics: Mapping[str, float],
    config: PublishingConfig,
    champion: Mapping[str, float] | None = None,
    *,
    system: str = CHALLENGER,
) -> Decision:
    """Judge a challenger against dense neighbours and, where there is one, the champion.

    Args:
        metrics: `metrics.json` of the evaluation: `<system>/hr@10` and so on.
        champion: the champion's metrics **on the same queries**, under the challenger's keys or as plain `hr@10` and
            `mrr@10`; None for a first bundle.
        system: the prefix that is judged.
    """
    own = {m: metrics.get(f"{system}/{m}") for m in ("hr@10", "hr@50", "mrr@10", "invalid_rate")}
    dense = {m: metrics.get(f"dense/{m}") for m in ("hr@10", "hr@50")}
    rules = [
        _at_least(
            "hr@10 of dense",
            _share(own["hr@10"], dense["hr@10"]),
            config.min_hr10_of_dense,
            f"HR@10 ({_text(own['hr@10'])}) as a share of dense neighbours' ({_text(dense['hr@10'])})",
        ),
        _at_most(
            "hr@50 loss to dense",
            _loss(dense["hr@50"], own["hr@50"]),
            config.max_hr50_loss_to_dense,
            f"HR@50 ({_text(own['hr@50'])}) lost to dense neighbours ({_text(dense['hr@50'])})",
        ),
        _at_most("invalid rate", own["invalid_rate"], config.max_invalid_rate, "share of beams that are no item"),
    ]
    if champion is not None:
        for metric, name in (("hr@10", "HR@10"), ("mrr@10", "MRR@10")):
            held = champion.get(f"{system}/{metric}", champion.get(metric))
            rules.append(
                _at_most(
                    f"{metric} loss to champion",
                    _loss(held, own[metric]),
                    config.max_loss_to_champion,
                    f"{name} ({_text(own[metric])}) lost to the champion ({_text(held)}) on the same queries",
                )
            )
    rules += _beside_champion(metrics, system)
    return Decision(all(rule.passed for rule in rules), tuple(rules))


def _beside_champion(metrics: Mapping[str, float], system: str) -> list[Rule]:
    """Rules of a challenger that was measured beside the champion: not worse by the paired interval, no code moved.

    Judged on all queries, and on those whose answer the champion could find with the new items left out of both
    rankings: what a new day adds to the catalogue hides no loss of the model.
    """
    if ITEMS_MOVED not in metrics:
        return []
    rules = [_at_most("published codes kept", metrics[ITEMS_MOVED], 0, "items of the champion whose semantic ID moved")]
    for part, queries in (("", "all queries"), ("known/", "queries whose answer the champion knows")):
        for metric, name in (("hr@10", "HR@10"), ("mrr@10", "MRR@10")):
            key = f"{system}_minus_champion/{part}{metric}"
            if not part or key in metrics:
                what = f"upper end of the 95 % interval of {name} minus the champion's over {queries}"
                rules.append(_at_least(f"{part}{metric} beside champion", metrics.get(f"{key}/high"), 0, what))
    return rules


def _at_least(name: str, value: float | None, bound: float, what: str) -> Rule:
    return _rule(name, value, bound, value is not None and value >= bound - _ROUNDING, "at least", what)


def _at_most(name: str, value: float | None, bound: float, what: str) -> Rule:
    return _rule(name, value, bound, value is not None and value <= bound + _ROUNDING, "at most", what)


def _rule(name: str, value: float | None, bound: float, passed: bool, relation: str, what: str) -> Rule:
    found = "is not known" if value is None else f"is {value:.4f}"
    verdict = "passes" if passed else "fails"
    return Rule(name, value, bound, passed, f"{what} {found}; {relation} {bound:.4f} is wanted: {verdict}.")


def _share(value: float | None, of: float | None) -> float | None:
    if value is None or of is None:
        return None
    return value / of if of > 0 else 1.0


def _loss(reference: float | None, value: float | None) -> float | None:
    return None if reference is None or value is None else reference - value


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
