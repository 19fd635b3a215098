"""Which tokens are kept by attention mass, and what becomes of the others."""

from __future__ import annotations

import torch

from onevision.attention_mass import keep_by_mass, merge_dropped


def test_the_kept_set_is_the_smallest_that_holds_the_mass() -> None:
    mass = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]])
    keep = keep_by_mass(mass, 0.75)
    assert keep.tolist() == [[True, False, True, False], [True, True, True, False]]
    bounded = keep_by_mass(mass, 0.1, fewest=2, most=2)
    assert bounded.sum(1).tolist() == [2, 2]


def test_what_is_dropped_is_merged_by_mass() -> None:
    tokens = torch.arange(8.0).view(1, 4, 2)
    mass = torch.tensor([[0.6, 0.1, 0.0, 0.3]])
    keep = torch.tensor([[True, False, True, False]])
    merged, mask = merge_dropped(tokens, mass, keep)
    torch.testing.assert_close(
        merged[0], torch.stack([tokens[0, 0], tokens[0, 2], (tokens[0, 1] + 3 * tokens[0, 3]) / 4])
    )
    assert mask.tolist() == [[True, True, True]]
    _, mask = merge_dropped(tokens, mass, torch.ones(1, 4, dtype=torch.bool))
    assert mask.tolist() == [[True] * 4 + [False]]


def test_padding_is_neither_kept_nor_merged() -> None:
    mass = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    there = mass > 0
    keep = keep_by_mass(mass, 0.5) & there
    assert keep.tolist() == [[True, False, False, False], [False] * 4]
    tokens = torch.arange(16.0).view(2, 4, 2).masked_fill(~there[..., None], torch.nan)
    merged, mask = merge_dropped(tokens, mass, keep, there)
    torch.testing.assert_close(merged[0, 1], (3 * tokens[0, 1] + tokens[0, 2]) / 4)
    assert mask.tolist() == [[True, True], [False, False]]
    _, mask = merge_dropped(tokens, mass, there, there)
    assert mask[:, -1].tolist() == [False, False]
