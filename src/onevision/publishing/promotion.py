"""A bundle store and its champion: `bundles/<identity>/`, `encoders/<identity>/` and the pointer `champion.json`.

The order makes a killed publish harmless: a bundle's files, then its manifest, then the pointer in one step. Whatever
is cut off, the pointer names a whole bundle; running again does what is left. The pointer also tells the champions
before (`history.py`) and the bundles that are being removed (`retention.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onevision.artifacts import MANIFEST, Artifact
from onevision.data.store import PointerConflict, download, join, open_store, read_pointer, swap_pointer, upload
from onevision.errors import ArtifactError
from onevision.publishing.bundle import DECISION, METRICS
from onevision.publishing.history import HISTORY, How, extended

BUNDLES, ENCODERS = "bundles", "encoders"
RETIRING = "retiring"


@dataclass(frozen=True)
class Champion:
    """The bundle that is served, as its store tells.

    Attributes:
        parents: identities of the artifacts it was made from.
        extra: of its manifest.
        previous: identity of the champion before it, None if it was the first.
    """

    identity: str
    parents: dict[str, str]
    extra: dict[str, Any]
    metrics: dict[str, float]
    decision: dict[str, Any]
    previous: str | None = None


def read_champion(store: str) -> tuple[Champion | None, int]:
    """The champion of a store and the version of the pointer; `(None, 0)` in a store that has none yet.

    Raises:
        ArtifactError: the pointer or the bundle that it names is damaged; a challenger is not compared with nothing.
    """
    pointer, version = read_pointer(store)
    if pointer is None:
        return None, version
    identity = pointer.get("bundle")
    if not isinstance(identity, str):
        raise ArtifactError(f"{store}: champion.json has no text under 'bundle': {pointer}")
    manifest = _read_manifest(store, identity)
    champion = Champion(
        identity=identity,
        parents=manifest["parents"],
        extra=manifest["extra"],
        metrics=_read_checked(store, identity, manifest, METRICS),
        decision=_read_checked(store, identity, manifest, DECISION),
        previous=pointer.get("previous"),
    )
    return champion, version


def upload_bundle(bundle: Path, store: str, identity: str) -> str:
    """Send a bundle to its own place in the store (nothing is sent twice); where it is."""
    place = join(store, BUNDLES, identity)
    upload(bundle, place)
    return place


def upload_encoder(encoder: Path, store: str, identity: str) -> str:
    """Send an encoder with the pictures that it has embedded, so that the next night embeds new ones alone."""
    place = join(store, ENCODERS, identity)
    upload(encoder, place)
    return place


def fetch_encoder(store: str, identity: str, out: Path) -> bool:
    """Fetch an encoder with its embedded pictures into the empty folder `out`; false if the store does not keep it."""
    place = join(store, ENCODERS, identity)
    if open_store(place).read(MANIFEST)[0] is None:
        return False
    download(place, out)
    return True


def promote(store: str, bundle: Artifact, champion: Champion | None, version: int) -> bool:
    """Make an uploaded bundle the champion, if the pointer still has the version it was decided with.

    Returns:
        whether the pointer changed; a bundle that is the champion already stays it.

    Raises:
        PointerConflict: somebody else promoted since; decide again.
        ArtifactError: the same bundle was uploaded long ago and is being removed.
    """
    if champion is not None and champion.identity == bundle.identity:
        return False
    _point(store, bundle.identity, bundle.generation, version, "promoted")
    return True


def roll_back(store: str, identity: str | None = None) -> str:
    """Point the store at an earlier bundle: the one named, or the champion before this one; its identity.

    Raises:
        ArtifactError: there is no champion, none before it, or the bundle is not whole.
        PointerConflict: somebody else changed the champion meanwhile; look again.
    """
    pointer, version = read_pointer(store)
    if pointer is None:
        raise ArtifactError(f"{store}: has no champion, so there is nothing to roll back")
    target = identity or pointer.get("previous")
    if not isinstance(target, str):
        raise ArtifactError(f"{store}: its champion {pointer.get('bundle')} was the first; name a bundle to serve")
    manifest = _read_manifest(store, target)
    _require_whole(store, target, manifest)
    if target != pointer.get("bundle"):
        _point(store, target, manifest["generation"], version, "rolled back")
    return target


def _point(store: str, identity: str, generation: str | None, version: int, how: How) -> None:
    pointer, found = read_pointer(store)
    if found != version:
        raise PointerConflict(f"{store}: champion.json is at version {found}, expected {version}; somebody changed it")
    retiring = pointer.get(RETIRING, []) if pointer else []
    if identity in retiring:
        raise ArtifactError(f"{store}: bundle {identity} is being removed from the store; publish it again later")
    value = {
        "bundle": identity,
        "path": f"{BUNDLES}/{identity}",
        "generation": generation,
        "previous": pointer.get("bundle") if pointer else None,
        RETIRING: retiring,
        HISTORY: extended(pointer, identity, how),
    }
    swap_pointer(store, value, version)


def _require_whole(store: str, identity: str, manifest: dict[str, Any]) -> None:
    place = join(store, BUNDLES, identity)
    sizes = {found.name: found.bytes for found in open_store(place).objects()}
    for name, entry in manifest["files"].items():
        if sizes.get(name) != entry["bytes"]:
            raise ArtifactError(
                f"{join(place, name)}: {sizes.get(name, 'no')} bytes there, the manifest says {entry['bytes']}; "
                "the store holds no whole bundle"
            )


def _read_manifest(store: str, identity: str) -> dict[str, Any]:
    place = join(store, BUNDLES, identity)
    data, _ = open_store(place).read(MANIFEST)
    if data is None:
        raise ArtifactError(f"{place}: no {MANIFEST} there; the store holds no whole bundle {identity!r}")
    manifest = _parse(data, join(place, MANIFEST))
    if manifest.get("identity") != identity:
        raise ArtifactError(f"{place}: its manifest is of bundle {manifest.get('identity')!r}")
    return manifest


def _read_checked(store: str, identity: str, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    place = join(store, BUNDLES, identity)
    data, _ = open_store(place).read(name)
    wanted = manifest["files"].get(name, {}).get("sha256")
    if data is None or hashlib.sha256(data).hexdigest() != wanted:
        raise ArtifactError(f"{join(place, name)}: missing, or its checksum differs from the manifest's")
    return _parse(data, join(place, name))


def _parse(data: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ArtifactError(f"{place}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{place}: holds a {type(value).__name__}, a JSON object is wanted")
    return value
