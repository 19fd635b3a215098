"""Calibration error of P(click) on test searches, days after those that the calibrator was fitted on.

python benchmarks/bench_calibration.py RUN [RUN ...]

Of what was shown and found by the beams: the reward model's own probability, and the calibrated one that is served.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice_fitting import OPENED
from onevision.preference.calibration import expected_calibration_error, reliability
from onevision.preference.config import PreferenceConfig
from onevision.preference.reward import RewardModel
from onevision.preference.reward_fitting import chance_error, shown_pairs
from onevision.preference.slates import make_slates


def errors(run: Path) -> tuple[int, float, float, float]:
    """Pairs; the error of the uncalibrated and of the served probability, and what chance makes of the latter."""
    generator = run / "generator_aligned"
    ranker = GeneratorRanker.open(run / "encoder", run / "semantic_ids", generator)
    assert ranker.choice is not None, f"{generator} has no choice model"
    ranker.use_pruning(OPENED)
    queries = QuerySet.load(run / "pairs", run / "encoder", run / "features", split="test", clicked_only=False)
    found, log_p = ranker.find(queries, PreferenceConfig().beam_width)
    slates = make_slates(ranker.choice, queries, ranker.catalogue, found, log_p, counted=False)
    model = RewardModel.from_pretrained(generator)
    pairs = shown_pairs(model, ranker.choice, (queries, slates), ranker.catalogue, counted=False)
    with torch.no_grad():
        logits = model(pairs.features)[:, 0]
    clicked = pairs.labels[:, 0]
    calibrated = model.calibrator.probability(logits)
    raw, served = (expected_calibration_error(reliability(p, clicked)) for p in (logits.sigmoid(), calibrated))
    return len(clicked), raw, served, chance_error(calibrated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    torch.set_num_threads(1)
    for run in parser.parse_args().runs:
        count, raw, served, chance = errors(run)
        print(f"{run}: {count:,} pairs, error {raw:.2%}, served {served:.2%} ({served / raw:.0%}), chance {chance:.2%}")


if __name__ == "__main__":
    main()
