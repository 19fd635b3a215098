"""Read a user's sequences for serving, from the same views as training."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from onevision.artifacts import Artifact, open_artifact
from onevision.errors import ArtifactError
from onevision.features.definitions import (
    FEATURES_KIND,
    SEGMENT,
    SEQUENCES,
    SERVICE,
    USER_KEY,
    UserSequences,
)
from onevision.features.repository import ONLINE_STORE, open_store, sequence_service

REPOSITORY = "feature_repo"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def open_features(features: Path) -> Artifact:
    """A whole `features` artifact of this library's version of the feature service; `ArtifactError` otherwise."""
    artifact = open_artifact(features, FEATURES_KIND)
    if artifact.extra.get("service") != SERVICE:
        raise ArtifactError(
            f"{features}: made for feature service {artifact.extra.get('service')!r}, this library reads "
            f"{SERVICE!r}; run materialize-features again"
        )
    return artifact


class OnlineFeatures:
    """Users' sequences from a Feast store: that of a `features` artifact, or what was published to the shared one."""

    def __init__(self, store: Any, *, as_of: datetime, scratch: tempfile.TemporaryDirectory[str] | None = None) -> None:
        """Wrap a Feast store that is materialised up to `as_of`; `scratch` is kept as long as it is read."""
        self.as_of = as_of
        self._store = store
        self._service = sequence_service(store)
        self._life = {s.name: store.get_feature_view(s.name).ttl // MICROSECOND for s in SEQUENCES}
        self._scratch = scratch

    @classmethod
    def open(cls, features: Path) -> OnlineFeatures:
        """Open a `features` artifact, wherever it lies, without changing it (importing Feast costs seconds, once).

        Raises:
            ArtifactError: not a whole features artifact, or one of another version of the feature service.
        """
        artifact = open_features(features)
        folder = artifact.file(REPOSITORY)
        as_of = datetime.fromisoformat(artifact.extra["as_of"])
        scratch = tempfile.TemporaryDirectory(prefix="onevision-features-")
        shutil.copyfile(folder / ONLINE_STORE, Path(scratch.name) / ONLINE_STORE)
        store = open_store(folder, Path(scratch.name), materialized_until=as_of)
        return cls(store, as_of=as_of, scratch=scratch)

    def sequences(self, user_id: str, at: datetime | None = None) -> UserSequences:
        """A user's sequences; empty lists for a user who is not known.

        Args:
            at: the time at which a sequence must still be alive; by default the snapshot's date, so that a user looks
                as in training whenever the snapshot is served. A live service passes the time of the request.
        """
        row = self._store.get_online_features(features=self._service, entity_rows=[{USER_KEY: user_id}]).to_dict()
        # Feast ignores `ttl` online, and its stores round event times to seconds: both are done here, exactly.
        now = ((at or self.as_of) - EPOCH) // MICROSECOND
        lists = {}
        for sequence in SEQUENCES:
            valid_from, items = row[sequence.valid_from][0], row[sequence.name][0]
            alive = valid_from is not None and valid_from + self._life[sequence.name] >= now
            lists[sequence.name] = list(items) if alive and items is not None else []
        return UserSequences(**lists, segment=row[SEGMENT][0])
