"""What a search may leave out: further looks at a clear photo, patches and tokens that are not looked at, and codes
that decide nothing any more.

Patches inside the image tower (`encoder.patch_pruning`), tokens of the prompt after the first layer of the generator's
encoder, and once more after the first code that its decoder writes, are pruned by attention mass: keep what is looked
at, merge the rest into one. Beams stop writing where their branches hold few items already (`decoding.beam`).
"""

from __future__ import annotations

from pydantic import Field

from onevision.attention_mass import KeepRule, keep_by_mass
from onevision.config import Section
from onevision.encoder.patch_pruning import PatchRule
from onevision.generator.memory import Prunable


class PruningSetting(Section):
    """What is served with less work.

    `prunable`: tokens of the prompt that may leave; `mass`: share of the task token's attention on these that must be
    kept, 1 for all tokens; `decoder_mass`: the same of the attention that writes the first code, for the codes after
    it; `min_tokens`, `max_tokens`: bounds of their count; `open_below`: a query stops writing when the branches of its
    beams hold at most so many semantic IDs, None for never; `margin`: beams that are behind their query's best by more
    nats are given up, None for none; `history`: newest items of each history that the prompt holds, None for as many as
    the model reads; `tower_mass`: share of the attention on patches that must be kept inside the image tower, 1 for all
    patches; `tower_depth`: share of its layers that all patches go through; `second_look_below`: photos are looked at
    further if their first look is less alike to the nearest item of its first code (`pruning.nearby`), None for always.
    """

    prunable: Prunable = "image"
    mass: float = Field(1.0, gt=0, le=1)
    decoder_mass: float = Field(1.0, gt=0, le=1)
    min_tokens: int = Field(2, ge=1)
    max_tokens: int = Field(64, ge=1)
    open_below: int | None = Field(None, ge=1)
    margin: float | None = Field(None, gt=0)
    history: int | None = Field(None, ge=1)
    tower_mass: float = Field(1.0, gt=0, le=1)
    tower_depth: float = Field(1 / 3, gt=0, lt=1)
    second_look_below: float | None = Field(None, ge=-1, le=1)

    @property
    def keep(self) -> KeepRule | None:
        """The rule for tokens of the prompt; None where all are read."""
        return self._keep(self.mass)

    @property
    def keep_later(self) -> KeepRule | None:
        """The rule for them after the first code; None where all stay."""
        return self._keep(self.decoder_mass)

    def _keep(self, share: float) -> KeepRule | None:
        if share == 1:
            return None
        return lambda mass: keep_by_mass(mass, share, self.min_tokens, self.max_tokens)

    @property
    def prunes_history(self) -> bool:
        """Whether tokens of the histories leave by their mass."""
        return self.mass < 1 and self.prunable != "image"

    @property
    def patches(self) -> PatchRule | None:
        """The rule for patches inside the image tower; None where all go through it."""
        if self.tower_mass == 1:
            return None
        return PatchRule(lambda mass: keep_by_mass(mass, self.tower_mass), self.tower_depth)

    @property
    def prunes_tower(self) -> bool:
        """Whether photos are embedded with less work than the catalogue's pictures."""
        return self.tower_mass < 1 or self.second_look_below is not None
