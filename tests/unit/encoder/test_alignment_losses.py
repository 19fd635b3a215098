import math

import pytest
import torch
import torch.nn.functional as F

from onevision.encoder.circle import circle_loss
from onevision.encoder.infonce import info_nce


def embeddings(count: int, dim: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1).to(dtype)


def naive_info_nce(e: torch.Tensor, affinity: torch.Tensor, scale: float) -> float:
    losses = []
    for i in range(len(e)):
        others = [j for j in range(len(e)) if j != i and affinity[i, j] >= 0]
        total = sum(float(affinity[i, j]) for j in others)
        if total == 0:
            continue
        denominator = math.log(sum(math.exp(scale * float(e[i] @ e[j])) for j in others))
        losses.append(-sum(float(affinity[i, j]) / total * (scale * float(e[i] @ e[j]) - denominator) for j in others))
    return sum(losses) / len(losses)


def naive_circle(e: torch.Tensor, product: list[int], m: float, gamma: float) -> float:
    losses = []
    for i in range(len(e)):
        p = [float(e[i] @ e[j]) for j in range(len(e)) if j != i and product[i] == product[j]]
        n = [float(e[i] @ e[j]) for j in range(len(e)) if product[i] != product[j]]
        if p and n:
            positive = sum(math.exp(-gamma * max(0, 1 + m - s) * (s - (1 - m))) for s in p)
            negative = sum(math.exp(gamma * max(0, s + m) * (s - m)) for s in n)
            losses.append(math.log(1 + positive * negative) / gamma)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_info_nce_equals_a_loop_over_pairs(dtype: torch.dtype) -> None:
    e = embeddings(7, dtype=dtype)
    affinity = torch.zeros(7, 7)
    for a, b, w in [(0, 1, 1.0), (0, 2, 0.2), (3, 4, 1.0), (5, 0, -1.0)]:
        affinity[a, b] = affinity[b, a] = w
    got = info_nce(e, affinity, torch.tensor(5.0, dtype=dtype))
    assert got.item() == pytest.approx(naive_info_nce(e, affinity, 5.0), rel=1e-4)


def test_an_excluded_pair_is_neither_positive_nor_negative() -> None:
    e = embeddings(4)
    affinity = torch.zeros(4, 4)
    affinity[0, 1] = affinity[1, 0] = 1.0
    affinity[0, 2] = affinity[2, 0] = -1.0
    moved = e.clone()
    moved[2] = F.normalize(-e[2] + 0.3, dim=0)
    scale = torch.tensor(5.0)
    before, after = (info_nce(x[[0, 1, 2]], affinity[:3, :3], scale) for x in (e, moved))
    # Row 0 sees only row 1; row 1 still has row 2 as a negative.
    assert naive_info_nce(e[[0, 1, 2]], affinity[:3, :3], 5.0) == pytest.approx(before.item(), rel=1e-4)
    assert naive_info_nce(moved[[0, 1, 2]], affinity[:3, :3], 5.0) == pytest.approx(after.item(), rel=1e-4)


@pytest.mark.parametrize(("m", "gamma"), [(0.4, 80.0), (0.25, 16.0)])
def test_circle_loss_equals_a_loop_over_pairs(m: float, gamma: float) -> None:
    e = embeddings(9, seed=3).double()
    product = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4])
    same = product[:, None] == product[None]
    got = circle_loss(e, same & ~torch.eye(9, dtype=torch.bool), ~same, margin=m, gamma=gamma)
    assert got.item() == pytest.approx(naive_circle(e, product.tolist(), m, gamma), rel=1e-4)


def test_circle_loss_has_finite_gradients_at_its_optimum_and_far_from_it() -> None:
    for spread in (0.0, 1.0):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) * spread + torch.eye(6, 4)
        x.requires_grad_(True)
        product = torch.tensor([0, 0, 1, 1, 2, 2])
        same = product[:, None] == product[None]
        circle_loss(F.normalize(x, dim=1), same & ~torch.eye(6, dtype=torch.bool), ~same).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_rows_without_a_positive_do_not_count() -> None:
    e = embeddings(3)
    none = torch.zeros(3, 3)
    assert info_nce(e, none, torch.tensor(5.0)).item() == 0
    assert circle_loss(e, none.bool(), ~torch.eye(3, dtype=torch.bool)).item() == 0
