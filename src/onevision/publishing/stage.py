"""Stage `publish`: judge the challenger, assemble the bundle, and promote it in the bundle store.

The served generator is the aligned one: where alignment failed its own gate, that artifact holds its parent's weights.
Without a store the bundle is only assembled. With one it is uploaded in any case, with its decision, and the pointer
moves only if the gate says so; then bundles leave that the policy no longer keeps. Where servers share a feature store
(`FEATURE_STORE=production`), it is filled first, whatever the gate says: yesterday's shoppers have moved on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onevision.artifacts import (
    Artifact,
    finish_artifact,
    open_artifact,
    read_json,
    require_same_generation,
    start_artifact,
    write_json,
)
from onevision.data.snapshot import Snapshot
from onevision.errors import ArtifactError
from onevision.evaluation.gate import CHALLENGER, decide
from onevision.features.shared import Publication, publish_features
from onevision.features.targets import PRODUCTION, chosen_target
from onevision.publishing.bundle import (
    BUNDLE_KIND,
    CATALOGUE,
    DECISION,
    METRICS,
    MODEL_CARD,
    PARTS,
    copy_part,
    write_catalogue,
)
from onevision.publishing.config import PublishingConfig
from onevision.publishing.headline import Headline, read_headline
from onevision.publishing.model_card import model_card
from onevision.publishing.nights import Night
from onevision.publishing.promotion import Champion, promote, read_champion, upload_bundle, upload_encoder
from onevision.publishing.retention import retire
from onevision.report import ReportTable, StageReport

_KINDS = {
    "encoder": "encoder",
    "quantizer": "quantizer",
    "semantic_ids": "semantic_ids",
    "features": "features",
    "generator_sft": "generator",
    "generator": "generator",
    "pruning": "pruning",
    "evaluation": "evaluation",
}
"""Name among the bundle's parents -> kind; `generator` is the aligned one, which is served."""


@dataclass(frozen=True)
class Challenger:
    """What is judged: the artifacts by their name among the bundle's parents, and their measured metrics."""

    shop: Snapshot
    parents: dict[str, Artifact]
    metrics: dict[str, float]
    headline: Headline

    @property
    def identities(self) -> dict[str, str]:
        """Identities of the artifacts."""
        return {name: artifact.identity for name, artifact in self.parents.items()}


def run(
    *,
    snapshot: Path,
    encoder: Path,
    quantizer: Path,
    semantic_ids: Path,
    features: Path,
    generator_sft: Path,
    generator_aligned: Path,
    pruning: Path,
    evaluation: Path,
    out: Path,
    config: PublishingConfig,
    seed: int,
    store: str | None = None,
    night: str | None = None,
) -> StageReport:
    """Write the `bundle` artifact and, given a store, publish it; see docs/artifacts.md for what is written.

    Args:
        night: the night that publishes, as `open-champion` named it: its lease is renewed first, its outcome recorded
            last.

    Raises:
        ArtifactError: inputs of different generations, or an evaluation that measured other artifacts.
        PointerConflict: another publisher moved the champion meanwhile; run again.
        LockHeld, LeaseLost: another night is at work.
    """
    refresh = Night.parse(night) if night else None
    if refresh:
        refresh.take_lease(config.lease_minutes)
    paths = {
        "encoder": encoder,
        "quantizer": quantizer,
        "semantic_ids": semantic_ids,
        "features": features,
        "generator_sft": generator_sft,
        "generator": generator_aligned,
        "pruning": pruning,
        "evaluation": evaluation,
    }
    challenger = _open_challenger(snapshot, paths)
    champion, version = read_champion(store) if store else (None, 0)
    decision = _decide(challenger, champion, config)
    bundle = _assemble(challenger, decision, out, seed, refresh)
    changed, retired = False, 0
    shared = publish_features(features) if store and chosen_target() == PRODUCTION else None
    if store:
        if decision["promote"]:
            upload_encoder(encoder, store, challenger.parents["encoder"].identity)
        upload_bundle(out, store, bundle.identity)
        changed = decision["promote"] and promote(store, bundle, champion, version)
    if refresh:
        refresh.record("promoted" if decision["promote"] else "kept", _failed(decision), bundle.identity)
    if store:
        retired = len(retire(store, config))
    return _report(bundle, decision, champion, changed, retired, store, shared)


def _open_challenger(snapshot: Path, paths: Mapping[str, Path]) -> Challenger:
    shop = Snapshot.open(snapshot)
    parents = {name: open_artifact(path, _KINDS[name]) for name, path in paths.items()}
    require_same_generation(*parents.values())
    measured = parents["evaluation"].parents
    for name, artifact in {"snapshot": shop.artifact, **parents}.items():
        known_as = "generator_aligned" if name == "generator" else name
        if name != "evaluation" and measured.get(known_as) != artifact.identity:
            raise ArtifactError(
                f"{parents['evaluation'].path}: measured {known_as} {measured.get(known_as)}, but {artifact.path} is "
                f"{artifact.identity}; a bundle is judged by its own figures. Run evaluate on the artifacts to publish."
            )
    metrics = read_json(parents["evaluation"].file(METRICS))
    return Challenger(shop, {"snapshot": shop.artifact, **parents}, metrics, read_headline(parents["evaluation"]))


def _decide(challenger: Challenger, champion: Champion | None, config: PublishingConfig) -> dict[str, Any]:
    """The decision as plain values; a champion made of the same artifacts under the same rules keeps its own."""
    rules = config.rules
    if champion is not None and champion.parents == challenger.identities and champion.decision.get("config") == rules:
        return champion.decision
    held, note = None, ""
    beside = challenger.parents["evaluation"].parents.get("champion")
    if beside is not None:
        if champion is None or beside != champion.identity:
            raise ArtifactError(
                f"{challenger.parents['evaluation'].path}: measured beside bundle {beside}, the champion is now "
                f"{champion.identity if champion else 'none'}; run the night again"
            )
        held = {m: challenger.metrics[f"champion/{m}"] for m in ("hr@10", "mrr@10")}
    elif champion is not None:
        if champion.extra.get("test_queries") == challenger.headline.test_queries:
            prefix = f"{CHALLENGER}/"
            held = {name.removeprefix(prefix): v for name, v in champion.metrics.items() if name.startswith(prefix)}
        else:
            note = (
                f"The champion {champion.identity} was measured on other queries (snapshot "
                f"{champion.extra.get('snapshot_id')}), so its figures were not compared; the challenger was judged "
                "beside dense neighbours alone."
            )
    return {
        **decide(challenger.metrics, config, held).to_json(),
        "system": CHALLENGER,
        "champion": champion.identity if champion else None,
        "note": note,
        "config": rules,
    }


def _assemble(challenger: Challenger, decision: dict[str, Any], out: Path, seed: int, night: Night | None) -> Artifact:
    """Write the bundle; its manifest last."""
    parents, shop = challenger.parents, challenger.shop
    start_artifact(out)
    for name in PARTS:
        copy_part(parents[name], out / name)
    write_catalogue(shop, parents["semantic_ids"], out / CATALOGUE)
    write_json(out / METRICS, challenger.metrics)
    write_json(out / DECISION, decision)
    counts = {"items": parents["semantic_ids"].counts.get("items_assigned", 0), "queries": challenger.headline.queries}
    generation = parents["quantizer"].generation
    card = model_card(
        shop=shop,
        parents=parents,
        headline=challenger.headline,
        decision=decision,
        counts=counts,
        generation=generation,
        seed=seed,
    )
    (out / MODEL_CARD).write_text(card, encoding="utf-8")
    extra = {
        "snapshot_id": shop.snapshot_id,
        "as_of": shop.as_of.isoformat(),
        "test_queries": challenger.headline.test_queries,
        "promote": decision["promote"],
        "beam_width": parents["evaluation"].extra["beam_width"],
    }
    if night:
        extra["night"] = night.key
    return finish_artifact(out, BUNDLE_KIND, parents=parents, counts=counts, extra=extra)


def _failed(decision: dict[str, Any]) -> list[str]:
    return [rule["sentence"] for rule in decision["rules"] if not rule["passed"]]


def _report(
    bundle: Artifact,
    decision: dict[str, Any],
    champion: Champion | None,
    changed: bool,
    retired: int,
    store: str | None,
    shared: Publication | None,
) -> StageReport:
    files = [file for file in bundle.path.rglob("*") if file.is_file()]
    failed = _failed(decision)
    rows = [[r["name"], r["value"], r["bound"], "passes" if r["passed"] else "fails"] for r in decision["rules"]]
    verdict = "promote" if decision["promote"] else "keep the champion"
    where = "no store was given: the bundle was assembled only"
    if store:
        where = f"store {store}: champion is " + (
            bundle.identity if changed else champion.identity if champion else "none yet"
        )
    if shared:
        where += f"; servers read the features of {shared.as_of}"
    return StageReport(
        "publish",
        counts={
            **bundle.counts,
            "bundle_files": len(files),
            "bundle_bytes": sum(file.stat().st_size for file in files),
            "rules_passed": len(rows) - len(failed),
            "rules_failed": len(failed),
            "promoted": int(decision["promote"]),
            "champion_changed": int(changed),
            "bundles_retired": retired,
        },
        warnings=[*failed, *([decision["note"]] if decision["note"] else [])],
        tables=[ReportTable(f"Gate: {verdict}", ["rule", "value", "bound", "verdict"], rows, where)],
    )
