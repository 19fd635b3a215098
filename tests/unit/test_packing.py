import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onevision.generator.frozen import FrozenDecoderLayer, FrozenEncoderLayer
from onevision.generator.layers import DecoderLayer, EncoderLayer
from onevision.packing import PackedConv, PackedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (3, 5, 16), (2, 3, 5, 16)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_map_computes_the_same(dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(16, 24, bias=bias).to(dtype)
    x = torch.randn(shape).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    alike = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(PackedLinear.of(plain)(x), plain(x), **alike)
    torch.testing.assert_close(PackedLinear.of(plain, gelu=True)(x), F.gelu(plain(x)), **alike)


@torch.inference_mode()
def test_a_strided_input_is_taken_as_it_is() -> None:
    linear = nn.Linear(16, 24)
    x = torch.randn(4, 16, 7).transpose(1, 2)[:, ::2]
    torch.testing.assert_close(PackedLinear.of(linear)(x), linear(x), atol=1e-6, rtol=1e-6)


@torch.inference_mode()
def test_where_weights_cannot_be_packed_the_map_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onevision.packing.can_pack", lambda weight: False)
    linear, x = nn.Linear(16, 24), torch.randn(3, 16)
    torch.testing.assert_close(PackedLinear.of(linear)(x), linear(x))
    torch.testing.assert_close(PackedLinear.of(linear, gelu=True)(x), F.gelu(linear(x)))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("activation", [None, nn.GELU(), nn.ReLU6()])
@pytest.mark.parametrize("groups", [1, 8])
@torch.inference_mode()
def test_a_packed_convolution_is_convolution_norm_and_activation(
    groups: int, activation: nn.Module | None, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr("onevision.packing.can_pack", lambda weight: False)
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, 2, 1, bias=False, groups=groups), nn.BatchNorm2d(16).eval()
    for value in norm.state_dict().values():
        value.copy_(torch.rand(value.shape).add(0.5))
    both = PackedConv(conv, norm, activation)
    for shape in ((1, 8, 12, 12), (5, 8, 12, 12), (2, 8, 7, 20)):
        x = 4 * torch.randn(shape).contiguous(memory_format=torch.channels_last)
        expected = norm(conv(x)) if activation is None else activation(norm(conv(x)))
        torch.testing.assert_close(both(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@torch.inference_mode()
def test_frozen_layers_compute_the_same(masked: bool) -> None:
    torch.manual_seed(0)
    encoder, decoder = EncoderLayer(16, 2, 32, 0.3).eval(), DecoderLayer(16, 2, 32, 0.3).eval()
    mask = torch.rand(3, 7) < 0.6 if masked else None
    if mask is not None:
        mask[:, 0] = True
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(FrozenEncoderLayer(encoder)(x, mask), encoder(x, mask), atol=1e-5, rtol=1e-5)
    for reader in (0, 3):
        there = torch.ones(3, 7, dtype=torch.bool) if mask is None else mask
        looked = FrozenEncoderLayer(encoder).mass(x, there, reader)
        torch.testing.assert_close(looked, encoder.mass(x, there, reader), atol=1e-6, rtol=1e-5)
    context = decoder.cross_attention.keys_values(x)
    frozen = FrozenDecoderLayer(decoder)
    read = frozen.read(x, mask)
    bank, other = None, None
    path = torch.zeros(3, 5, 0, dtype=torch.long)
    for _ in range(3):
        beams = torch.randn(3, 5, 16)
        first = path.shape[2] * 15
        path = torch.cat([path, torch.arange(first, first + 15).view(3, 5, 1)], 2)
        expected, bank = decoder.step(beams, bank, path, context, mask)
        found, other = frozen.step(beams, other, path, read, mask)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
