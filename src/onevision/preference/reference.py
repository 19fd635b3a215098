"""The reference of alignment, which is computed once and stored: what the parent chose among, and how probably."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from onevision.artifacts import open_artifact
from onevision.generator.choice import ChoiceModel
from onevision.preference.slates import Slates

REFERENCE = "reference.parquet"
BATCH = 512


@dataclass
class Reference:
    """Of Q training searches, each with C places.

    Attributes:
        items: (Q, C) what the parent's beams found, -1 for none.
        sid_log_p: (Q, C) log-probabilities of their semantic IDs.
        log_p: (Q, C) log pi_ref, of choosing each of them.
    """

    query_id: list[str]
    items: NDArray[np.int64]
    sid_log_p: NDArray[np.float32]
    log_p: NDArray[np.float32]

    @classmethod
    def of(cls, parent: ChoiceModel, query_id: list[str], slates: Slates) -> Reference:
        """What the parent says of slates."""
        with torch.no_grad():
            rows = torch.arange(len(slates.items)).split(BATCH)
            log_p = torch.cat([slates.take(part).scores(parent) for part in rows])
        return cls(query_id, slates.items.numpy(), slates.log_p.numpy(), log_p.numpy())

    def ranked(self) -> NDArray[np.int64]:
        """(Q, C) the items in the parent's order."""
        return np.take_along_axis(self.items, np.argsort(-self.log_p, axis=1, kind="stable"), axis=1)

    def save(self, folder: Path) -> None:
        """Write `reference.parquet`: one row a search."""
        columns = {"item": self.items.astype(np.int32), "sid_log_p": self.sid_log_p, "log_p": self.log_p}
        width = self.items.shape[1]
        lists = {name: pa.FixedSizeListArray.from_arrays(values.ravel(), width) for name, values in columns.items()}
        pq.write_table(pa.table({"query_id": self.query_id, **lists}), folder / REFERENCE)

    @classmethod
    def open(cls, generator: Path) -> Reference:
        """Read it from the artifact of `align-preferences`."""
        table = pq.read_table(open_artifact(generator, "generator").file(REFERENCE))
        items, sid_log_p, log_p = (np.stack(table[name].to_numpy()) for name in ("item", "sid_log_p", "log_p"))
        return cls(table["query_id"].to_pylist(), items.astype(np.int64), sid_log_p, log_p)
