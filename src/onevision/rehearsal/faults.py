"""What goes wrong on purpose: days that are spoilt before the night, and harm that is done while it runs.

Nothing in the pipeline knows of it. A spoilt day is a snapshot like one that a shop might deliver; harm comes from
outside, by a signal or through the files that a night leaves behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file, save_file

from onevision.artifacts import Artifact, finish_artifact, open_artifact
from onevision.data.contract import TABLES
from onevision.data.snapshot import Snapshot, write_snapshot

CORRUPT, TWICE, FLOOD, LATE = "corrupt day", "delivered twice", "click flood", "late events"
SABOTAGED, STORE_FAILS, EMPTY = "sabotaged challenger", "store fails", "empty day"
FAULTS = (LATE, CORRUPT, SABOTAGED, TWICE, EMPTY, STORE_FAILS, FLOOD)
DECIDED, NOTHING = frozenset({"promoted", "kept"}), frozenset({"nothing to do"})
_STOPPED, _KILLED = frozenset({"stopped"}), frozenset({"killed"})
EXPECTED: Mapping[str, tuple[frozenset[str], ...]] = {
    "": (DECIDED,),
    LATE: (DECIDED,),
    CORRUPT: (_STOPPED,),
    FLOOD: (DECIDED,),
    SABOTAGED: (_KILLED, frozenset({"kept"})),
    TWICE: (DECIDED, NOTHING),
    STORE_FAILS: (frozenset({"failed"}), DECIDED),
    EMPTY: (_STOPPED,),
}
"""Fault -> outcomes that each of the night's attempts may have."""
STAGES_OF_A_NIGHT = (
    "open-champion",
    "validate",
    "pair",
    "embed-shard",
    "merge-embeddings",
    "assign-ids",
    "materialize-features",
    "sft",
    "align-preferences",
    "calibrate-pruning",
    "evaluate",
    "publish",
)
_LAST_KILL = {CORRUPT: "validate", EMPTY: "validate", SABOTAGED: "align-preferences", STORE_FAILS: "calibrate-pruning"}
"""Fault -> the last stage in which the night may be killed before it, so that the fault still comes."""

BOTS, CLICKS = 5, 100
LATE_SHARE = 0.2
_NOISE = 0.5


def kill_stages(fault: str) -> tuple[str, ...]:
    """Stages in one of which a night with this fault is killed first."""
    last = _LAST_KILL.get(fault, STAGES_OF_A_NIGHT[-1])
    return STAGES_OF_A_NIGHT[: STAGES_OF_A_NIGHT.index(last) + 1]


def expected(fault: str, killed_first: bool) -> tuple[frozenset[str], ...]:
    """Outcomes that each of a night's attempts may have.

    Killed first, it may have stopped before the kill came, or been decided already.
    """
    own = EXPECTED[fault]
    if not killed_first:
        return own
    first = own[0] | NOTHING if own[0] == DECIDED else own[0]
    return (_KILLED | (own[0] if own[0] == _STOPPED else frozenset()), first, *own[1:])


def corrupt(day: Path, out: Path, seed: int) -> Path:
    """The day with one byte of its events changed, as a disk or a network does it."""
    shutil.copytree(day, out)
    path = out / TABLES["events"].file
    data = bytearray(path.read_bytes())
    data[int(np.random.default_rng(seed).integers(len(data)))] ^= 0x10
    path.write_bytes(data)
    return out


def empty(day: Path, out: Path, seed: int) -> Path:
    """The day without a single event of its last 24 hours, as after a lost delivery; `seed` is not used."""
    del seed
    shop = Snapshot.open(day)
    events = shop.table("events")
    start = pa.scalar(shop.as_of - timedelta(days=1), events["ts"].type)
    return _with_events(shop, events.filter(pc.less_equal(events["ts"], start)), out)


def flood(day: Path, out: Path, seed: int, dates: Sequence[datetime] = ()) -> Path:
    """The day with `BOTS` users who click `CLICKS` times each on one product, too slowly for a limit by the minute.

    Args:
        dates: ends of the days that they do it on; by default the newest.
    """
    shop = Snapshot.open(day)
    clicks: list[dict[str, object]] = []
    for end in dates or [shop.as_of]:
        rng = np.random.default_rng(seed)
        users, items = (_known_by(shop, table, end) for table in ("users", "items"))
        bots, item = rng.choice(users, BOTS, replace=False), rng.choice(items)
        clicks += [
            {
                "event_id": f"bot-{end:%Y-%m-%d}-{bot}-{click}",
                "ts": end - timedelta(days=1) + timedelta(minutes=14 * click + bot),
                "user_id": user,
                "event_type": "click",
                "item_id": item,
            }
            for bot, user in enumerate(bots)
            for click in range(1, CLICKS + 1)
        ]
    events = shop.table("events")
    return _with_events(shop, pa.concat_tables([events, pa.Table.from_pylist(clicks, events.schema)]), out)


def late(day: Path, out: Path, seed: int) -> Path:
    """The day without a part of the events of its last 24 hours, which come with the next day; the rest in disorder."""
    shop, rng = Snapshot.open(day), np.random.default_rng(seed)
    events = shop.table("events")
    today = pc.greater(events["ts"], pa.scalar(shop.as_of - timedelta(days=1), events["ts"].type)).to_numpy()
    kept = np.flatnonzero(~today | (rng.random(len(events)) >= LATE_SHARE))
    return _with_events(shop, events.take(pa.array(rng.permutation(kept))), out)


def sabotage(generator: Path, seed: int) -> None:
    """Disturb a finished generator's weights, in place and with a right manifest, as a bug in training would."""
    found = open_artifact(generator, "generator")
    draw = torch.Generator().manual_seed(seed)
    for file in ("model.safetensors", "choice.safetensors"):
        weights = load_file(generator / file)
        for name, value in weights.items():
            if value.is_floating_point() and not name.startswith(("quantizer", "item_")):
                weights[name] = value + _NOISE * torch.randn(value.shape, generator=draw)
        (generator / file).unlink()  # other folders hold hard links to it
        save_file(weights, generator / file, metadata={"format": "pt"})
    parents = {name: Artifact(generator, name, identity) for name, identity in found.parents.items()}
    finish_artifact(
        generator, "generator", parents=parents, counts=found.counts, generation=found.generation, extra=found.extra
    )


def break_store(store: Path) -> None:
    """Let every read and write of a bundle fail from now on."""
    (store / "bundles").rename(store / "bundles-away")
    (store / "bundles").write_text("no folder")


def mend_store(store: Path) -> None:
    """Undo `break_store`."""
    (store / "bundles").unlink()
    (store / "bundles-away").rename(store / "bundles")


SPOIL: Mapping[str, Callable[[Path, Path, int], Path]] = {CORRUPT: corrupt, EMPTY: empty, FLOOD: flood, LATE: late}
"""Fault -> what makes the spoilt day out of the day, a folder and a seed."""


def _known_by(shop: Snapshot, table: str, date: datetime) -> list[str]:
    """Ids of the users or items that the shop knew at a date."""
    rows = shop.table(table)
    known = rows.filter(pc.less_equal(rows["created_at"], pa.scalar(date, rows["created_at"].type)))
    return list(known[TABLES[table].key].to_pylist())


def _with_events(shop: Snapshot, events: pa.Table, out: Path) -> Path:
    tables = {name: shop.table(name) for name in TABLES} | {"events": events}
    ids = tables["images"]["image_id"].to_pylist()
    pictures = zip(ids, shop.images.read_many(ids), strict=True)
    write_snapshot(
        out, tables, pictures, snapshot_id=f"{shop.snapshot_id}-spoilt", source=shop.source, as_of=shop.as_of
    )
    return out
