from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onevision.checkpoint import Checkpoint
from onevision.distributed import Group
from onevision.encoder.augmentation import draw_moves, move
from onevision.encoder.circle import circle_loss
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.encoder.muon import ORTHOGONAL
from onevision.encoder.sampler import Batch, TrainingViews
from onevision.encoder.towers import SmallConvTower, TowerOutput
from onevision.encoder.training import EncoderTraining, LossCurve, _circle, parameter_groups

PRODUCTS, VIEWS = 12, 5
CONFIG = EncoderConfig(
    width=8,
    embedding_dim=8,
    image_size=32,
    steps=12,
    items_per_batch=5,
    views_per_item=3,
    checkpoint_every=2,
    head_dropout=0.3,
    hard_negative_share=0.5,
)


class Killed(BaseException):
    """Ends a training in the middle, as a lost machine does."""


def train(path: Path, kill_at: int = 10**6, **options: Any) -> tuple[Encoder, LossCurve, list[int]]:
    """Train on random pictures; the rows' sums tell which batches were drawn in this call."""
    encoder = Encoder(torch_seeded(CONFIG.model_copy(update=options)), ["a", "b", "c"])
    views = TrainingViews(
        [f"i{n}" for n in range(PRODUCTS)],
        [np.arange(2) + VIEWS * n for n in range(PRODUCTS)],
        [np.arange(2, VIEWS) + VIEWS * n for n in range(PRODUCTS)],
        {0: (np.array([3]), np.array([1.0]))},
    )
    rows = PRODUCTS * VIEWS
    pixels = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8))
    drawn: list[int] = []

    def pooled(batch: Batch, rng: np.random.Generator) -> Tensor:
        if len(drawn) == kill_at:
            raise Killed
        drawn.append(int(batch.rows.sum()))
        moves = torch.from_numpy(draw_moves(len(batch.rows), rng))
        return encoder.tower(move(pixels[batch.rows], moves)).pooled

    known = np.arange(rows) // VIEWS % 3
    group = Group(0, 1, torch.device("cpu"))
    training = EncoderTraining(encoder, views, known, np.arange(rows) % VIEWS < 2, pooled, seed=3, group=group)
    return encoder, training.run(Checkpoint(path, "this")), drawn


def torch_seeded(config: EncoderConfig) -> EncoderConfig:
    torch.manual_seed(2)
    return config


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(precision: str, tmp_path: Path) -> None:
    whole, curve, batches = train(tmp_path / "whole", precision=precision)
    with pytest.raises(Killed):
        train(tmp_path / "checkpoint", kill_at=5, precision=precision)
    resumed, curve_again, batches_again = train(tmp_path / "checkpoint", precision=precision)
    assert batches_again == batches[4:]
    assert curve_again == curve
    again = resumed.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.state_dict().items())


def test_a_checkpoint_of_other_work_or_a_damaged_one_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        train(path, kill_at=5)
    assert Checkpoint(path, "this").load() is not None
    assert Checkpoint(path, "other").load() is None
    assert "of other work" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-100])
    assert Checkpoint(path, "this").load() is None
    assert "starts again" in capsys.readouterr().err


def test_the_work_names_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEVISION_CHECKPOINTS", raising=False)
    one, two = (Checkpoint.of("align", tmp_path / "encoder", [{"steps": n}, 7]) for n in (1, 2))
    assert one.path.parent == tmp_path
    assert (one.path, one.identity) != (two.path, two.identity)
    monkeypatch.setenv("ONEVISION_CHECKPOINTS", str(tmp_path / "volume"))
    assert Checkpoint.of("align", tmp_path / "encoder", []).path.parent == tmp_path / "volume"


def test_the_loss_is_the_sum_of_its_weighted_parts_and_circle_loss_joins_after_its_warm_start(tmp_path: Path) -> None:
    values = train(tmp_path / "a", circle_warmup=0.5)[1].values
    parts = {name: np.array(values[name]) for name in ("infonce", "category")}
    assert len(values["circle"]) == CONFIG.steps // 2
    late = np.r_[np.zeros(CONFIG.steps // 2), values["circle"]]
    np.testing.assert_allclose(values["loss"], parts["infonce"] + parts["category"] + late, rtol=1e-5)
    assert min(parts["infonce"].min(), parts["category"].min(), min(values["circle"])) > 0
    assert "circle" not in train(tmp_path / "b", circle_weight=0.0)[1].values


@pytest.mark.parametrize("name", ["infonce", "circle", "category"])
def test_every_loss_is_taken_times_its_weight(name: str, tmp_path: Path) -> None:
    weight = "category_loss_weight" if name == "category" else f"{name}_weight"
    plain = train(tmp_path / "a", steps=1, circle_warmup=0.0)[1].values
    heavy = train(tmp_path / "b", steps=1, circle_warmup=0.0, **{weight: 3 * getattr(CONFIG, weight)})[1].values
    for part in ("infonce", "circle", "category"):
        assert heavy[part][0] == pytest.approx((3 if part == name else 1) * plain[part][0], rel=1e-4)


@pytest.mark.parametrize("affinity", [0.2, -1.0])
def test_a_clicked_pair_is_no_negative_of_circle_loss(affinity: float) -> None:
    product = torch.tensor([0, 0, 1, 1, 2, 2])
    embedding = nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    same = product[:, None] == product[None]
    clicked = (product[:, None] + product[None] == 1) & ~same  # products 0 and 1, both ways
    given = same.float().masked_fill(clicked, affinity)
    options: dict[str, float] = {"margin": CONFIG.circle_margin, "gamma": CONFIG.circle_gamma}
    positive = same & ~torch.eye(6, dtype=torch.bool)
    expected = circle_loss(embedding, positive, ~same & ~clicked, **options)
    assert _circle(embedding, product, given, CONFIG).item() == pytest.approx(expected.item())
    assert circle_loss(embedding, positive, ~same, **options).item() != pytest.approx(expected.item())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_tower_runs_under_the_precision_that_is_asked_for(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = SmallConvTower.forward, set()

    def watched(tower: SmallConvTower, pixels: Tensor) -> TowerOutput:
        output = forward(tower, pixels)
        seen.add(output.tokens.dtype)
        return output

    monkeypatch.setattr(SmallConvTower, "forward", watched)
    train(tmp_path / "a", steps=2, precision=precision)
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_a_backbone_has_a_learning_rate_of_its_own() -> None:
    encoder = Encoder(CONFIG, ["a"])
    encoder.config = CONFIG.model_copy(update={"tower": "transformers"})
    head, tower = parameter_groups(encoder)
    assert (head["lr"], tower["lr"]) == (CONFIG.learning_rate, CONFIG.tower_learning_rate)
    assert {id(p) for p in tower["params"]} == {id(p) for p in encoder.tower.parameters()}
    assert len(head["params"]) + len(tower["params"]) == len(list(encoder.parameters()))


def test_layers_of_a_tower_that_begins_from_nothing_are_made_orthogonal() -> None:
    encoder = Encoder(CONFIG, ["a"])
    layers, rest = parameter_groups(encoder)
    assert layers[ORTHOGONAL]
    assert ORTHOGONAL not in rest
    assert {id(p) for p in layers["params"]} == {id(m.weight) for m in encoder.modules() if isinstance(m, nn.Conv2d)}
    assert len(layers["params"]) + len(rest["params"]) == len(list(encoder.parameters()))
    encoder.tower.requires_grad_(False)
    (head,) = parameter_groups(encoder)
    assert ORTHOGONAL not in head
