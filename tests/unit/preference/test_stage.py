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
from onevision.preference.levels import gains_of
from onevision.preference.lists import PreferenceLists
from onevision.preference.reference import Reference
from onevision.preference.reranking import Fitted, fit_on_both
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
    report = stage.run(**inputs, out=tmp_path, config=PreferenceConfig(beam_width=8, rerank_epochs=0), seed=1)

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
    assert open_artifact(tmp_path, "generator").extra == {"kept": kept, "reranked": False}
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


@pytest.mark.parametrize("wins", [True, False])
def test_a_reranker_is_kept_only_if_it_wins_on_searches_it_did_not_see(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wins: bool
) -> None:
    """The reranker is one; what it is judged by are the cross-fitted scores."""
    catalogue = Catalogue.open(models["semantic_ids"])
    fitted: list[Fitted] = []

    def fit(
        choice: ChoiceModel, train: tuple[QuerySet, Slates], validation: tuple[QuerySet, Slates], *rest: Any
    ) -> Fitted:
        queries, slates = validation
        wanted = torch.from_numpy(gains_of(queries, slates.items.numpy(), catalogue))
        scores = slates.scores(choice) + (100 if wins else -100) * wanted
        fitted.append(Fitted(fit_on_both(choice, train, validation, *rest).reranker, scores))
        return fitted[-1]

    monkeypatch.setattr(stage, "fit_on_both", fit)
    monkeypatch.setattr(stage, "FEWEST_SEARCHES", 2)
    names = ("pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_sft"]}
    config = PreferenceConfig(beam_width=8, steps=0, tolerance=1, similarity_tolerance=1)
    report = stage.run(**inputs, out=tmp_path, config=config, seed=1)

    assert open_artifact(tmp_path, "generator").extra == {"kept": False, "reranked": wins}
    assert report.metrics["reranked"] == wins
    assert (NO_GAIN in report.warnings) is not wins
    stored = ChoiceModel.from_pretrained(tmp_path, catalogue).reranker
    assert (stored is not None) is wins
    if stored is not None:
        torch.testing.assert_close(stored.state_dict(), fitted[0].reranker.state_dict())
    rows = {row[0]: row for row in table(report, "Validation days")}
    assert list(rows) == ["parent", "without reranker", "with reranker"]
    assert rows["without reranker"][1:] == rows["parent"][1:]
    assert (rows["with reranker"][2] > rows["parent"][2]) is wins
    assert report.metrics["validation_reranked_order_ndcg@10"] == pytest.approx(rows["with reranker"][2], abs=1e-4)

    again = stage.run(**inputs | {"generator": tmp_path}, out=tmp_path / "again", config=config, seed=1)
    assert again.metrics["validation_parent_order_ndcg@10"] == report.metrics["validation_parent_order_ndcg@10"]


def test_few_searches_make_no_reranker(models: dict[str, Path], tmp_path: Path) -> None:
    names = ("pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_sft"]}
    report = stage.run(**inputs, out=tmp_path, config=PreferenceConfig(beam_width=8, steps=0), seed=1)
    assert [row[0] for row in table(report, "Validation days")] == ["parent"]
    assert ChoiceModel.from_pretrained(tmp_path, Catalogue.open(models["semantic_ids"])).reranker is None


def table(report: StageReport, title: str) -> list[list[Any]]:
    return next(table.rows for table in report.tables if table.title == title)
