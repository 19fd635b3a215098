"""The promotion gate as a table of cases: what is measured, and whether it is promoted."""

from __future__ import annotations

import json

import pytest

from onevision.evaluation.gate import CHALLENGER, decide
from onevision.publishing.config import PublishingConfig

GOOD = {
    f"{CHALLENGER}/hr@10": 0.60,
    f"{CHALLENGER}/hr@50": 0.80,
    f"{CHALLENGER}/mrr@10": 0.40,
    f"{CHALLENGER}/invalid_rate": 0.0,
    "dense/hr@10": 0.58,
    "dense/hr@50": 0.81,
}
MINUS = f"{CHALLENGER}_minus_champion"
BESIDE = {"champion/items_moved": 0.0} | {
    f"{MINUS}/{part}{metric}{end}": value
    for part in ("", "known/")
    for metric in ("hr@10", "mrr@10")
    for end, value in (("", -0.02), ("/low", -0.05), ("/high", 0.0))
}
CONFIG = PublishingConfig(
    min_hr10_of_dense=0.95, max_hr50_loss_to_dense=0.03, max_invalid_rate=0.0, max_loss_to_champion=0.005
)


@pytest.mark.parametrize(
    ("changed", "champion", "failing"),
    [
        ({}, None, set()),
        ({f"{CHALLENGER}/hr@10": 0.95 * 0.58}, None, set()),  # on the bound
        ({f"{CHALLENGER}/hr@10": 0.94 * 0.58}, None, {"hr@10 of dense"}),
        ({f"{CHALLENGER}/hr@50": 0.78}, None, set()),  # on the bound
        ({f"{CHALLENGER}/hr@50": 0.77}, None, {"hr@50 loss to dense"}),
        ({f"{CHALLENGER}/invalid_rate": 0.001}, None, {"invalid rate"}),
        ({"dense/hr@10": 0.0}, None, set()),
        ({}, {"hr@10": 0.605, "mrr@10": 0.405}, set()),  # on the bound
        ({}, {"hr@10": 0.606, "mrr@10": 0.40}, {"hr@10 loss to champion"}),
        ({}, {"hr@10": 0.60, "mrr@10": 0.41}, {"mrr@10 loss to champion"}),
        ({}, {f"{CHALLENGER}/hr@10": 0.70, f"{CHALLENGER}/mrr@10": 0.40}, {"hr@10 loss to champion"}),
        ({}, {"hr@10": 0.1, "mrr@10": 0.1}, set()),
        (BESIDE, None, set()),  # on the bound
        (BESIDE | {f"{MINUS}/hr@10/high": -0.001}, None, {"hr@10 beside champion"}),
        (BESIDE | {f"{MINUS}/known/mrr@10/high": -0.001}, None, {"known/mrr@10 beside champion"}),
        (BESIDE | {"champion/items_moved": 1}, None, {"published codes kept"}),
        ({"champion/items_moved": 0}, None, {"hr@10 beside champion", "mrr@10 beside champion"}),
        ({}, {}, {"hr@10 loss to champion", "mrr@10 loss to champion"}),
        ({f"{CHALLENGER}/hr@10": float("nan")}, None, {"hr@10 of dense"}),
    ],
)
def test_every_rule_that_fails_is_named_and_one_is_enough_to_stay(changed, champion, failing):
    decision = decide(GOOD | changed, CONFIG, champion)
    assert {rule.name for rule in decision.rules if not rule.passed} == failing
    assert decision.promote == (not failing)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_metric_that_is_not_there_fails_closed(missing):
    metrics = {key: value for key, value in GOOD.items() if key != missing}
    decision = decide(metrics, CONFIG, {"hr@10": 0.5, "mrr@10": 0.3})
    assert not decision.promote
    assert any(rule.value is None and "not known" in rule.sentence for rule in decision.rules)


def test_a_rule_says_value_bound_and_verdict():
    decision = decide(GOOD | {f"{CHALLENGER}/hr@50": 0.70}, CONFIG)
    rule = next(rule for rule in decision.rules if rule.name == "hr@50 loss to dense")
    assert (rule.value, rule.bound, rule.passed) == (pytest.approx(0.11), 0.03, False)
    assert "0.1100" in rule.sentence
    assert "at most 0.0300" in rule.sentence
    assert rule.sentence.endswith("fails.")


def test_a_decision_is_plain_json():
    decision = decide(GOOD, CONFIG)
    assert json.loads(json.dumps(decision.to_json()))["promote"] is True


def test_another_system_can_be_judged():
    metrics = GOOD | {key.replace(CHALLENGER, "generator_sft"): value for key, value in GOOD.items()}
    metrics["generator_sft/hr@10"] = 0.1
    assert not decide(metrics, CONFIG, system="generator_sft").promote
