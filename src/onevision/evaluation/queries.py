"""Measure a bundle on anybody's judged queries: a table of photos and the items that would be right.

    image,relevant,user
    photos/one.jpg,"sku-1,sku-7",
    photos/two.jpg,sku-4,shopper-9

`image` is a path (relative to the table) or, in Parquet, the picture's bytes; `relevant` a list of item ids or text
with commas; `user` may be left out. A row that cannot be measured is set aside and counted with its reason.
"""

from __future__ import annotations

import difflib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tqdm import tqdm

from onevision.artifacts import check_output_folder, finish_artifact, open_artifact, start_artifact, write_json
from onevision.data.images import ImageError, decode_image
from onevision.encoder.model import Encoder
from onevision.errors import ContractError, OneVisionError
from onevision.evaluation.comparison import PLACES, Comparison, Truth
from onevision.evaluation.dense import DenseSearch
from onevision.report import ReportTable, StageReport

REQUIRED, OPTIONAL = ("image", "relevant"), ("user",)
KIND = "query_evaluation"
_BATCH = 64
_SYSTEMS = (("bundle", "dense"),)


@dataclass(frozen=True)
class JudgedQuery:
    """One row that can be measured; `row` counts from 1, as a spreadsheet without its header does."""

    row: int
    image: bytes
    relevant: list[int]
    user: str | None


def evaluate_queries(
    bundle: Path, queries: Path, *, features: Path | None = None, out: Path | None = None
) -> StageReport:
    """Measure a bundle, beside dense neighbours of its own encoder, on judged queries.

    Args:
        bundle: a `bundle` artifact.
        queries: the table, `.csv` or `.parquet`.
        features: the `features` artifact with the users' sequences; without it every user is a cold one.
        out: also write the figures, every query's rank and the rows set aside, as an artifact.

    Raises:
        ContractError: the table cannot be read or lacks a column.
        OneVisionError: no row can be measured, or `out` cannot be written to without harm.
    """
    from onevision.serving.search import Searcher

    began = time.perf_counter()
    if out is not None:
        check_output_folder(out, {"bundle": bundle, "queries": queries, "features": features or []}, KIND)
    artifact = open_artifact(bundle, "bundle")
    searcher = Searcher.open(bundle, features)
    items = pq.read_table(bundle / "semantic_ids" / "items.parquet", columns=["item_id", "bucket"])
    row_of = {item: row for row, item in enumerate(items["item_id"].to_pylist())}
    encoder = Encoder.from_pretrained(bundle / "encoder").freeze()
    judged, aside, unknown = read_queries(queries, row_of, encoder.image_size)
    if not judged:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in Counter(reason for _, reason in aside).items())
        raise OneVisionError(f"{queries}: none of its {len(aside)} rows can be measured ({reasons or 'it is empty'})")
    comparison = Comparison.of(
        {"bundle": _search(searcher, judged, row_of), "dense": _nearest(bundle, encoder, judged, len(row_of))},
        Truth.of_relevant([query.relevant for query in judged]),
        bucket=items["bucket"].to_numpy(),
    )
    counts = {
        "queries_in": len(judged) + len(aside),
        "queries_measured": len(judged),
        "queries_set_aside": len(aside),
        "queries_without_user": sum(query.user is None for query in judged),
        "relevant_items_unknown": unknown,
    }
    report = StageReport(
        "evaluate-queries",
        counts=counts,
        metrics=comparison.metrics() | comparison.difference_metrics(_SYSTEMS),
        warnings=_warnings(counts, features),
        tables=[comparison.table(), comparison.difference_table(_SYSTEMS), _aside_table(aside)],
        seconds=time.perf_counter() - began,
    )
    if out is not None:
        start_artifact(out)
        write_json(out / "metrics.json", report.metrics)
        ranks = {name: pa.array(found, pa.int32(), mask=found == 0) for name, found in comparison.ranks.items()}
        pq.write_table(pa.table({"row": [query.row for query in judged], **ranks}), out / "ranks.parquet")
        reasons_table = {"row": [row for row, _ in aside], "reason": [reason for _, reason in aside]}
        schema = pa.schema([("row", pa.int64()), ("reason", pa.string())])
        pq.write_table(pa.table(reasons_table, schema=schema), out / "set_aside.parquet")
        finish_artifact(out, KIND, parents={"bundle": artifact}, counts=counts)
    return report


def read_queries(
    path: Path, row_of: dict[str, int], image_size: int
) -> tuple[list[JudgedQuery], list[tuple[int, str]], int]:
    """Read judged queries.

    Args:
        row_of: item id -> row of the catalogue.
        image_size: pixels a side that the encoder sees; a picture that cannot be decoded to it is set aside.

    Returns:
        the queries; (row, reason) of those set aside; relevant items that the catalogue does not have, over all
        measured queries.
    """
    judged: list[JudgedQuery] = []
    aside: list[tuple[int, str]] = []
    unknown = 0
    for number, raw in enumerate(tqdm(_rows(path), desc="read", unit="query", disable=None), start=1):
        try:
            wanted = _relevant(raw["relevant"])
            known = [row_of[item] for item in wanted if item in row_of]
            if not known:
                raise ContractError("no relevant item is in the catalogue" if wanted else "no relevant item is given")
            image = _image(raw["image"], path.parent)
            decode_image(image, image_size)
        except (ContractError, ImageError) as error:
            aside.append((number, str(error)))
            continue
        unknown += len(wanted) - len(known)
        judged.append(JudgedQuery(number, image, known, str(raw["user"]) if raw.get("user") else None))
    return judged, aside, unknown


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
            columns = list(pd.read_csv(path, nrows=0).columns)
        elif path.suffix == ".parquet":
            arrow = pq.read_table(path)
            table, columns = arrow.to_pylist(), arrow.column_names
        else:
            raise ContractError(f"{path}: a query table ends in .csv or .parquet")
    except (OSError, ValueError) as error:  # pandas and pyarrow: unreadable, not a table
        raise ContractError(f"{path}: cannot be read as a table ({error})") from None
    for wanted in REQUIRED:
        if wanted not in columns:
            close = difflib.get_close_matches(wanted, columns, n=1)
            hint = f"; is {close[0]!r} meant?" if close else ""
            raise ContractError(
                f"{path}: no column {wanted!r}{hint} It has {', '.join(columns) or 'none'}; "
                f"wanted are {', '.join(REQUIRED)} and, if known, {', '.join(OPTIONAL)}"
            )
    return [{str(key): value for key, value in row.items()} for row in table]


def _relevant(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else (value or [])
    return list(dict.fromkeys(text for part in parts if (text := str(part).strip())))


def _image(value: Any, folder: Path) -> bytes:
    if isinstance(value, bytes):
        return value
    if not value:
        raise ContractError("no image is given")
    try:
        return (folder / str(value)).read_bytes()
    except OSError:
        raise ContractError("the image file cannot be read") from None


def _search(searcher: Any, judged: list[JudgedQuery], row_of: dict[str, int]) -> NDArray[np.int64]:
    found = np.full((len(judged), PLACES), -1, dtype=np.int64)
    for start in tqdm(range(0, len(judged), _BATCH), desc="search", disable=None):
        batch = judged[start : start + _BATCH]
        answers = searcher.search_many([q.image for q in batch], [q.user for q in batch], PLACES)
        for row, answer in enumerate(answers, start=start):
            found[row, : len(answer.hits)] = [row_of[hit.item_id] for hit in answer.hits]
    return found


def _nearest(bundle: Path, encoder: Encoder, judged: list[JudgedQuery], items: int) -> NDArray[np.int64]:
    arrays = load_file(bundle / "semantic_ids" / "item_embeddings.safetensors")
    dense = DenseSearch(arrays["view_embedding"], arrays["view_item"], items)
    parts = []
    for start in range(0, len(judged), _BATCH):
        pixels = np.stack([decode_image(q.image, encoder.image_size) for q in judged[start : start + _BATCH]])
        parts.append(dense.search(encoder.embed(pixels).embedding, PLACES)[0])
    return np.concatenate(parts)


def _warnings(counts: dict[str, int], features: Path | None) -> list[str]:
    warnings = []
    if counts["queries_set_aside"]:
        warnings.append(f"{counts['queries_set_aside']} of {counts['queries_in']} rows were set aside; see the table")
    if counts["relevant_items_unknown"]:
        warnings.append(
            f"{counts['relevant_items_unknown']} relevant items are not in the bundle's catalogue and were left out"
        )
    if features is None and counts["queries_without_user"] < counts["queries_measured"]:
        warnings.append("users are named but no features were given: all were measured as cold users")
    return warnings


def _aside_table(aside: list[tuple[int, str]]) -> ReportTable:
    rows: list[list[Any]] = []
    for reason, count in Counter(reason for _, reason in aside).most_common():
        numbers = [str(row) for row, why in aside if why == reason]
        rows.append([reason, count, ", ".join(numbers[:10]) + (", ..." if len(numbers) > 10 else "")])
    return ReportTable("Rows set aside", ["reason", "rows", "which"], rows, "Rows count from 1, without the header.")
