"""Stage `sft`: train the generator, from scratch or from a parent (a refresh)."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.checkpoint import Checkpoint
from onevision.code_version import code_hash
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker
from onevision.distributed import Group, open_group, split_rows
from onevision.encoder.model import Encoder
from onevision.encoder.thumbnails import item_thumbnails
from onevision.errors import OneVisionError
from onevision.features.queries import QuerySet
from onevision.generator.choice_fitting import FittedChoice, fit_choice
from onevision.generator.choice_items import item_table, orders_elsewhere
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.configuration import GeneratorConfig
from onevision.generator.modelling import Generator
from onevision.generator.prompts import PromptBuilder, without_shopper
from onevision.generator.samples import category_tasks, picture_samples, query_samples
from onevision.generator.training import GeneratorTrainer, TrainingLog
from onevision.generator.traits import item_traits
from onevision.generator.warm_choice import open_parent_choice
from onevision.generator.warm_start import PARENT, mostly, new_items, of_the_day, open_parent, warm_config
from onevision.quantization.residual import ResidualQuantizer
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import line_chart
from onevision.reporting.event_file import write_events
from onevision.semantic_ids.catalogue import Catalogue

EVENTS = "training.tfevents"
VALIDATION_QUERIES = 800
VALIDATION_BEAMS = 50


def run(
    *,
    snapshot: Path,
    pairs: Path,
    encoder: Path,
    quantizer: Path,
    semantic_ids: Path,
    features: Path,
    out: Path,
    config: GeneratorTrainingConfig,
    seed: int,
    parent: Path | None = None,
) -> StageReport:
    """Train the generator on the stages P, S1 and S2; see docs/artifacts.md for what is written.

    Under `torchrun` every process comes here with the same arguments; only process 0 writes.

    Args:
        parent: a generator of these codebooks to go on from, by a few steps on the newest day and a replay; its
            weights are kept where validation days like them best. Its choice model goes on as well.
    """
    kinds = {"snapshot": snapshot, "pairs": pairs, "encoder": encoder, "quantizer": quantizer}
    kinds |= {"semantic_ids": semantic_ids, "features": features}
    parents = {kind: open_artifact(path, kind, verify=kind != "snapshot") for kind, path in kinds.items()}
    if parent:
        parents["parent"] = open_artifact(parent, "generator")
    require_same_generation(*parents.values())
    torch.manual_seed(seed)
    catalogue = Catalogue.open(semantic_ids)
    train = QuerySet.load(pairs, encoder, features, split="train")
    held_out = QuerySet.load(pairs, encoder, features, split="validation")
    if not len(held_out):
        raise OneVisionError(f"{pairs}: no validation query has a click; widen pairing.validation_days")
    validation = held_out.take(np.arange(len(held_out))[-VALIDATION_QUERIES:])
    generation = parents["quantizer"].generation or ""
    if parent:
        model = open_parent(parent, generation, train)
    else:
        model = build_generator(config, encoder, quantizer, train, generation)
    if not model.config.shopper:
        train, held_out, validation = (without_shopper(queries) for queries in (train, held_out, validation))
    builder = PromptBuilder(model.config, catalogue)
    pictures = picture_samples(encoder, builder, catalogue)
    clicks = query_samples(train, builder, catalogue, config)
    categories = _category_rows(encoder, catalogue)
    patches = train.tokens.shape[1:]
    tasks = category_tasks(catalogue, categories, model.quantizer, builder, patches, config)
    if parent:
        day = of_the_day(pairs, train, config.warm_days)[clicks.row]
        config = warm_config(config, int(day.sum()))
        clicks = mostly(clicks, day, config.warm_day_share)
        new = new_items(catalogue)
        pictures = mostly(pictures, new[pictures.item], config.warm_day_share)
        tasks = [(mostly(task, new[task.item], config.warm_day_share), share) for task, share in tasks]
    ranker = GeneratorRanker(model, catalogue)
    identities = {name: artifact.identity for name, artifact in parents.items()}
    work = [config.model_dump(), seed, identities, code_hash(__name__), torch.__version__]
    checkpoint = Checkpoint.of("sft", out, work)
    with open_group() as group:
        if group.rank == 0:
            start_artifact(out)

        def validate() -> float:
            return share_found(ranker, validation, group)

        before = (validate(), copy.deepcopy(model.state_dict())) if parent else None
        model.to(group.device)
        targets = torch.from_numpy(catalogue.codes.astype(np.int64)), torch.from_numpy(categories)
        trainer = GeneratorTrainer(
            model, config, pictures, clicks, *targets, validate, seed=seed, group=group, tasks=tasks
        )
        log = trainer.run(checkpoint)
        model.cpu()
        if group.rank > 0:
            return StageReport("sft")
    if before is not None:
        log.checks = {PARENT: before[0], **log.checks}
        if before[0] >= log.checks[log.kept]:
            model.load_state_dict(before[1])
            log.kept = PARENT
    shop = Snapshot.open(snapshot)
    thumbnail = item_thumbnails(shop, catalogue.item_ids)
    traits = item_traits(catalogue, shop, encoder, thumbnail)
    items = item_table(catalogue, train, categories, thumbnail, orders_elsewhere(shop, pairs, catalogue))
    known = open_parent_choice(parent, catalogue, traits) if parent else None
    choice = fit_choice(ranker, items, traits, train, held_out, config, seed, known)
    model.save_pretrained(out)
    choice.model.save_pretrained(out)
    write_json(out / "history.json", {"steps": log.steps, "loss": log.loss, "checks": log.checks, "kept": log.kept})
    write_events(out / EVENTS, log.curves())
    counts = {
        "pictures": len(pictures),
        "queries": len(train),
        "clicks_and_orders": len(clicks),
        "queries_without_target": len(train) - len(np.unique(clicks.row)),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    finish_artifact(out, "generator", parents=parents, counts=counts)
    checkpoint.remove()
    return _report(log, choice, counts)


def share_found(ranker: GeneratorRanker, validation: QuerySet, group: Group) -> float:
    """Share of the first clicks that are among the items of `VALIDATION_BEAMS` beams, in whatever order: that is for
    the choice model to say. Each process asks its share of the searches, on its CPU."""
    bounds = split_rows(len(validation), group.size)
    mine = validation.take(np.arange(len(validation))[group.share(bounds)])
    number = ranker.prompts.number
    first = np.array([number.get(clicked[0], -2) for clicked in mine.clicked], dtype=np.int64)
    device = next(ranker.model.parameters()).device
    ranker.model.cpu().eval()
    items = ranker.find(mine, VALIDATION_BEAMS)[0]
    ranker.model.to(device)
    found = torch.from_numpy((items == first[:, None]).any(axis=1)).double()
    return group.gather(found.to(group.device), bounds).mean().item()


def build_generator(
    config: GeneratorTrainingConfig, encoder: Path, quantizer: Path, train: QuerySet, generation: str
) -> Generator:
    """An untrained generator that carries the frozen codebooks."""
    codebooks = ResidualQuantizer.from_pretrained(quantizer)
    settings = GeneratorConfig(
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        heads=config.heads,
        feedforward=config.feedforward,
        dropout=config.dropout,
        history_length=config.history_length,
        long_history_length=config.long_history_length,
        token_dim=train.tokens.shape[2],
        image_tokens=train.tokens.shape[1] if config.patch_tokens else 0,
        own_id=config.own_id,
        shopper=config.shopper,
        categories=len(Encoder.read_categories(encoder)),
        segments=sorted({s for s in train.segment if s}),
        quantizer=codebooks.settings(),
        generation=generation,
    )
    model = Generator(settings)
    model.quantizer.load_state_dict(codebooks.state_dict())
    return model


def _report(log: TrainingLog, choice: FittedChoice, counts: dict[str, int]) -> StageReport:
    curve = line_chart(log.steps, {"loss": list(log.loss)}, title="Generator loss")
    checks = [[name, round(value, 4), "kept" if name == log.kept else ""] for name, value in log.checks.items()]
    found = f"clicks among the items of {VALIDATION_BEAMS} beams"
    return StageReport(
        "sft",
        counts=counts,
        metrics={
            "validation_found": max(log.checks.values(), default=0.0),
            "validation_found_guided": choice.found[choice.model.guidance],
        },
        warnings=[] if log.kept.startswith("S2") else [f"the best check on validation days was {log.kept or 'none'}"],
        tables=[ReportTable("Checks on validation days", ["stage and step", found, "kept"], checks), *choice.tables()],
        figures=[Figure("Generator loss", "svg", curve, "Negative log-probability of the semantic ID; P, S1, S2.")],
    )


def _category_rows(encoder: Path, catalogue: Catalogue) -> np.ndarray:
    row = {category: n for n, category in enumerate(Encoder.read_categories(encoder))}
    return np.array([row.get(c, -1) for c in catalogue.table["category_id"].to_pylist()])
