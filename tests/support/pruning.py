"""Pruning in tests: recipe sections in no time, and a bundle of tiny models that is served with a setting."""

from pathlib import Path

from onevision.artifacts import finish_artifact, open_artifact, start_artifact, write_json
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.stage import run as evaluate
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.config import PruningConfig
from onevision.publishing.config import PublishingConfig
from onevision.publishing.stage import run as publish

EASY = PruningConfig(max_loss=1, max_department_loss=1, open_below=(2,), margins=(5,), masses=(0.5,), timed_queries=5)
"""Every setting keeps the budget."""
BEAM_WIDTH = 8
EVALUATION = EvaluationConfig(
    max_queries=10,
    beam_width=BEAM_WIDTH,
    bootstrap_samples=100,
    recall_candidates=12,
    ranker_trees=5,
    latency_queries=5,
)


def make_bundle(models: dict[str, Path], setting: PruningSetting, root: Path) -> tuple[Path, dict[str, float]]:
    """A bundle with this setting, and the metrics of its evaluation."""
    start_artifact(root / "pruning")
    write_json(root / "pruning" / "pruning.json", {"chosen": setting.model_dump()})
    generator = open_artifact(models["generator_sft"])
    parts = models | {"pruning": finish_artifact(root / "pruning", "pruning", parents={"generator": generator}).path}
    report = evaluate(**parts, out=root / "evaluation", config=EVALUATION, seed=7)
    parts.pop("pairs")
    publish(**parts, evaluation=root / "evaluation", out=root / "bundle", config=PublishingConfig(), seed=7)
    return root / "bundle", report.metrics
