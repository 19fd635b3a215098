"""Ways to do less work, behind one interface: each proposes settings to measure, on top of one that has been chosen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.config import PruningConfig
from onevision.pruning.photos import ONE_LOOK

Strategy = Callable[[PruningConfig, PruningSetting], list[tuple[str, PruningSetting]]]
"""Recipe section and the setting to begin with -> names and settings, none of them twice."""


def early_opening(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """A query stops writing codes when its branches hold few items."""
    return [(f"open below {n}", base.model_copy(update={"open_below": n})) for n in sorted(config.open_below)]


def score_margin(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """Beams far behind their query's best leave the batch."""
    return [(f"margin {m:g}", base.model_copy(update={"margin": m})) for m in sorted(config.margins)]


def margin_and_opening(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """Both: fewer beams hold fewer items, so that branches open sooner."""
    return [
        (f"{first}, {second}", setting)
        for first, opened in early_opening(config, base)
        for second, setting in score_margin(config, opened)
    ]


def history_tokens(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """The prompt holds the newest items of each history only; the choice model still reads them all."""
    return [(f"history {n}", base.model_copy(update={"history": n})) for n in sorted(config.history)]


def attention_mass(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """Image tokens that are not looked at are merged into one."""
    return _kept("mass", config.masses, config, base)


def history_mass(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """So are tokens of the histories."""
    return _kept("history mass", config.history_masses, config, base.model_copy(update={"prunable": "history"}))


def shared_mass(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """So are tokens of both, whichever are looked at less."""
    return _kept("shared mass", config.shared_masses, config, base.model_copy(update={"prunable": "both"}))


def decoder_mass(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """Image tokens that the first code is written without are merged into one for the codes after it."""
    return _kept("decoder mass", config.decoder_masses, config, base, share="decoder_mass")


def _kept(
    name: str, masses: tuple[float, ...], config: PruningConfig, base: PruningSetting, share: str = "mass"
) -> list[tuple[str, PruningSetting]]:
    changes = {"min_tokens": config.min_tokens}
    return [(f"{name} {m:g}", base.model_copy(update={share: m} | changes)) for m in sorted(masses)]


def fewer_looks(similarity: NDArray[np.float32]) -> Strategy:
    """Photos are looked at once: all of them, or those whose first look is much like an item near it.

    Args:
        similarity: (Q,) of the calibration photos' first looks (`pruning.nearby`); the recipe asks for shares of them.
    """

    def strategy(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
        below = {"one look at all": ONE_LOOK.second_look_below}
        below |= {f"second look at {n:.0%}": float(np.quantile(similarity, n)) for n in sorted(config.second_looks)}
        return [(name, base.model_copy(update={"second_look_below": value})) for name, value in below.items()]

    return strategy


def tower_patches(config: PruningConfig, base: PruningSetting) -> list[tuple[str, PruningSetting]]:
    """Patches that are not looked at leave the image tower, merged into one."""
    return [
        (f"patches {m:g} after {depth:.0%}", base.model_copy(update={"tower_mass": m, "tower_depth": depth}))
        for depth in sorted(config.tower_depths)
        for m in sorted(config.tower_masses)
    ]


BEAM_STRATEGIES: dict[str, Strategy] = {
    "early opening": early_opening,
    "score margin": score_margin,
    "margin and opening": margin_and_opening,
}
"""What beams cost is most of it: these are measured first."""
MASS_STRATEGIES: dict[str, Strategy] = {
    "attention mass": attention_mass,
    "history mass": history_mass,
    "shared mass": shared_mass,
    "decoder mass": decoder_mass,
}
PROMPT_STRATEGIES: dict[str, Strategy] = {"history tokens": history_tokens} | MASS_STRATEGIES
"""Measured on top of the cheapest of those within the budget, side by side; those by attention mass with controls."""
TOWER_STRATEGIES: dict[str, Strategy] = {"tower patches": tower_patches}
"""Measured on top of what was found so far, for an encoder whose tower patches can leave."""
