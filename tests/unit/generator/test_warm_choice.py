"""Warm start of the choice model: the parent's tastes are found again in another catalogue."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.generators import make_catalogue, make_generator, make_queries, thumbnails

from onevision.decoding.ranker import GeneratorRanker
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_fitting import fit_choice
from onevision.generator.choice_items import item_table
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.warm_choice import open_parent_choice

CATALOGUE, QUANTIZER = make_catalogue()
ITEMS = len(CATALOGUE.item_ids)
CATEGORY = np.arange(ITEMS) % 3
THUMBNAILS = thumbnails(CATALOGUE)
TRAITS = np.random.default_rng(3).normal(size=(ITEMS, 5)).astype(np.float32)
TASTE_OF = np.random.default_rng(4).normal(size=(2, 5)).astype(np.float32)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    items = item_table(CATALOGUE, make_queries(CATALOGUE), CATEGORY, THUMBNAILS)
    model = ChoiceModel(items, ["new", "old"], 2, 50).attach(CATALOGUE)
    torch.nn.init.normal_(model.weights)
    model.taste = torch.from_numpy(TRAITS @ TASTE_OF.T)
    model.guidance = 0.5
    model.save_pretrained(tmp_path)
    return tmp_path


def test_the_map_is_found_in_a_catalogue_that_lost_items_and_has_others(parent: Path) -> None:
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float32)  # principal directions turn from day to day
    ids = [f"new-{n}" if n < 4 else name for n, name in enumerate(CATALOGUE.item_ids)]
    order = np.argsort(ids)
    tonight = dataclasses.replace(CATALOGUE, item_ids=[ids[n] for n in order])
    found = open_parent_choice(parent, tonight, (TRAITS @ turn)[order])
    assert found is not None
    assert found.guidance == 0.5
    assert found.rank() == 2
    tastes = (TRAITS @ turn) @ found.taste_of.numpy().T
    np.testing.assert_allclose(tastes, TRAITS @ TASTE_OF.T, atol=1e-4)  # the new ones' too


def test_a_parent_of_a_few_of_the_items_is_none(parent: Path) -> None:
    strangers = [name if n < 9 else f"new-{n}" for n, name in enumerate(CATALOGUE.item_ids)]
    assert open_parent_choice(parent, dataclasses.replace(CATALOGUE, item_ids=strangers), TRAITS) is None


def test_it_goes_on_from_the_parents_tastes_and_guidance(parent: Path) -> None:
    known = open_parent_choice(parent, CATALOGUE, TRAITS)
    config = GeneratorTrainingConfig(choice_candidates=20, warm_choice_epochs=2, choice_learning_rate=1e-6)
    train, later = make_queries(CATALOGUE, 60, 1), make_queries(CATALOGUE, 40, 2)
    ranker = GeneratorRanker(make_generator(QUANTIZER), CATALOGUE)
    fitted = fit_choice(
        ranker, item_table(CATALOGUE, train, CATEGORY, THUMBNAILS), TRAITS, train, later, config, 3, known
    )
    assert len(fitted.ndcg) == 3  # the parent's own, and two epochs
    torch.testing.assert_close(fitted.model.taste, torch.from_numpy(TRAITS @ TASTE_OF.T), rtol=1e-3, atol=1e-3)
    assert fitted.model.guidance == 0.5
