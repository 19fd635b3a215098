"""Stage P between category and semantic ID: what is shown, what counts, and how often it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.generators import CATEGORIES, TOKEN_DIM, TOKENS, make_catalogue, make_generator, make_trainer
from support.models import make_models

from onevision.errors import OneVisionError
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.prompts import PromptBuilder
from onevision.generator.samples import Samples, category_tasks
from onevision.generator.stage import run
from onevision.generator.training import GeneratorTrainer, sid_loss

CATALOGUE, QUANTIZER = make_catalogue()
CATEGORY = np.arange(len(CATALOGUE.item_ids)) % CATEGORIES
CATEGORY[:5] = -1


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


def tasks(to_id: float, to_category: float, category: np.ndarray = CATEGORY) -> list[tuple[Samples, float]]:
    builder = PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE)
    config = GeneratorTrainingConfig(category_to_id_share=to_id, id_to_category_share=to_category)
    return category_tasks(CATALOGUE, category, QUANTIZER, builder, (TOKENS, TOKEN_DIM), config)


def trainer_with_tasks(to_id: float, to_category: float, **changes: object) -> GeneratorTrainer:
    trainer = make_trainer([], **changes)
    trainer.tasks = tasks(to_id, to_category)
    trainer.item_category = torch.from_numpy(CATEGORY)
    return trainer


def test_a_prompt_of_a_category_shows_nothing_else_of_its_item() -> None:
    samples = tasks(0.1, 0.1)[0][0]
    assert samples.item.tolist() == list(range(5, len(CATALOGUE.item_ids)))
    shown = samples.prompts
    assert shown.category.argmax(1).tolist() == CATEGORY[samples.item].tolist()
    assert (shown.category.sum(1) == 1).all()
    assert not any(hidden.any() for hidden in (shown.embedding, shown.tokens, shown.segment))
    assert not shown.lengths().any()
    assert not shown.shows_product().any()
    model = make_generator(QUANTIZER)
    read = model.read(shown).category_logits
    for category in range(CATEGORIES):
        rows = torch.from_numpy(CATEGORY[samples.item] == category)
        torch.testing.assert_close(read[rows], read[rows][:1].expand(int(rows.sum()), -1))


def test_a_prompt_of_a_semantic_id_shows_what_its_codes_stand_for_and_nothing_else() -> None:
    samples = tasks(0.1, 0.1)[1][0]
    shown = samples.prompts
    assert shown.shows_product().all()
    np.testing.assert_array_equal(shown.embedding.numpy(), QUANTIZER.decode(CATALOGUE.codes[samples.item]))
    assert not any(hidden.any() for hidden in (shown.category, shown.tokens, shown.segment))
    assert not shown.lengths().any()
    assert not samples.weight.any()  # no semantic ID is asked for


def test_a_shop_whose_categories_nobody_knows_has_no_such_tasks() -> None:
    unknown = np.full(len(CATEGORY), -1)
    assert tasks(0.0, 0.0, unknown) == []
    with pytest.raises(OneVisionError, match=r"generator\.id_to_category_share must be 0"):
        tasks(0.0, 0.1, unknown)


def test_tasks_have_their_shares_of_stage_p_and_of_the_replay() -> None:
    for stage, size in (("P", 40), ("S1", 20), ("S2", 20)):
        trainer = trainer_with_tasks(0.25, 0.1, batch_size=40, replay_share=0.5)
        prompt, item, weight = trainer._batch(stage)
        assert len(prompt) == len(item) == len(weight) == 40
        assert int((~prompt.shows_product()).sum()) == 0.25 * size
        assert int((weight == 0).sum()) == 0.1 * size


def test_each_task_is_asked_for_what_is_not_shown() -> None:
    trainer = trainer_with_tasks(0.25, 0.25, dropout=0.0)
    prompt, item, weight = batch = trainer._batch("P")
    trainer._batch = lambda stage: batch  # type: ignore[method-assign,assignment]
    pictures, of_category, of_id = slice(0, 4), slice(4, 6), slice(6, 8)
    with torch.no_grad():
        log_p, memory = trainer.model(prompt, trainer.item_sids[item])
        asked = torch.cat([torch.arange(8)[pictures], torch.arange(8)[of_category]])
        codes = sid_loss([level[asked] for level in log_p], trainer.item_sids[item][asked], weight[asked])
        asked = torch.cat([torch.arange(8)[pictures], torch.arange(8)[of_id]])
        category = trainer.item_category[item][asked]
        guess = torch.nn.functional.cross_entropy(memory.category_logits[asked], category, ignore_index=-1)
    assert trainer._step("P", 0.0).item() == pytest.approx((codes + 0.1 * guess).item(), rel=1e-4)


def test_a_part_of_a_batch_that_no_semantic_id_is_asked_of_is_no_division_by_zero() -> None:
    losses = []
    for parts in (1, 4):
        trainer = trainer_with_tasks(0.0, 0.5, dropout=0.0, micro_batches=parts)
        batch = trainer._batch("P")
        assert not batch[2][6:].any()
        trainer._batch = lambda stage, batch=batch: batch  # type: ignore[method-assign,misc]
        losses.append(trainer._step("P", 0.0).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_both_ways_are_learnt() -> None:
    trainer = trainer_with_tasks(0.5, 0.5, batch_size=32, dropout=0.0, category_weight=1.0, steps_visual=60)
    to_id, to_category = (task for task, _ in trainer.tasks)

    def figures() -> tuple[float, float]:
        trainer.model.eval()
        with torch.no_grad():
            log_p = trainer.model(to_id.prompts, trainer.item_sids[to_id.item])[0]
            guess = trainer.model.read(to_category.prompts).category_logits.argmax(1)
        likely = -sid_loss(log_p, trainer.item_sids[to_id.item], torch.ones(len(to_id)))
        return likely.item(), (guess == trainer.item_category[to_category.item]).float().mean().item()

    before = figures()
    for _ in range(60):
        trainer._step("P", 0.0)
    after = figures()
    assert after[0] > before[0] + 1
    assert after[1] > max(before[1], 0.5) + 0.2


@pytest.mark.parametrize("patch_tokens", [True, False])
def test_a_training_and_its_refresh_mix_them_in_as_the_recipe_says(
    patch_tokens: bool, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {n: models[n] for n in ("snapshot", "pairs", "encoder", "quantizer", "semantic_ids", "features")}
    drawn = []
    draw = GeneratorTrainer._batch

    def batch(self: GeneratorTrainer, stage: str) -> object:
        drawn.append(draw(self, stage))
        return drawn[-1]

    monkeypatch.setattr(GeneratorTrainer, "_batch", batch)
    config = GeneratorTrainingConfig(
        d_model=16, feedforward=16, batch_size=8, check_every=1, choice_epochs=1, guidance=(0.0,), replay_share=0.5,
        steps_visual=1, steps_cooccurrence=0, steps_personal=1, patch_tokens=patch_tokens,
        category_to_id_share=0.25, id_to_category_share=0.5,
    )  # fmt: skip
    run(**inputs, out=tmp_path / "sft", config=config, seed=1)
    run(**inputs, out=tmp_path / "warm", config=config, seed=1, parent=tmp_path / "sft")
    for (prompt, _, weight), size in zip(drawn, (8, 4, 4), strict=False):
        assert int((~prompt.shows_product()).sum()) == size / 4
        assert int((weight == 0).sum()) == size / 2
    assert len(drawn) >= 3
