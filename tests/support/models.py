"""Real artifacts of the tiny shop up to an untrained generator: right in every shape, wrong in every answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.artifacts import finish_artifact, open_artifact, start_artifact, write_json
from onevision.encoder.config import EncoderConfig
from onevision.pairing.config import PairingConfig
from onevision.quantization.config import QuantizationConfig
from onevision.semantic_ids.config import SemanticIdsConfig

SEED = 1
IMAGE_SIZE = 32


def make_models(snapshot: Path, root: Path, *, transformer: bool = False, encoder_layers: int = 1) -> dict[str, Path]:
    """Artifacts by the name of publish's arguments, and `pairs`; the stages before the generator are run.

    Args:
        transformer: the image tower is a vision transformer of 16 patches, half of whose attention goes on in it.
        encoder_layers: of the generator; tokens leave its prompt after the first.
    """
    import torch

    from onevision.encoder.stage import run as align
    from onevision.pairing.stage import run as pair
    from onevision.quantization.stage import run as train_vrq
    from onevision.semantic_ids.stage import run as assign_ids

    torch.set_num_threads(1)
    names = ("pairs", "encoder", "quantizer", "semantic_ids", "features", "generator_sft", "pruning")
    paths = {"snapshot": snapshot} | {name: root / name for name in names}
    known = {"snapshot": snapshot, "pairs": paths["pairs"], "encoder": paths["encoder"]}
    pair(snapshot=snapshot, out=paths["pairs"], config=PairingConfig(validation_days=2, test_days=2), seed=SEED)
    small = EncoderConfig(
        image_size=IMAGE_SIZE, width=8, embedding_dim=16, steps=3, items_per_batch=4, views_per_item=2
    )
    if transformer:
        backbone = str(_write_backbone(root / "backbone"))
        small = EncoderConfig(**small.model_dump() | {"tower": "transformers", "backbone": backbone})
    align(snapshot=snapshot, pairs=paths["pairs"], out=paths["encoder"], config=small, seed=SEED)
    codebooks = QuantizationConfig(
        codebook_sizes=(4, 4), opq_subspaces=0, view_dims=8, steps=2, batch_size=16, dead_code_share=1.0
    )
    train_vrq(**known, out=paths["quantizer"], config=codebooks, seed=SEED)
    assign_ids(
        snapshot=snapshot,
        encoder=paths["encoder"],
        quantizer=paths["quantizer"],
        out=paths["semantic_ids"],
        config=SemanticIdsConfig(),
        seed=SEED,
    )
    _write_features(paths)
    _write_generator(paths, encoder_layers)
    start_artifact(paths["pruning"])
    setting = {"mass": 0.8} | ({"tower_mass": 0.5} if transformer else {})
    write_json(paths["pruning"] / "pruning.json", {"chosen": setting})
    parents = {"generator": open_artifact(paths["generator_sft"])}
    finish_artifact(paths["pruning"], "pruning", parents=parents)
    return paths | {"generator_aligned": paths["generator_sft"]}


def _write_backbone(folder: Path) -> Path:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(SEED)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    net = ViTModel(ViTConfig(image_size=IMAGE_SIZE, patch_size=8, **size), add_pooling_layer=False)
    with torch.no_grad():  # so that pictures differ in what is looked at
        for weights in net.parameters():
            weights += 0.3 * torch.randn_like(weights)
    net.save_pretrained(folder)
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def _write_features(paths: dict[str, Path]) -> None:
    """Sequences without Feast: every second query's user has clicked, searched and ordered something."""
    queries = pq.read_table(paths["pairs"] / "queries.parquet")["query_id"].to_pylist()
    some = [["i001", "i002"] if n % 2 else [] for n in range(len(queries))]
    lists = dict.fromkeys(("recent_clicked", "recent_searched", "recent_ordered", "long_history"), some)
    segment = pa.array(["regular" if n % 2 else None for n in range(len(queries))], pa.string())
    start_artifact(paths["features"])
    table = pa.table({"query_id": queries, **{n: pa.array(v, pa.list_(pa.string())) for n, v in lists.items()}})
    pq.write_table(table.append_column("segment", segment), paths["features"] / "training_sequences.parquet")
    finish_artifact(paths["features"], "features")


def _write_generator(paths: dict[str, Path], encoder_layers: int) -> None:
    import torch
    from support.generators import thumbnails

    from onevision.encoder.model import Encoder
    from onevision.encoder.towers import GRID
    from onevision.features.queries import QuerySet
    from onevision.generator.choice import ChoiceModel
    from onevision.generator.choice_items import item_table
    from onevision.generator.configuration import GeneratorConfig
    from onevision.generator.modelling import Generator
    from onevision.quantization.residual import ResidualQuantizer
    from onevision.semantic_ids.catalogue import Catalogue

    encoder = Encoder.from_pretrained(paths["encoder"])
    quantizer = ResidualQuantizer.from_pretrained(paths["quantizer"])
    torch.manual_seed(SEED)
    config = GeneratorConfig(
        d_model=16,
        encoder_layers=encoder_layers,
        decoder_layers=1,
        heads=2,
        feedforward=32,
        history_length=3,
        long_history_length=4,
        token_dim=encoder.tower.token_dim,
        image_tokens=GRID * GRID,
        categories=len(encoder.categories),
        segments=["new", "regular"],
        quantizer=quantizer.settings(),
        generation=open_artifact(paths["quantizer"]).generation or "",
    )
    model = Generator(config)
    model.quantizer.load_state_dict(quantizer.state_dict())
    start_artifact(paths["generator_sft"])
    model.save_pretrained(paths["generator_sft"])
    catalogue = Catalogue.open(paths["semantic_ids"])
    train = QuerySet.load(paths["pairs"], paths["encoder"], paths["features"], split="train")
    items = item_table(catalogue, train, np.zeros(len(catalogue.item_ids), np.int64), thumbnails(catalogue))
    choice = ChoiceModel(items, config.segments, 4, 4).attach(catalogue)
    choice.taste = torch.randn_like(choice.taste)
    choice.save_pretrained(paths["generator_sft"])
    finish_artifact(paths["generator_sft"], "generator", parents={"semantic_ids": open_artifact(paths["semantic_ids"])})
