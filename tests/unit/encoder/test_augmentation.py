"""Moves of training pictures: what they do to a picture, and how far they go."""

from __future__ import annotations

import numpy as np
import torch

from onevision.encoder.augmentation import SCALE, SHIFT, TURN, draw_moves, move, second_look

IDENTITY = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])


def picture(size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_the_identity_moves_nothing() -> None:
    moved = move(picture(), IDENTITY)
    assert moved.dtype == torch.uint8
    assert torch.equal(moved, picture())


def test_mirrored_is_read_from_right_to_left() -> None:
    mirror = IDENTITY * torch.tensor([[-1.0], [1.0]])
    assert torch.equal(move(picture(), mirror), picture().flip(2))


def test_a_shift_repeats_the_edge() -> None:
    # a quarter of the side to the right: 4 of 16 pixels
    shift = IDENTITY.clone()
    shift[0, 0, 2] = 2 * 0.25
    moved = move(picture(), shift)
    assert torch.equal(moved[:, :, :12], picture()[:, :, 4:])
    assert torch.equal(moved[:, :, 12:], picture()[:, :, -1:].expand(-1, -1, 4, -1))


def test_moves_stay_within_their_limits_and_reach_near_them() -> None:
    moves = draw_moves(4000, np.random.default_rng(0)).astype(np.float64)
    assert moves.shape == (4000, 2, 3)
    scale = np.sqrt(np.abs(np.linalg.det(moves[:, :, :2])))
    angle = np.arctan2(-moves[:, 0, 1], moves[:, 1, 1])
    mirrored = np.linalg.det(moves[:, :, :2]) < 0
    for drawn, limit in ((np.log(scale), np.log(SCALE)), (angle, TURN), (moves[:, :, 2], 2 * SHIFT)):
        assert np.abs(drawn).max() <= limit + 1e-6
        assert drawn.max() > 0.95 * limit
        assert drawn.min() < -0.95 * limit
    assert 0.45 < mirrored.mean() < 0.55


def test_a_seed_draws_the_same_moves() -> None:
    assert np.array_equal(draw_moves(5, np.random.default_rng(1)), draw_moves(5, np.random.default_rng(1)))


def test_the_second_look_mirrors_and_cuts_a_sixteenth_off_each_side() -> None:
    wide = torch.arange(64, dtype=torch.uint8).mul(2).repeat(64, 1)[None, :, :, None].repeat(1, 1, 1, 3)
    seen = second_look(wide)
    assert seen.shape == wide.shape
    row = seen[0, 32, :, 0].float()
    assert (row.diff() <= 0).all()  # mirrored
    assert row[0].item() == 2 * 59  # columns 4 to 59 of 64 are left
    assert row[-1].item() == 2 * 4
