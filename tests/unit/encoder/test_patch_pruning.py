"""Patches that leave a vision transformer, beside a loop that goes through every picture and every patch by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from onevision.attention_mass import keep_by_mass
from onevision.encoder.backbone import TransformersTower
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.encoder.patch_pruning import PatchLayers, PatchRule
from onevision.encoder.photos import embed_photos
from onevision.encoder.towers import SmallConvTower
from onevision.errors import ArtifactError
from onevision.generator.token_pruning import PruningSetting

SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
PICTURE = {"image_size": 48, "patch_size": 8, "initializer_range": 0.5}
PATCHES = 36
FAMILIES: dict[str, tuple[Callable[[], Any], int]] = {
    "vit": (lambda: t.ViTModel(t.ViTConfig(**SMALL, **PICTURE)), 1),
    "deit": (lambda: t.DeiTModel(t.DeiTConfig(**SMALL, **PICTURE)), 2),
    "dinov2": (lambda: t.Dinov2Model(t.Dinov2Config(**SMALL, **PICTURE, mlp_ratio=1)), 1),
    "dinov2-registers": (
        lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**SMALL, **PICTURE, num_register_tokens=4)),
        5,
    ),
    "clip": (lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL, **PICTURE)), 1),
    "siglip": (lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL, **PICTURE)), 0),
}
"""Family -> how a small model is made, and tokens before its patches."""
MAPS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
WITHOUT: dict[str, Callable[[], Any]] = {
    "one layer": lambda: t.ViTModel(t.ViTConfig(**SMALL | {"num_hidden_layers": 1}, **PICTURE)),
    "places in the layers": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, **PICTURE)),
    "windows": lambda: t.SwinModel(
        t.SwinConfig(image_size=48, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2])
    ),
    "convolutions": lambda: t.ConvNextModel(t.ConvNextConfig(**MAPS, num_stages=2)),
    "resnet": lambda: t.ResNetModel(t.ResNetConfig(**MAPS, embedding_size=8, layer_type="basic")),
}
PREPROCESSING = {"size": 48, "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
HALF = PatchRule(lambda mass: keep_by_mass(mass, 0.5), 1 / 3)


def make_net(kind: str) -> Any:
    """A small random model whose pictures differ in what is looked at."""
    torch.manual_seed(0)
    net = (FAMILIES[kind][0] if kind in FAMILIES else WITHOUT[kind])().eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim > 1 and "position" not in name:
                weight.normal_(std=0.5)
    return net


def make_tower(net: Any) -> TransformersTower:
    return TransformersTower(net, PREPROCESSING, pooler=True, frozen=True, image_size=None).eval()


def pixels(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)
    return (255 * coarse).to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3).permute(0, 2, 3, 1)


@torch.no_grad()
def naive(kind: str, picture: Tensor, share: float, first: int) -> tuple[Tensor, int]:
    """Output of the last layer (T, d) for one picture (1, S, S, 3), patch by patch, and how many were kept."""
    net, front = make_net(kind), FAMILIES[kind][1]
    net.set_attn_implementation("eager")
    (layers,) = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) == 4]
    outputs: list[Tensor] = []
    layers[first - 1].register_forward_hook(lambda layer, args, output: outputs.append(output))
    x = (picture.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    attention = net(pixel_values=x, output_attentions=True).attentions[first - 1][0].mean(0)
    looked_at = (attention[0] if front else attention.mean(0))[front:].tolist()
    kept, held = [], 0.0
    for patch in sorted(range(PATCHES), key=lambda p: -looked_at[p]):
        if held < share * sum(looked_at):
            kept.append(patch)
            held += looked_at[patch]
    kept.sort()
    dropped = [p for p in range(PATCHES) if p not in kept]
    tokens = outputs[0][0]
    merged = sum(looked_at[p] * tokens[front + p] for p in dropped) / sum(looked_at[p] for p in dropped)
    short = torch.stack([*tokens[:front], *(tokens[front + p] for p in kept), merged])[None]
    often = torch.zeros(1, 1, 1, short.shape[1])  # as often as there are patches in it
    often[..., -1] = math.log(len(dropped))
    for layer in list(layers)[first:]:
        short = layer(short, often)
    rows = [short[0, n] for n in range(front)]
    rows += [short[0, front + kept.index(p)] if p in kept else short[0, -1] for p in range(PATCHES)]
    return torch.stack(rows), len(kept)


def last_layer(tower: TransformersTower, pictures: Tensor, rule: PatchRule) -> tuple[Tensor, list[int]]:
    (layers,) = [m for m in tower.net.modules() if isinstance(m, nn.ModuleList) and len(m) == 4]
    outputs: list[Tensor] = []
    handle = layers[-1].register_forward_hook(lambda layer, args, output: outputs.append(output))
    assert tower.patch_layers is not None
    with torch.no_grad(), tower.patch_layers.pruned(rule) as under_way:
        tower(pictures)
    handle.remove()
    return outputs[0], under_way.kept[0].tolist()


@pytest.mark.parametrize(("share", "depth", "first"), [(0.3, 0.1, 1), (0.8, 1 / 3, 1), (0.5, 0.75, 3), (0.5, 0.99, 3)])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_batch_goes_through_the_layers_as_its_pictures_do_in_a_naive_loop(
    kind: str, share: float, depth: float, first: int
) -> None:
    rule = PatchRule(lambda mass: keep_by_mass(mass, share), depth)
    output, kept = last_layer(make_tower(make_net(kind)), pixels(), rule)
    expected = [naive(kind, picture[None], share, first) for picture in pixels()]
    assert kept == [count for _, count in expected]
    assert len(set(kept)) > 1  # some of the batch are masked
    torch.testing.assert_close(output, torch.stack([tokens for tokens, _ in expected]), atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_pictures_result_does_not_depend_on_the_others_of_its_batch(kind: str) -> None:
    tower = make_tower(make_net(kind))
    assert tower.patch_layers is not None
    with tower.patch_layers.pruned(HALF):
        whole = tower(pixels())
        alone = [tower(picture[None]) for picture in pixels()]
        turned = tower(pixels().flip(0))
    for name in ("tokens", "pooled"):
        together = getattr(whole, name)
        torch.testing.assert_close(torch.cat([getattr(o, name) for o in alone]), together, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(getattr(turned, name).flip(0), together, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_with_all_patches_the_model_is_what_it_was(kind: str) -> None:
    x = (pixels().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    before = make_net(kind)(pixel_values=x).last_hidden_state
    tower = make_tower(make_net(kind))
    assert torch.equal(tower.net(pixel_values=x).last_hidden_state, before)
    assert PruningSetting().patches is None
    assert tower.patch_layers is not None
    everything = PatchRule(lambda mass: torch.ones_like(mass, dtype=torch.bool), 0.5)
    with tower.patch_layers.pruned(everything) as under_way:
        kept_all = tower.net(pixel_values=x).last_hidden_state
    torch.testing.assert_close(kept_all, before, atol=1e-4, rtol=1e-4)
    assert under_way.kept[0].tolist() == [PATCHES] * len(x)
    assert torch.equal(tower.net(pixel_values=x).last_hidden_state, before)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_merging_patches_that_are_alike_changes_nothing(kind: str) -> None:
    net = make_net(kind)
    for name, places in net.named_parameters():
        if "position" in name:
            places.zero_()
    tower = make_tower(net)
    grey = torch.full((2, 48, 48, 3), 90, dtype=torch.uint8)
    whole = tower(grey)
    assert tower.patch_layers is not None
    with tower.patch_layers.pruned(HALF) as under_way:
        few = tower(grey)
    assert (under_way.kept[0] <= PATCHES // 2 + 1).all()
    torch.testing.assert_close(few.pooled, whole.pooled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few.tokens, whole.tokens, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_backbone_whose_patches_cannot_leave_says_so(kind: str) -> None:
    net = make_net(kind)
    before = net.config._attn_implementation
    assert PatchLayers.find(net, 37, 36) is None
    assert net.config._attn_implementation == before
    assert SmallConvTower(8).patch_layers is None


def first_patches(count: int, depth: float) -> PatchRule:
    return PatchRule(lambda mass: torch.arange(PATCHES).expand_as(mass) < count, depth)


def counted_flops(tower: TransformersTower) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        tower(pixels(1))
    return counter.get_total_flops()


def test_what_a_look_costs_is_counted_as_torch_counts_it() -> None:
    tower = make_tower(make_net("clip"))  # without a pooler
    layers = tower.patch_layers
    assert layers is not None
    assert counted_flops(tower) == layers.flops(PATCHES)
    deciding = 2 * 37 * 16 + 2 * PATCHES * 16  # one query's attention, and the merged token: not counted by us
    for count, depth in ((4, 0.25), (20, 0.25), (20, 0.5)):
        with layers.pruned(first_patches(count, depth)):
            assert counted_flops(tower) == layers.flops(count, depth) + deciding


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    """An encoder that was saved and loaded, and looks twice."""
    make_net("vit").save_pretrained(tmp_path / "backbone")
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}
    (tmp_path / "backbone" / "preprocessor_config.json").write_text(json.dumps(values))
    config = EncoderConfig(tower="transformers", backbone=str(tmp_path / "backbone"), embedding_dim=8)
    torch.manual_seed(1)
    Encoder(config, ["bags", "shoes"]).save_pretrained(tmp_path / "encoder")
    return Encoder.from_pretrained(tmp_path / "encoder")


def test_an_encoder_counts_the_patches_of_both_looks(encoder: Encoder) -> None:
    pictures = pixels().numpy()
    seen, looks, kept = embed_photos(encoder, pictures, patches=HALF)
    one, _, counts = embed_photos(encoder, pictures[2:3], patches=HALF)
    assert kept is not None
    assert counts is not None
    assert looks.tolist() == [2] * 5
    np.testing.assert_allclose(one.embedding[0], seen.embedding[2], atol=1e-4)
    assert counts[0] == kept[2]
    assert ((kept > 0) & (kept < PATCHES)).all()
    assert np.abs(seen.embedding - encoder.embed(pictures).embedding).max() > 1e-3
    all_alike = embed_photos(encoder, pictures, patches=first_patches(7, 0.5)).patches
    assert all_alike is not None
    assert all_alike.tolist() == [7] * 5


def test_an_encoder_without_patches_refuses_to_leave_some_out() -> None:
    plain = Encoder(EncoderConfig(width=8, embedding_dim=8), ["bags"])
    assert plain.patch_layers is None
    with pytest.raises(ArtifactError, match="no patches can leave a small-conv tower"):
        embed_photos(plain, np.zeros((1, 64, 64, 3), np.uint8), patches=HALF)
