"""Stage `validate`: check a snapshot against the contract, set bad rows aside with the reason, prove what is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import MANIFEST, REPORTS, copy_tree, finish_artifact, start_artifact
from onevision.data.contract import SNAPSHOT_KIND, TABLES
from onevision.data.images import INDEX
from onevision.data.snapshot import IMAGES_FOLDER, Snapshot
from onevision.errors import ContractError
from onevision.report import Figure, ReportTable, StageReport
from onevision.validation.config import ValidationConfig
from onevision.validation.history import DayCheck, day_table
from onevision.validation.inspection import Inspection
from onevision.validation.page import DATA_DOCS, data_docs
from onevision.validation.pictures import bad_pictures, sample_pictures
from onevision.validation.proof import QUARANTINE, prove
from onevision.validation.suites import require_great_expectations

_EARLIER = "earlier"
"""Inside the quarantine: what an importer had set aside before."""


def run(
    *, snapshot: Path | str, out: Path, config: ValidationConfig, seed: int, champion: Path | None = None
) -> StageReport:
    """Write a clean `snapshot` artifact; the rows set aside lie in `quarantine/` with their reasons.

    Args:
        snapshot: folder of a snapshot, or `gs://bucket/prefix`.
        champion: the bundle that is served: the newest day is then compared with those before it, and its catalogue.

    Raises:
        ContractError: a table that is missing, of other columns or types, or empty; or one of which too much is set
            aside (the quarantine is then in `out`, without a manifest).
        MissingDependencyError: Great Expectations is not installed.
    """
    require_great_expectations()
    source = Snapshot.open(snapshot)
    ids = [i for i in pq.read_table(source.path / TABLES["images"].file)["image_id"].to_pylist() if i is not None]
    decoded = sample_pictures(ids, config.image_sample, seed)
    bad = bad_pictures(source.images, ids, decoded, config.max_image_pixels)
    inspection = Inspection(source.path, source.as_of, bad, memory_gb=config.memory_gb)
    _require_rows(inspection, source.path)
    inspection.set_bad_rows_aside()
    day = DayCheck(inspection, champion, config) if champion else None
    if day:
        for rule in day.flood_rules():
            inspection.set_aside(rule)

    start_artifact(out)
    for name in TABLES:
        inspection.write_aside(name, out / QUARANTINE / TABLES[name].file)
    _enforce_policy(inspection, config, out)
    measures, judged, odd = day.judge() if day else ([], [], [])
    _write_clean(source, inspection, out)
    written = Inspection(out, source.as_of, bad, memory_gb=config.memory_gb)
    outcomes = prove(inspection, written, out, config)
    page = data_docs(source, inspection, outcomes + judged)
    (out / DATA_DOCS).write_text(page)
    counts = _counts(inspection, source, ids, len(decoded))
    finish_artifact(
        out, SNAPSHOT_KIND, parents={"snapshot": source.artifact}, counts=counts, extra=dict(source.artifact.extra)
    )
    return StageReport(
        stage="validate",
        counts=counts,
        warnings=[*_warnings(inspection, counts, config), *odd],
        tables=[_table_table(inspection), _reason_table(inspection), *([day_table(measures)] if day else [])],
        figures=[Figure("Data docs", "html", page, "What Great Expectations found in what is left.")],
    )


def _require_rows(inspection: Inspection, path: Path) -> None:
    for name, table in TABLES.items():
        if table.required and inspection.rows[name] == 0:
            raise ContractError(f"{path / table.file}: table {name!r} is empty; it is required ({table.meaning})")


def _enforce_policy(inspection: Inspection, config: ValidationConfig, out: Path) -> None:
    problems = []
    for name, table in TABLES.items():
        rows, left, aside = inspection.rows[name], inspection.rows_left(name), inspection.rows_refused(name)
        if aside > config.max_quarantine_share * rows:
            problem = (
                f"{aside:,} of {rows:,} rows ({aside / rows:.1%}) do not fit the contract, more than "
                f"validation.max_quarantine_share = {config.max_quarantine_share:.1%}"
            )
        elif table.required and left < config.min_rows:
            problem = f"{left:,} rows are left of {rows:,}, fewer than validation.min_rows = {config.min_rows:,}"
        else:
            continue
        top = "; ".join(f"{f.rows:,} x {f.example}" for f in inspection.findings(name)[:3]) or "no row was set aside"
        problems.append(f"table {name!r}: {problem}. Most often: {top}. The rows: {out / QUARANTINE / table.file}")
    if problems:
        listing = "\n".join(problems)
        raise ContractError(f"{listing}\nEach quarantined row has its reason; correct the source, then validate again")


def _write_clean(source: Snapshot, inspection: Inspection, out: Path) -> None:
    rewritten = {table.file for table in TABLES.values()} | {MANIFEST, *REPORTS, DATA_DOCS}
    for entry in sorted(source.path.iterdir()):
        if entry.name == QUARANTINE:
            copy_tree(entry, out / QUARANTINE / _EARLIER)
        elif entry.is_dir():
            copy_tree(entry, out / entry.name)
        elif entry.name not in rewritten:
            shutil.copy2(entry, out / entry.name)
    for name, table in TABLES.items():
        inspection.write_left(name, out / table.file)
    index_path = out / IMAGES_FOLDER / INDEX
    index = pq.read_table(index_path)
    kept = pc.is_in(index["image_id"], pq.read_table(out / TABLES["images"].file)["image_id"])
    index_path.unlink()  # perhaps a hard link to the source's index, which must not change
    pq.write_table(index.filter(kept), index_path)


def _counts(inspection: Inspection, source: Snapshot, ids: list[str], decoded: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in TABLES:
        rows, left = inspection.rows[name], inspection.rows_left(name)
        counts |= {f"{name}_in": rows, f"{name}_out": left, f"{name}_quarantined": rows - left}
    return counts | {
        "pictures_in_store": len(source.images),
        "pictures_without_row": len(set(source.images.ids) - set(ids)),
        "pictures_decoded": decoded,
    }


def _warnings(inspection: Inspection, counts: dict[str, int], config: ValidationConfig) -> list[str]:
    warnings = [
        f"{f.rows:,} rows of {f.table} are odd, but stay: {f.rule} ({f.example})" for f in inspection.warning_findings()
    ]
    if config.image_sample < 1:
        warnings.append(
            f"{counts['pictures_decoded']:,} of {counts['images_in']:,} pictures were decoded "
            f"(validation.image_sample = {config.image_sample:g}); the others are taken on trust"
        )
    if without_row := counts["pictures_without_row"]:
        warnings.append(f"{without_row:,} pictures of the image store have no row in table 'images' and are left out")
    if inspection.rows["users"] == 0:
        warnings.append("table 'users' is empty: the user_id of events was not checked")
    return warnings


def _table_table(inspection: Inspection) -> ReportTable:
    rows = []
    for name in TABLES:
        total, left = inspection.rows[name], inspection.rows_left(name)
        rows.append([name, total, left, total - left, f"{(total - left) / max(total, 1):.2%}"])
    return ReportTable("Rows", ["table", "in", "out", "quarantined", "share"], rows)


def _reason_table(inspection: Inspection) -> ReportTable:
    rows = [[f.table, f.rule, f.column, f.rows, f.example] for f in inspection.findings()]
    caption = "Every reason for which rows were set aside; the rows themselves are in quarantine/."
    return ReportTable("Rows set aside", ["table", "rule", "column", "rows", "example"], rows, caption)
