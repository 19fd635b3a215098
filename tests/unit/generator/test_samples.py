"""What is drawn for training: all pictures that may be trained on, every new item among them, and mixed views."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from support.generators import make_catalogue, make_generator, make_queries
from support.models import make_models

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.generator.modelling import Generator
from onevision.generator.prompts import PromptBuilder
from onevision.generator.samples import Samples, picture_samples
from onevision.semantic_ids.catalogue import Catalogue

CATALOGUE, QUANTIZER = make_catalogue()


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pictures(models: dict[str, Path]) -> tuple[Samples, Catalogue]:
    catalogue = Catalogue.open(models["semantic_ids"])
    builder = PromptBuilder(Generator.from_pretrained(models["generator_sft"]).config, catalogue)
    return picture_samples(models["encoder"], builder, catalogue), catalogue


@pytest.fixture(scope="module")
def allowed(models: dict[str, Path], pictures: tuple[Samples, Catalogue]) -> pd.DataFrame:
    """Pictures that may be drawn from, in the order of the encoder's table."""
    images = pq.read_table(models["encoder"] / "images.parquet").to_pandas()
    return images[images["split"].isin(["train", "catalogue_cold"]) & images["item_id"].isin(pictures[1].item_ids)]


def test_views_of_new_items_are_replayed_and_held_out_photos_are_not(
    pictures: tuple[Samples, Catalogue], allowed: pd.DataFrame, models: dict[str, Path]
) -> None:
    samples, catalogue = pictures
    drawn = Counter(catalogue.item_ids[item] for item in samples.item)
    assert drawn == Counter(allowed["item_id"])
    cold = set(allowed.loc[allowed["split"] == "catalogue_cold", "item_id"])
    assert cold
    assert cold <= set(drawn)
    embedding = load_file(models["encoder"] / "embeddings.safetensors")["embedding"][allowed.index]
    np.testing.assert_array_equal(samples.prompts.embedding.numpy(), embedding)


def test_a_shoppers_photo_is_asked_for_the_id_that_catalogue_views_gave_its_product(
    pictures: tuple[Samples, Catalogue], allowed: pd.DataFrame, models: dict[str, Path]
) -> None:
    samples, catalogue = pictures
    assert [catalogue.item_ids[item] for item in samples.item] == allowed["item_id"].tolist()
    by_shopper = ~allowed["view"].isin(CATALOGUE_VIEWS).to_numpy()
    assert 0 < by_shopper.sum() < len(by_shopper)
    embedding = load_file(models["encoder"] / "embeddings.safetensors")["embedding"]
    shown = {tuple(row) for row in embedding[allowed.index[by_shopper]]}
    assert not any(tuple(view) in shown for view in catalogue.view_embedding)


def test_a_shoppers_picture_is_mixed_with_a_catalogue_picture_of_its_own_product(
    pictures: tuple[Samples, Catalogue], allowed: pd.DataFrame, models: dict[str, Path]
) -> None:
    samples, _ = pictures
    owner, view = allowed["item_id"].to_numpy(), allowed["view"].to_numpy()
    by_shopper = ~np.isin(view, CATALOGUE_VIEWS)
    assert by_shopper.any()
    assert (samples.partner[~by_shopper] == -1).all()
    partner = samples.partner[by_shopper]
    assert (owner[partner] == owner[by_shopper]).all()
    assert np.isin(view[partner], CATALOGUE_VIEWS).all()


def paired() -> Samples:
    """Eight pictures; the first four have partners among the others."""
    queries = make_queries(CATALOGUE, 8)
    builder = PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE)
    prompts = builder.pictures(queries.embedding, queries.category, queries.tokens)
    partner = np.array([4, 5, 6, 7, -1, -1, -1, -1])
    return Samples(prompts, np.arange(8), np.arange(8), np.ones(8, np.float32), partner)


def test_half_of_the_pictures_with_a_partner_lie_between_the_two() -> None:
    samples = paired()
    vector = samples.prompts.embedding
    prompt, item, _ = samples.draw(2000, 2.0, np.random.default_rng(0))
    moved = (prompt.embedding - vector[item]).norm(dim=1) > 1e-4
    has_partner = item < 4
    assert not moved[~has_partner].any()
    assert moved[has_partner].float().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(prompt.embedding.norm(dim=1), torch.ones(2000))
    own, other = vector[item[moved]], vector[item[moved] + 4]
    between = prompt.embedding[moved]
    for end in (own, other):
        assert ((between * end).sum(1) >= (own * other).sum(1) - 1e-5).all()
    share = torch.linalg.lstsq(torch.stack([own, other], 2), between[..., None]).solution[..., 0]
    mean = (share[:, 0] / share.sum(1)).mean().item()
    assert mean == pytest.approx(0.5, abs=0.05)  # of Beta(2, 2)


def test_without_view_mixing_pictures_are_as_they_are() -> None:
    samples = paired()
    prompt, item, _ = samples.draw(100, 0.0, np.random.default_rng(0))
    assert torch.equal(prompt.embedding, samples.prompts.embedding[item])
    assert len(samples.prompts.embedding) == 8
