from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from torch import Tensor

from onevision.artifacts import open_artifact
from onevision.encoder import training
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.encoder.stage import run

SMALL = EncoderConfig(
    image_size=32, width=8, embedding_dim=16, steps=6, items_per_batch=6, views_per_item=3, checkpoint_every=2
)


class Killed(BaseException):
    """Ends a training in the middle, as a lost machine does."""


def test_the_stage_goes_on_after_a_kill_and_writes_the_same_artifact(
    tiny_snapshot: Path, tiny_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"snapshot": tiny_snapshot, "pairs": tiny_pairs, "config": SMALL, "seed": 3}
    run(**inputs, out=tmp_path / "whole")
    loss, calls = training.info_nce, [0]

    def killing(*args: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 6:
            raise Killed
        return loss(*args)

    monkeypatch.setattr(training, "info_nce", killing)
    with pytest.raises(Killed):
        run(**inputs, out=tmp_path / "killed")
    assert len(list(tmp_path.glob(".align-*.checkpoint"))) == 1
    run(**inputs, out=tmp_path / "killed")
    assert calls[0] == 8, "four of six steps were done before the kill"
    assert open_artifact(tmp_path / "killed").identity == open_artifact(tmp_path / "whole").identity
    assert not list(tmp_path.glob(".align-*"))


def test_a_frozen_backbone_and_lda_through_the_stage(tiny_snapshot: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8))
    model.save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    values = SMALL.model_dump() | {
        "tower": "transformers",
        "backbone": str(tmp_path / "vit"),
        "image_size": None,
        "lda_shrinkage": 0.2,
    }
    config = EncoderConfig.model_validate(values)
    run(snapshot=tiny_snapshot, pairs=tiny_pairs, out=tmp_path / "encoder", config=config, seed=3)
    encoder = Encoder.from_pretrained(tmp_path / "encoder")
    original = model.state_dict()
    assert all(torch.equal(original[name], value) for name, value in encoder.tower.net.state_dict().items())
    assert encoder.lda is not None
    assert not torch.equal(encoder.lda, torch.eye(16))

    from onevision.data.images import load_pixels
    from onevision.data.snapshot import Snapshot
    from onevision.encoder.stage import read_pictures

    # What the stage wrote is what the saved encoder gives, LDA included.
    shop = Snapshot.open(tiny_snapshot)
    pictures = read_pictures(shop, tiny_pairs)
    shown = [c if own else None for c, own in zip(pictures.category, pictures.catalogue, strict=True)]
    again = encoder.embed(load_pixels(shop.images, pictures.table["image_id"].to_pylist(), 32), shown)
    written = load_file(tmp_path / "encoder" / "embeddings.safetensors")["embedding"]
    np.testing.assert_allclose(again.embedding, written, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(written, axis=1), 1, atol=1e-5)
