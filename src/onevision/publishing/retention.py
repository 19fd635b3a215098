"""Which old bundles leave a store, and how: never one that is served or that a rollback may serve.

The pointer names the bundles that are about to go before the first byte of them does. Whoever would serve one of them
either moves the pointer first, and then nothing is deleted, or finds it named and is refused. A killed removal is
finished by the next one.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from onevision.artifacts import MANIFEST
from onevision.data.store import PointerConflict, StoredObject, join, open_store, read_pointer, swap_pointer
from onevision.publishing.config import PublishingConfig
from onevision.publishing.history import now, reigns
from onevision.publishing.promotion import BUNDLES, RETIRING

_UNFINISHED = timedelta(days=1)
"""An upload without a manifest that nothing was added to for so long was killed."""


def retire(store: str, config: PublishingConfig) -> list[str]:
    """Remove the bundles that the policy no longer keeps; their identities, in order.

    Kept are the champion, the one that a rollback would serve, the last `keep_bundles` that were uploaded and every
    champion of the last `keep_champion_days`. Nothing is removed from a store without a champion, nor when somebody
    else changes the champion meanwhile.
    """
    pointer, version = read_pointer(store)
    if pointer is None:
        return []
    bundles = _bundles(store)
    going = [b for b in bundles if b in _unkept(pointer, bundles, config, store) or b in pointer.get(RETIRING, [])]
    if not going and not pointer.get(RETIRING):
        return []
    try:
        version = swap_pointer(store, pointer | {RETIRING: going}, version)
    except PointerConflict:
        return []
    place = open_store(join(store, BUNDLES))
    for identity in going:
        # without its manifest it is no bundle any more
        for found in sorted(bundles[identity], key=lambda found: found.name != f"{identity}/{MANIFEST}"):
            place.delete(found.name)
    with suppress(PointerConflict):  # the next one clears it
        swap_pointer(store, pointer | {RETIRING: []}, version)
    return going


def _bundles(store: str) -> dict[str, list[StoredObject]]:
    bundles: dict[str, list[StoredObject]] = {}
    for found in open_store(join(store, BUNDLES)).objects():
        bundles.setdefault(found.name.partition("/")[0], []).append(found)
    return bundles


def _unkept(
    pointer: dict[str, Any], bundles: dict[str, list[StoredObject]], config: PublishingConfig, store: str
) -> set[str]:
    today = now()
    uploaded: dict[str, datetime] = {}
    kept = {pointer.get("bundle"), pointer.get("previous")}
    for identity, objects in bundles.items():
        manifest = next((found for found in objects if found.name == f"{identity}/{MANIFEST}"), None)
        if manifest is not None:
            uploaded[identity] = manifest.updated
        elif max(found.updated for found in objects) > today - _UNFINISHED:
            kept.add(identity)
    kept.update(sorted(uploaded, key=lambda identity: (uploaded[identity], identity))[-config.keep_bundles :])
    earliest = today - timedelta(days=config.keep_champion_days)
    kept.update(reign.bundle for reign in reigns(pointer, store) if reign.until is None or reign.until >= earliest)
    return bundles.keys() - kept
