"""Recipes: every hyper-parameter of a run, as one typed object.

A recipe is the defaults of the sections, then a YAML file, then `section.key=value` overrides, in that order.
The packaged ones are in `onevision/recipes/`; a path to a YAML file works as well.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from onevision.config import Section
from onevision.data.config import SnapshotConfig
from onevision.encoder.config import EncoderConfig
from onevision.errors import RecipeError
from onevision.evaluation.config import EvaluationConfig
from onevision.features.config import FeaturesConfig
from onevision.generator.config import GeneratorTrainingConfig
from onevision.pairing.config import PairingConfig
from onevision.preference.config import PreferenceConfig
from onevision.pruning.config import PruningConfig
from onevision.publishing.config import PublishingConfig
from onevision.quantization.config import QuantizationConfig
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.validation.config import ValidationConfig

SectionT = TypeVar("SectionT", bound=Section)


class Recipe(Section):
    """All sections of a recipe; `seed` is the only source of randomness."""

    seed: int = Field(7, ge=0)
    snapshot: SnapshotConfig = SnapshotConfig()
    validation: ValidationConfig = ValidationConfig()
    pairing: PairingConfig = PairingConfig()
    encoder: EncoderConfig = EncoderConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    semantic_ids: SemanticIdsConfig = SemanticIdsConfig()
    features: FeaturesConfig = FeaturesConfig()
    generator: GeneratorTrainingConfig = GeneratorTrainingConfig()
    preference: PreferenceConfig = PreferenceConfig()
    pruning: PruningConfig = PruningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    publishing: PublishingConfig = PublishingConfig()

    def hash(self) -> str:
        """Short hash of every value of the recipe."""
        return section_hash(self)


def section_hash(section: Section) -> str:
    """Short hash of every value in a section."""
    text = json.dumps(section.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    folder = resources.files("onevision") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by packaged name or path, and apply `section.key=value` overrides (values are YAML).

    Raises:
        RecipeError: no such recipe, an unknown key (with the nearest right one), or a value out of range.
    """
    values = _read_yaml(name)
    for override in overrides:
        _apply_override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"recipe {name}:\n" + "\n".join(f"  {_explain(e)}" for e in error.errors())) from None


def section_of(kind: type[SectionT], overrides: Iterable[str]) -> SectionT:
    """A section by itself: its defaults and `key=value` overrides (values are YAML).

    Raises:
        RecipeError: an unknown key (with the nearest right one), or a value out of range.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        _apply_override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(e, kind) for e in error.errors())) from None


def _read_yaml(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.exists():
            raise RecipeError(f"{path}: no such recipe file")
        text = path.read_text()
    elif name in recipe_names():
        text = (resources.files("onevision") / "recipes" / f"{name}.yaml").read_text()
    else:
        raise RecipeError(
            f"no recipe {name!r}{_nearest(name, recipe_names())}; packaged recipes: {', '.join(recipe_names())}; "
            "a path to a .yaml file works as well"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML ({error})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{name}: a recipe is a mapping of sections, this is a {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"override {override!r}: write it as section.key=value, such as encoder.steps=200")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"override {override!r}: {section!r} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not valid YAML ({error})") from None


def _explain(error: Any, root: type[Section] = Recipe) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(path[-1], _keys_at(path[:-1], root)) or _in_a_section(key, root)}"
    if error["type"] == "tuple_type":
        return f"{key}: a list is wanted, such as {key}=[1, 2] (given: {error['input']!r})"
    return f"{key}: {error['msg']} (given: {error['input']!r})"


def _in_a_section(key: str, root: type[Section]) -> str:
    """Where a key is that was given without its section."""
    places = [f"{section}.{key}" for section in root.model_fields if key in _keys_at([section], root)]
    return f"; did you mean {' or '.join(places)}?" if places else ""


def _keys_at(path: list[str], section: type[Section]) -> list[str]:
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return []
        section = annotation
    return list(section.model_fields)


def _nearest(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
