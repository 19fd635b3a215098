import pytest
import torch
from torch import nn

from onevision.generator.packing import PackedLinear, pack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (3, 5, 16), (2, 3, 5, 16)])
@torch.inference_mode()
def test_a_packed_map_computes_the_same(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Sequential(nn.Linear(24, 8, bias=False))).to(dtype)
    x = torch.randn(shape).to(dtype)
    expected = plain(x)
    pack(plain)
    assert isinstance(plain[0], PackedLinear) or dtype == torch.bfloat16
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(plain(x), expected, atol=tolerance, rtol=tolerance)


@torch.inference_mode()
def test_a_strided_input_is_taken_as_it_is() -> None:
    linear = nn.Linear(16, 24)
    x = torch.randn(4, 16, 7).transpose(1, 2)[:, ::2]
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-6, rtol=1e-6)


def test_what_is_no_linear_map_stays() -> None:
    module = nn.ModuleDict({"norm": nn.LayerNorm(8), "embedding": nn.Embedding(3, 8)})
    before = dict(module.named_children())
    pack(module)
    assert dict(module.named_children()) == before
