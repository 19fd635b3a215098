"""Recipes: defaults, file, overrides in that order; a mistake names the key and the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from onevision.errors import RecipeError
from onevision.recipe import Recipe, load_recipe, recipe_names, section_hash


def test_every_packaged_recipe_loads() -> None:
    assert {"smoke", "quickstart", "grocery"} <= set(recipe_names())
    for name in recipe_names():
        load_recipe(name)


def test_file_overrides_defaults_and_overrides_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 3\nencoder: {steps: 11, width: 16}\n")
    recipe = load_recipe(str(file), ["encoder.steps=12", "seed=4"])
    assert (recipe.seed, recipe.encoder.steps, recipe.encoder.width) == (4, 12, 16)
    assert recipe.encoder.embedding_dim == Recipe().encoder.embedding_dim


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(str(tmp_path / "empty.yaml")) == Recipe()


def test_override_values_are_yaml() -> None:
    recipe = load_recipe("smoke", ["quantization.codebook_sizes=[8, 4]", "quantization.view_levels=1"])
    assert recipe.quantization.codebook_sizes == (8, 4)
    assert recipe.quantization.view_levels == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.stepz=3", r"encoder\.stepz: unknown key; did you mean 'steps'\?"),
        ("seed_items=3", r"seed_items: unknown key"),
        ("items_per_batch=3", r"items_per_batch: unknown key; did you mean encoder\.items_per_batch\?"),
        ("quantization.codebook_sizes=32,16,8", r"a list is wanted, such as quantization\.codebook_sizes=\[1, 2\]"),
        ("encodr.steps=3", r"encodr: unknown key; did you mean 'encoder'\?"),
        ("encoder.steps=many", r"encoder\.steps: .*given: 'many'"),
        ("encoder.steps=0", r"encoder\.steps: .*given: 0"),
        ("encoder.steps", "write it as section.key=value"),
        ("=3", "write it as section.key=value"),
        ("seed.x=3", "'seed' is a value, not a section"),
        ("encoder=3", "encoder: "),
        ("encoder.steps=[", "not valid YAML"),
    ],
)
def test_wrong_override_is_explained(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 7")
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(tmp_path / "mine.yaml"), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1", "mapping of sections"), ("a: [", "not valid YAML"), ("sead: 1", "did you mean 'seed'")],
)
def test_wrong_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        load_recipe("quickstrat")
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe("missing.yaml")


def test_hash_follows_every_value() -> None:
    base = load_recipe("smoke")
    assert load_recipe("smoke").hash() == base.hash()
    changed = load_recipe("smoke", ["encoder.circle_weight=0.123"])
    assert changed.hash() != base.hash()
    assert section_hash(changed.encoder) != section_hash(base.encoder)
    assert section_hash(changed.pairing) == section_hash(base.pairing)
