"""Stage `open-champion`: begin a night. Its artifact is the champion, as a local bundle.

The store is held from here to the end of the night. Whether there is anything to do is told by the count `refresh`:
not where this night was decided already, nor where the champion knows this day or a later one.
"""

from __future__ import annotations

import shutil
import uuid
from datetime import datetime
from pathlib import Path

from onevision.data.snapshot import as_utc
from onevision.data.store import download, join
from onevision.errors import OneVisionError
from onevision.publishing.bundle import open_bundle
from onevision.publishing.config import PublishingConfig
from onevision.publishing.nights import DECIDED, Day, Night, read_day
from onevision.publishing.promotion import BUNDLES, Champion, read_champion
from onevision.report import StageReport


def run(
    *,
    out: Path,
    config: PublishingConfig,
    seed: int,
    champion: str,
    snapshot: str,
    recipe_hash: str,
    run: str = "",
) -> StageReport:
    """Take the lease of the store `champion`, and put its champion into `out`; `seed` is not used.

    Raises:
        ArtifactError: no snapshot there, or a champion that is damaged.
        OneVisionError: the store has no champion.
        LockHeld: another night is at work.
    """
    del seed
    day = read_day(snapshot)
    night = Night.of(champion, day, recipe_hash, run or uuid.uuid4().hex[:8])
    _require_champion(champion)
    night.take_over(config.lease_minutes)
    try:
        found = _require_champion(champion)  # a night before may have promoted another one until just now
        reason = _nothing_to_do(night, day, found)
        shutil.rmtree(out, ignore_errors=True)  # what a killed attempt left
        download(join(champion, BUNDLES, found.identity), out)
        open_bundle(out)
        if not reason:
            night.begin(found.identity, day)
    except BaseException:
        night.give_back_lease()
        raise
    report = StageReport("open-champion", counts={"refresh": int(not reason)})
    report.warnings = [f"nothing to do: {reason}"] if reason else []
    return report


def _require_champion(store: str) -> Champion:
    found, _ = read_champion(store)
    if found is None:
        raise OneVisionError(
            f"{store}: has no champion to refresh; begin with a full training that publishes there: "
            f"onevision run full-training --bundle-store {store}"
        )
    return found


def _nothing_to_do(night: Night, day: Day, champion: Champion) -> str:
    """Why this night changes nothing; empty if it may."""
    entry = night.entry()
    if entry is not None and entry["outcome"] in DECIDED:
        again = "" if entry["snapshot_id"] == day.snapshot_id else f", then with snapshot {entry['snapshot_id']}"
        return f"the night {night.key} was decided already ({entry['outcome']}{again})"
    if champion.extra.get("night") == night.key:
        night.begin(champion.identity, day)
        night.record("promoted", bundle=champion.identity)
        return f"the champion {champion.identity} is this night's own bundle"
    known = champion.extra.get("as_of")
    if isinstance(known, str) and _time(known) >= day.as_of:
        return f"the champion {champion.identity} was made from {known[:10]}, the day is {day.as_of:%Y-%m-%d}"
    return ""


def _time(text: str) -> datetime:
    return as_utc(datetime.fromisoformat(text))
