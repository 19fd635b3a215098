"""Which old bundles leave a store, and how: never one that is served or that a rollback may serve.

With the last bundle of an encoder go the pictures that it has embedded; a night that misses them embeds all again.

The pointer names the bundles that are about to go before the first byte of them does. Whoever would serve one of them
either moves the pointer first, and then nothing is deleted, or finds it named and is refused. A killed removal is
finished by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from onevision.artifacts import MANIFEST
from onevision.data.store import PointerConflict, StoredObject, join, open_store, read_pointer, swap_pointer
from onevision.publishing.config import PublishingConfig
from onevision.publishing.history import now, reigns
from onevision.publishing.promotion import BUNDLES, ENCODERS, RETIRING

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
    bundles = _folders(store, BUNDLES)
    going = [b for b in bundles if b in _unkept(pointer, bundles, config, store) or b in pointer.get(RETIRING, [])]
    if not going and not pointer.get(RETIRING):
        _retire_encoders(store, bundles)
        return []
    try:
        version = swap_pointer(store, pointer | {RETIRING: going}, version)
    except PointerConflict:
        return []
    for identity in going:
        _remove(store, BUNDLES, identity, bundles[identity])
    _retire_encoders(store, bundles.keys() - set(going))
    with suppress(PointerConflict):  # the next one clears it
        swap_pointer(store, pointer | {RETIRING: []}, version)
    return going


def _folders(store: str, kind: str) -> dict[str, list[StoredObject]]:
    folders: dict[str, list[StoredObject]] = {}
    for found in open_store(join(store, kind)).objects():
        folders.setdefault(found.name.partition("/")[0], []).append(found)
    return folders


def _remove(store: str, kind: str, identity: str, objects: list[StoredObject]) -> None:
    place = open_store(join(store, kind))
    # without its manifest it is no artifact any more
    for found in sorted(objects, key=lambda found: found.name != f"{identity}/{MANIFEST}"):
        place.delete(found.name)


def _retire_encoders(store: str, bundles: Collection[str]) -> None:
    """Remove the encoders of no bundle that stays, but for those that may be on their way."""
    wanted = set()
    for identity in bundles:
        manifest, _ = open_store(join(store, BUNDLES, identity)).read(MANIFEST)
        wanted.add(json.loads(manifest)["parents"].get("encoder") if manifest else None)
    for identity, objects in _folders(store, ENCODERS).items():
        if identity not in wanted and max(found.updated for found in objects) <= now() - _UNFINISHED:
            _remove(store, ENCODERS, identity, objects)


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
