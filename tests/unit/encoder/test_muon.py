import pytest
import torch
from torch import nn

from onevision.encoder.muon import COEFFICIENTS, ITERATIONS, LIKE_ADAMW, MOMENTUM, ORTHOGONAL, Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7), (1, 5)])
def test_iterations_on_the_gram_matrix_are_those_on_the_matrix(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b, c = COEFFICIENTS
    x = matrix / matrix.norm()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert torch.allclose(orthogonal(matrix), x, rtol=0, atol=1e-5)


def test_singular_vectors_stay_and_values_come_near_one() -> None:
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in (12, 30))
    values = torch.logspace(0, -2, 12)
    x = orthogonal(left @ torch.diag(values) @ right[:12])
    seen = left.T @ x @ right[:12].T
    assert torch.allclose(seen, torch.diag(seen.diagonal()), atol=1e-3)
    assert (seen.diagonal() > 0.5).all()
    assert (seen.diagonal() < 1.3).all()
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_other_groups_step_as_adamw_does() -> None:
    def weights() -> list[nn.Parameter]:
        torch.manual_seed(3)
        return [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5))]

    mine, theirs = weights(), weights()
    muon = Muon([{"params": mine, "lr": 0.1}], weight_decay=0.3)
    adamw = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.3, fused=True)
    for _ in range(3):
        for parameters, optimizer in ((mine, muon), (theirs, adamw)):
            optimizer.zero_grad(set_to_none=True)
            torch.stack([p.cos().sum() for p in parameters]).sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_step_of_layers_by_hand() -> None:
    torch.manual_seed(4)
    weight = nn.Parameter(torch.randn(4, 2, 3, 3))
    before = weight.detach().clone()
    first, second = torch.randn(2, 4, 2, 3, 3)
    optimizer = Muon([{"params": [weight], "lr": 0.1, ORTHOGONAL: True}], weight_decay=0.5)
    expected, momentum = before, torch.zeros_like(before)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        step = orthogonal(ahead.view(4, 18)).view_as(before) * LIKE_ADAMW * 18**0.5
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * step
    assert torch.allclose(weight, expected, atol=1e-6)
    # as long a step as AdamW's usual one: the name of LIKE_ADAMW
    assert float(step.square().mean().sqrt()) == pytest.approx(LIKE_ADAMW, rel=0.25)
