"""The stage with real artifacts: its gate asks once more as it is served, and its report says what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import make_models

from onevision.artifacts import open_artifact, read_json
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.preference import stage
from onevision.preference.checks import Validation, ValidationDays
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import PreferenceLists
from onevision.preference.reference import Reference
from onevision.preference.slates import Slates
from onevision.preference.training import Monitor
from onevision.report import StageReport
from onevision.semantic_ids.catalogue import Catalogue

PARENT, BETTER, WORSE = (Validation(0.5, ndcg, 0.8, 0.3) for ndcg in (0.4, 0.45, 0.35))
NO_GAIN = "no gain on validation days: the parent goes on unchanged"


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("served", "kept"), [(BETTER, True), (WORSE, False), (None, False)])
def test_a_checkpoint_is_kept_only_if_it_wins_as_it_would_be_served(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    served: Validation | None,
    kept: bool,
) -> None:
    lists: list[PreferenceLists] = []
    taken: list[tuple[Slates, torch.Tensor]] = []

    def align(
        choice: ChoiceModel, of: PreferenceLists, slates: Slates, reference: torch.Tensor, *_: Any
    ) -> tuple[Monitor, dict[str, torch.Tensor] | None]:
        lists.append(of)
        taken.append((slates, reference))
        checks = [PARENT] if served is None else [PARENT, BETTER]
        best = {name: value + 1.0 if name == "bias" else value for name, value in choice.state_dict().items()}
        return Monitor(checks=checks), None if served is None else best

    asked = iter([PARENT, served])
    monkeypatch.setattr(stage, "align", align)
    monkeypatch.setattr(ValidationDays, "ask", lambda self, choice: next(asked))
    names = ("pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_sft"]}
    report = stage.run(**inputs, out=tmp_path, config=PreferenceConfig(beam_width=8), seed=1)

    catalogue = Catalogue.open(models["semantic_ids"])
    before, after = (ChoiceModel.from_pretrained(path, catalogue) for path in (models["generator_sft"], tmp_path))
    torch.testing.assert_close(after.bias, before.bias + 1 if kept else before.bias)
    stored, (slates, reference) = Reference.open(tmp_path), taken[0]
    torch.testing.assert_close(reference, slates.scores(before), atol=1e-5, rtol=0)
    for array, value in ((stored.items, slates.items), (stored.sid_log_p, slates.log_p), (stored.log_p, reference)):
        np.testing.assert_array_equal(array, value.numpy())
    assert (
        stored.query_id
        == QuerySet.load(
            models["pairs"], models["encoder"], models["features"], split="train", clicked_only=False
        ).query_id
    )
    assert open_artifact(tmp_path, "generator").extra["kept"] is kept
    assert read_json(tmp_path / "history.json")["kept"] is kept
    assert report.metrics["kept"] == kept
    assert (NO_GAIN in report.warnings) is not kept
    rows = [row[0] for row in table(report, "Validation days")]
    assert rows == ["parent", *([] if served is None else ["check 1", "parent, served", "best, served"])]
    preview = table(report, "Preference lists")
    assert len(preview) == min(5, len(lists[0])) > 0
    for n, (_, winner, losers, guarded) in enumerate(preview):
        assert winner == f"{catalogue.item_ids[lists[0].winner[n]]} ({lists[0].winner_reward[n]:g})"
        there = lists[0].losers[n] >= 0
        assert losers.count("(") == there.sum()
        assert f"{catalogue.item_ids[lists[0].losers[n][0]]} ({lists[0].loser_reward[n][0]:g})" in losers
        assert guarded == ", ".join(catalogue.item_ids[item] for item in lists[0].guarded[n] if item >= 0)


def table(report: StageReport, title: str) -> list[list[Any]]:
    return next(table.rows for table in report.tables if table.title == title)
