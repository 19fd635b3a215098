"""A tiny random generator with its catalogue, for tests of modelling, decoding and preference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from onevision.artifacts import Artifact
from onevision.distributed import Group
from onevision.features.queries import QuerySet
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.configuration import GeneratorConfig
from onevision.generator.memory import Memory
from onevision.generator.modelling import Generator
from onevision.generator.prompts import PromptBuilder
from onevision.generator.samples import Samples, query_samples
from onevision.generator.training import GeneratorTrainer
from onevision.quantization.residual import ResidualKMeans
from onevision.semantic_ids.catalogue import Catalogue
from onevision.semantic_ids.trie import Trie

DIM, TOKENS, TOKEN_DIM, CATEGORIES = 8, 9, 12, 3
TRAINING = GeneratorTrainingConfig(
    batch_size=8,
    steps_visual=4,
    steps_cooccurrence=2,
    steps_personal=4,
    check_every=2,
    checkpoint_every=2,
    learning_rate=1e-2,
)
HOUR = 3_600_000_000
NOW = 1_750_000_000_000_000
"""When the last query is asked, in microseconds, the others an hour apart; the items are a year old."""
ALONE = Group(0, 1, torch.device("cpu"))


def thumbnails(catalogue: Catalogue, seed: int = 5) -> np.ndarray:
    """Random vectors as thumbnails of a catalogue's items."""
    return np.random.default_rng(seed).normal(size=(len(catalogue.item_ids), 6)).astype(np.float32)


def make_catalogue(items: int = 40, seed: int = 0) -> tuple[Catalogue, ResidualKMeans]:
    """Random unit vectors as items, with semantic IDs by residual k-means; some share an ID."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(items, DIM)).astype(np.float32)
    x[items // 2 :: 7] = x[items // 2 - 1]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    quantizer = ResidualKMeans(DIM, (5, 4), opq_subspaces=2, opq_size=3).fit(x, seed=seed)
    codes = quantizer.encode(x)
    trie, bucket = Trie.build(codes)
    ids = [f"i{n:03d}" for n in range(items)]
    table = pa.table(
        {
            "item_id": ids,
            "category_id": [f"c{n % 3}" for n in range(items)],
            "department_id": ["d"] * items,
            "price": [10.0 + n for n in range(items)],
            "created_at": pa.array([NOW - 365 * 24 * HOUR] * items, pa.timestamp("us", "UTC")),
            "cold": [n % 9 == 8 for n in range(items)],
        }
    )
    catalogue = Catalogue(
        Artifact(Path(), "semantic_ids", "test"),
        ids,
        codes,
        bucket,
        np.r_[0, np.bincount(bucket).cumsum()],
        np.argsort(bucket, kind="stable"),
        x,
        x,
        np.arange(items),
        trie,
        table,
    )
    return catalogue, quantizer


def entered_at(catalogue: Catalogue, created: np.ndarray) -> Catalogue:
    """The catalogue with its items created (I,) at these times."""
    column = catalogue.table.schema.get_field_index("created_at")
    table = catalogue.table.set_column(column, "created_at", pa.array(created, pa.timestamp("us", "UTC")))
    return dataclasses.replace(catalogue, table=table)


def make_generator(quantizer: ResidualKMeans, seed: int = 0, **changes: Any) -> Generator:
    """Random weights, large enough that beams differ; `changes` are of its configuration."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "d_model": 16,
        "heads": 2,
        "feedforward": 32,
        "history_length": 4,
        "long_history_length": 6,
        "token_dim": TOKEN_DIM,
        "image_tokens": TOKENS,
        "categories": CATEGORIES,
        "segments": ["new", "old"],
        "quantizer": quantizer.settings(),
        "generation": "test",
    }
    model = Generator(GeneratorConfig(**(settings | changes)))
    model.quantizer.load_state_dict(quantizer.state_dict())
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_trainer(answers: list[float], seed: int = 0, group: Group = ALONE, **changes: object) -> GeneratorTrainer:
    """A training of ten steps whose five checks have these answers; `changes` are of its configuration."""
    catalogue, quantizer = make_catalogue()
    config = TRAINING.model_copy(update=changes)
    model = make_generator(quantizer, dropout=config.dropout)
    queries = make_queries(catalogue, 6)
    builder = PromptBuilder(model.config, catalogue)
    clicks = query_samples(queries, builder, catalogue, config)
    prompts = builder.pictures(queries.embedding, queries.category, queries.tokens)
    pictures = Samples(prompts, np.arange(6), np.arange(6), np.ones(6, np.float32), np.full(6, -1))
    sids = torch.from_numpy(catalogue.codes.astype(np.int64))
    left = iter(answers)
    category = torch.zeros(len(sids), dtype=torch.long)
    torch.manual_seed(seed)
    return GeneratorTrainer(model, config, pictures, clicks, sids, category, lambda: next(left), seed=seed, group=group)


def log_probability(model: Generator, memory: Memory, target: torch.Tensor) -> torch.Tensor:
    """log pi(SID | prompt), (B,), of semantic IDs `target` (B, L): what beams are held to."""
    levels = model.next_codes(memory, target)
    return torch.stack([log_p.gather(-1, target[:, n : n + 1])[:, 0] for n, log_p in enumerate(levels)]).sum(0)


def make_queries(catalogue: Catalogue, count: int = 6, seed: int = 0) -> QuerySet:
    """Random queries with histories of different lengths."""
    rng = np.random.default_rng(seed)
    embedding = catalogue.embedding[rng.integers(0, len(catalogue.item_ids), count)] + 0.2 * rng.normal(
        size=(count, DIM)
    )
    embedding = (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32)

    def lists(longest: int) -> list[list[str]]:
        return [[str(i) for i in rng.choice(catalogue.item_ids, n % (longest + 1))] for n in range(count)]

    return QuerySet(
        query_id=[f"q{n}" for n in range(count)],
        user_id=[f"u{n}" for n in range(count)],
        image_id=[f"p{n}" for n in range(count)],
        ts=NOW - HOUR * np.arange(count)[::-1],
        image_row=np.arange(count),
        embedding=embedding,
        category=rng.dirichlet(np.ones(CATEGORIES), count).astype(np.float16),
        tokens=rng.normal(size=(count, TOKENS, TOKEN_DIM)).astype(np.float16),
        recent_clicked=lists(6),
        recent_searched=lists(3),
        recent_ordered=lists(2),
        long_history=lists(9),
        segment=["new", "old", None, "unseen", "new", "old"][:count] + [None] * max(0, count - 6),
        clicked=[[str(i)] for i in rng.choice(catalogue.item_ids, count)],
        carted=[[] for _ in range(count)],
        ordered=[[] for _ in range(count)],
        shown=[[str(i) for i in rng.choice(catalogue.item_ids, 5, replace=False)] for _ in range(count)],
        photographed=[None] * count,
        cold_item=np.zeros(count, bool),
        cold_user=np.zeros(count, bool),
        personal=np.zeros(count, bool),
    )
