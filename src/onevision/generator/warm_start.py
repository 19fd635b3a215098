"""Warm start: a generator goes on from its parent on the newest day, with a replay of everything before it.

The day is the newest training searches and the items that entered last; `warm_day_share` of every batch's clicks and
pictures come from it, the rest are drawn from all. Whether the parent was better is for validation days to say.
"""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.errors import ArtifactError
from onevision.features.queries import QuerySet
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.modelling import Generator
from onevision.generator.samples import Samples
from onevision.semantic_ids.catalogue import Catalogue

PARENT = "parent"
"""Name of the check before the first step."""


def warm_config(config: GeneratorTrainingConfig, new_clicks: int) -> GeneratorTrainingConfig:
    """The training of a refresh: stage S2 alone, for as many steps as draw the day's clicks `warm_passes` times."""
    clicks = config.batch_size - round(config.batch_size * config.replay_share)
    wanted = math.ceil(config.warm_passes * new_clicks / max(clicks * config.warm_day_share, 1))
    steps = {"steps_visual": 0, "steps_cooccurrence": 0, "steps_personal": min(max(wanted, 1), config.warm_steps)}
    return config.model_copy(update=steps | {"learning_rate": config.warm_learning_rate})


def open_parent(parent: Path, generation: str, train: QuerySet) -> Generator:
    """The parent's weights; its own architecture goes on.

    Raises:
        ArtifactError: it writes codes of other codebooks, or reads other pictures than this encoder's.
    """
    model = Generator.from_pretrained(parent)
    if model.config.generation != generation:
        raise ArtifactError(
            f"{parent}: writes codes of generation {model.config.generation}, the codebooks are of {generation}"
        )
    reads, given = (model.config.image_tokens, model.config.token_dim), train.tokens.shape[1:]
    if model.config.image_tokens and reads != given:
        raise ArtifactError(f"{parent}: reads pictures as tokens of shape {reads}, this encoder writes {tuple(given)}")
    return model


def of_the_day(pairs: Path, train: QuerySet, days: float) -> NDArray[np.bool_]:
    """Which queries (Q,) are of the newest `days` that hold any training query."""
    table = pq.read_table(pairs / "queries.parquet", columns=["query_id", "ts"])
    ts = table["ts"].take(pc.index_in(pa.array(train.query_id), table["query_id"].combine_chunks()))
    newest = pc.max(ts).as_py()
    recent: NDArray[np.bool_] = pc.greater(ts, pa.scalar(newest - timedelta(days=days), ts.type)).to_numpy()
    return recent


def new_items(catalogue: Catalogue) -> NDArray[np.bool_]:
    """Which items (I,) entered too late to be trained on by the encoder."""
    cold: NDArray[np.bool_] = catalogue.table["cold"].to_numpy()
    return cold


def mostly(samples: Samples, wanted: NDArray[np.bool_], share: float) -> Samples:
    """The samples with the wanted ones (S,) repeated until they are about `share` of all; fewer are never dropped."""
    rows, count = np.arange(len(samples)), int(wanted.sum())
    if not 0 < count < share * len(rows):
        return samples
    # count * times / (rest + count * times) = share
    times = round(share * (len(rows) - count) / ((1 - share) * count))
    drawn = np.concatenate([rows[~wanted], np.repeat(rows[wanted], times)])
    return Samples(samples.prompts, samples.row[drawn], samples.item[drawn], samples.weight[drawn], samples.partner)
