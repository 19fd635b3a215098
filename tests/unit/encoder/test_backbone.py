"""Towers of `transformers`, from small random checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import nn

from onevision.encoder.backbone import TransformersTower
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.errors import RecipeError

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PICTURE = {"image_size": 48, "patch_size": 8}
TEXT = VIT | {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MAPS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def _model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    t = transformers
    match kind:
        case "vit":
            return t.ViTModel(t.ViTConfig(**VIT, **PICTURE))
        case "vit-classifier":  # has no pooler
            return t.ViTForImageClassification(t.ViTConfig(**VIT, **PICTURE))
        case "dinov2":
            return t.Dinov2Model(t.Dinov2Config(**VIT, **PICTURE, mlp_ratio=1))
        case "dinov2-registers":
            return t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**VIT, **PICTURE, num_register_tokens=4))
        case "clip":
            return t.CLIPModel(t.CLIPConfig(vision_config=VIT | PICTURE, text_config=TEXT, projection_dim=8))
        case "siglip":
            return t.SiglipModel(t.SiglipConfig(vision_config=VIT | PICTURE, text_config=TEXT))
        case "convnext":
            return t.ConvNextModel(t.ConvNextConfig(**MAPS, num_stages=2))
        case "resnet":
            return t.ResNetModel(t.ResNetConfig(**MAPS, embedding_size=8, layer_type="basic"))
    raise AssertionError(kind)


KINDS = ["vit", "vit-classifier", "dinov2", "dinov2-registers", "clip", "siglip", "convnext", "resnet"]


def _save(folder: Path, kind: str, **preprocessing: Any) -> Path:
    _model(kind).save_pretrained(folder)
    values = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 56},
        "crop_size": {"height": 48, "width": 48},
        "do_center_crop": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values | preprocessing))
    return folder


def _encoder(folder: Path, **options: Any) -> Encoder:
    config = EncoderConfig(tower="transformers", backbone=str(folder), embedding_dim=8, **options)
    torch.manual_seed(1)
    return Encoder(config, ["bags", "shoes"])


def _pixels(count: int = 3, size: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_gives_a_grid_of_tokens_and_is_saved_with_the_encoder(kind: str, tmp_path: Path) -> None:
    source = _save(tmp_path / "source", kind)
    encoder = _encoder(source)
    assert encoder.image_size == 48
    output = encoder.eval()(torch.from_numpy(_pixels()), torch.full((3,), -1))
    assert output.tokens.shape == (3, 16, encoder.tower.token_dim)
    assert output.tokens.isfinite().all()
    encoder.save_pretrained(tmp_path / "encoder")
    source.rename(tmp_path / "gone")
    again = Encoder.from_pretrained(tmp_path / "encoder")
    for a, b in zip(encoder.embed(_pixels()), again.embed(_pixels()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("kind", "before_patches"), [("vit", 1), ("dinov2", 1), ("dinov2-registers", 5), ("clip", 1), ("siglip", 0)]
)
def test_class_and_register_tokens_are_left_out(kind: str, before_patches: int, tmp_path: Path) -> None:
    tower = TransformersTower.load(str(_save(tmp_path, kind)), frozen=True, image_size=None)
    pixels = _pixels()
    normalized = (torch.from_numpy(pixels).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        expected = tower.net(pixel_values=normalized.permute(0, 3, 1, 2))
    output = tower(torch.from_numpy(pixels))
    assert expected.last_hidden_state.shape[1] == before_patches + 36
    # 6 x 6 patches on a grid of 4 x 4: the corner token is the mean of the corner's 2 x 2 patches.
    corner = expected.last_hidden_state[:, before_patches:].reshape(3, 6, 6, -1)[:, :2, :2].mean((1, 2))
    torch.testing.assert_close(output.tokens[:, 0], corner, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.pooled, expected.pooler_output, atol=1e-5, rtol=1e-5)


def test_without_weights_for_its_pooler_the_class_token_is_the_pooled_vector(tmp_path: Path) -> None:
    tower = TransformersTower.load(str(_save(tmp_path, "vit-classifier")), frozen=True, image_size=None)
    x = (torch.from_numpy(_pixels()).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        expected = tower.net(pixel_values=x.permute(0, 3, 1, 2)).last_hidden_state[:, 0]
    torch.testing.assert_close(tower(torch.from_numpy(_pixels())).pooled, expected)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "siglip", "resnet"])
def test_another_picture_size_is_taken_with_interpolated_positions(kind: str, tmp_path: Path) -> None:
    encoder = _encoder(_save(tmp_path, kind), image_size=64).eval()
    assert encoder.embed(_pixels(size=64)).tokens.shape[1] == 16


def test_a_frozen_backbone_has_no_gradient_and_a_trained_one_has(tmp_path: Path) -> None:
    _save(tmp_path, "resnet")
    for frozen in (True, False):
        encoder = _encoder(tmp_path, freeze_tower=frozen).train()
        before = {name: value.clone() for name, value in encoder.tower.named_buffers()}
        encoder(torch.from_numpy(_pixels()), torch.full((3,), -1)).embedding.sum().backward()
        gradients = [p.grad for p in encoder.tower.parameters() if p.grad is not None]
        moved = any(not torch.equal(before[name], value) for name, value in encoder.tower.named_buffers())
        assert (len(gradients) == 0) == frozen
        assert moved != frozen


def test_weights_that_are_missing_are_an_error_not_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = _save(tmp_path, "dinov2") / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if "mlp" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="no weights for 4 parameters"):
        _encoder(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = _save(tmp_path, "vit") / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(RecipeError, match=r"safetensors"):
        _encoder(tmp_path)


def test_what_is_no_backbone_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        _encoder(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="'not a name' cannot be loaded"):
        TransformersTower.load("not a name", frozen=True, image_size=None)
    bert = transformers.BertModel(transformers.BertConfig(**VIT, vocab_size=20))
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(RecipeError, match="bert"):
        _encoder(tmp_path / "bert")
    _save(tmp_path / "small", "vit", crop_size={"height": 4, "width": 4})
    with pytest.raises(RecipeError, match="4 pixels"):
        _encoder(tmp_path / "small")


def test_tower_and_backbone_are_named_together() -> None:
    for wrong in ({"tower": "transformers"}, {"backbone": "facebook/dinov2-small"}):
        with pytest.raises(ValidationError, match="together"):
            EncoderConfig(**wrong)  # type: ignore[arg-type]
