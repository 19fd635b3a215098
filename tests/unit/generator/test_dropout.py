import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onevision.generator.dropout import Dropout, dropped_attention


@pytest.fixture
def ones() -> torch.Tensor:
    return torch.ones(400, 501)  # not a multiple of the eight that share a random number


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_it_drops_the_share_that_was_asked_for_and_keeps_the_mean(ones, p):
    torch.manual_seed(0)
    out = Dropout(p)(ones)
    assert (out == 0).double().mean() == pytest.approx(p, abs=0.005)
    assert out.double().mean() == pytest.approx(1, abs=0.01)
    assert len(out.unique()) == 2


def test_elements_of_one_random_number_are_dropped_apart(ones):
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(ones) == 0).flatten()[: 25_000 * 8].view(-1, 8).double()
    assert (dropped.mean(0) - 0.5).abs().max() < 0.02
    assert (torch.corrcoef(dropped.T) - torch.eye(8)).abs().max() < 0.03


def test_the_gradient_is_what_was_kept(ones):
    x = ones.requires_grad_()
    out = Dropout(0.3)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out)


def test_nothing_is_dropped_in_evaluation_or_with_probability_0(ones):
    assert torch.equal(Dropout(0.3).eval()(ones), ones)
    assert torch.equal(Dropout(0.0)(ones), ones)
    assert torch.equal(nn.Sequential(Dropout(0.3)).eval()(ones), ones)


def test_it_is_drawn_from_the_seed_in_any_type(ones):
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(3)
        first = Dropout(0.3)(ones.to(dtype))
        torch.manual_seed(3)
        assert torch.equal(first, Dropout(0.3)(ones.to(dtype)))
        assert first.dtype == dtype


@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_dropout_is_that_of_torch(causal):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=generator).unbind()
    mask = None if causal else torch.tensor([[1, 1, 1, 0, 1], [1, 0, 0, 0, 0]]).bool()[:, None, None]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(dropped_attention(query, key, value, mask, 0.0, causal=causal), expected)


def test_attention_drops_weights_and_is_the_same_in_the_mean():
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 3, 8, generator=generator).unbind()
    torch.manual_seed(0)
    many = [tensor.expand(20_000, -1, -1, -1) for tensor in (query, key, value)]
    out = dropped_attention(*many, None, 0.3, causal=False)
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(out.mean(0, keepdim=True), expected, rtol=0, atol=0.03)
    # each of three weights is there or not: eight sums
    assert len(out[:, 0, 0, 0].unique()) == 8
