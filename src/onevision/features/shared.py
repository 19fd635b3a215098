"""The target `production`: sequences in one Redis, published from `features` artifacts and read by every server.

A publication is a Feast project of its own. It is filled beside the one that is read, and one value in the SQL
registry then points to it. Readers never meet half a publication or a view that Feast refuses while it materialises;
and neither an event that came late nor a deleted account needs care, though Feast's Redis keeps a row whose event time
did not change, and every user it ever saw.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from onevision.artifacts import Artifact
from onevision.errors import ArtifactError, SettingError
from onevision.features.definitions import UserSequences
from onevision.features.online import REPOSITORY, OnlineFeatures, open_features
from onevision.features.repository import apply_definitions, materialize, require_feast
from onevision.features.targets import PRODUCTION, VARIABLE, chosen_target, configuration

log = logging.getLogger(__name__)

SERVED = "served"
"""Key of the registry's pointer, in the metadata of the project that the configuration names."""

LOOK_S = 60.0
"""Seconds between two looks at the pointer."""

FIRST_LOOK_S = 10.0
"""Seconds that a server waits for its first look, so that it starts warm; a store that hangs keeps it no longer."""

NOTHING_PUBLISHED = "the shared store holds no features yet: run onevision features publish"


@dataclass(frozen=True)
class Publication:
    """One filling of the shared store.

    Attributes:
        project: Feast project that holds it; names sort by date.
        as_of: the snapshot's date (ISO); features: identity of the artifact.
    """

    project: str
    as_of: str
    features: str


def publish_features(features: Path) -> Publication:
    """Fill the shared store from a `features` artifact and let servers read it; the publication that they read now.

    Publishing the same artifact again changes nothing, and an older one never replaces a newer one. The publication
    before, of the same date or an older one, stays until the next, for servers that have not looked yet.

    Raises:
        SettingError: the environment does not name the target `production`, or not all of its addresses, or nobody
            answers there.
        ArtifactError: no whole features artifact.
    """
    if chosen_target() != PRODUCTION:
        raise SettingError(f"{VARIABLE} is not {PRODUCTION}: a local features artifact carries its own online store")
    artifact = open_features(features)
    require_feast()
    from redis.exceptions import RedisError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return _publish(artifact)
    except (RedisError, SQLAlchemyError) as error:
        where = "FEATURE_STORE_REDIS and FEATURE_STORE_REGISTRY"
        raise SettingError(f"the shared store that {where} name cannot be filled: {error}") from error


def _publish(artifact: Artifact) -> Publication:
    as_of = datetime.fromisoformat(artifact.extra["as_of"])
    project = f"onevision_{as_of:%Y%m%dT%H%M%S}_{artifact.identity[:12]}"
    new = Publication(project, as_of.isoformat(), artifact.identity)
    index = open_project(make_tables=True)
    served = served_publication(index)
    if served and served.project not in _projects(index):
        served = None  # the pointer has outlived what it points to
    if served and (served == new or datetime.fromisoformat(served.as_of) > as_of):
        return served
    if project not in _projects(index):
        _delete_versions(index, project)
    store = open_project(project)
    apply_definitions(store, artifact.file(REPOSITORY))
    # A row holds from a microsecond after its event, so the events of the last moment need one more.
    materialize(store, as_of + timedelta(microseconds=1))
    index.registry.set_project_metadata(index.project, SERVED, json.dumps(asdict(new)))
    _remove_all_but(index, {project, served.project} if served else {project})
    return new


class SharedFeatures:
    """What is published in the shared store, newest first to last: a user store for servers.

    A newer publication is opened in the background, warm, and takes over at once. While none can be read, also where
    the store has not answered within `FIRST_LOOK_S`, lookups fail, and the server answers known users as cold ones.
    """

    def __init__(self, look_s: float = LOOK_S) -> None:
        require_feast()
        configuration(PRODUCTION)  # a variable that is missing will not come by waiting
        self._look_s = look_s
        self._looking = threading.Lock()
        self._index: Any = None
        self._publication: Publication | None = None
        self._online: OnlineFeatures | None = None
        self._missing = "the shared feature store has not answered yet"
        self._next_look = 0.0
        self._looking.acquire()
        self._begin_look().join(FIRST_LOOK_S)
        if self._looking.locked():
            log.warning("%s; until it does, users are cold", self._missing)

    @property
    def as_of(self) -> datetime:
        """Date of the publication that is read; 1970 while there is none."""
        return self._online.as_of if self._online else datetime.fromisoformat("1970-01-01T00:00:00+00:00")

    def sequences(self, user_id: str, at: datetime | None = None) -> UserSequences:
        """A user's sequences, as `OnlineFeatures.sequences`; `ArtifactError` while nothing is published."""
        if time.monotonic() >= self._next_look and self._looking.acquire(blocking=False):
            self._begin_look()
        if self._online is None:
            raise ArtifactError(self._missing)
        return self._online.sequences(user_id, at)

    def _begin_look(self) -> threading.Thread:
        looking = threading.Thread(target=self._look_and_release, name="features", daemon=True)
        looking.start()
        return looking

    def _look_and_release(self) -> None:
        try:
            self._look()
        finally:
            self._looking.release()

    def _look(self) -> None:
        try:
            self._index = self._index or open_project()
            served = served_publication(self._index)
            if served is None:
                self._missing = NOTHING_PUBLISHED
            elif served != self._publication:
                online = OnlineFeatures(open_project(served.project), as_of=datetime.fromisoformat(served.as_of))
                online.sequences("")  # the first read is the slow one
                self._online, self._publication = online, served
                log.info("serving features of %s", served.as_of)
        except Exception:
            self._missing = "the shared feature store cannot be opened: the server's log says why"
            log.exception("the shared feature store cannot be opened")
        self._next_look = time.monotonic() + self._look_s


def open_project(project: str | None = None, *, make_tables: bool = False) -> Any:
    """A Feast store of the target `production`, on a publication's project or on the one that points to it.

    Args:
        make_tables: make the registry's tables where there are none yet. Who publishes does, alone: Feast fails where
            two make them at the same moment.
    """
    from feast import FeatureStore, RepoConfig

    raw = configuration(PRODUCTION)
    registry = {**raw["registry"], "schema_mode": "auto" if make_tables else "verify"}
    return FeatureStore(config=RepoConfig(**{**raw, "registry": registry, "project": project or raw["project"]}))


def served_publication(index: Any) -> Publication | None:
    """What servers read now, by the pointer in `open_project()`; None before the first publication."""
    from feast.infra.registry.sql import FeastRegistrySchemaError

    try:
        registry = index.registry
    except FeastRegistrySchemaError:
        return None
    value = registry.get_project_metadata(index.project, SERVED)
    return Publication(**json.loads(value)) if value else None


def _projects(index: Any) -> list[str]:
    """Names of all publications, whole or broken off."""
    projects = index.registry.list_projects(allow_cache=False)
    return [project.name for project in projects if project.name.startswith("onevision_")]


def _remove_all_but(index: Any, kept: set[str]) -> None:
    """Remove the other publications, but none of a later date: that one is being filled."""
    from feast.infra.provider import get_provider

    latest = max(map(_date, kept))
    for old in _projects(index):
        if old not in kept and _date(old) <= latest:
            store = open_project(old)
            # Not `store.teardown()`: it deletes every project of the registry.
            get_provider(store.config).teardown_infra(old, store.list_feature_views(), store.list_entities())
            index.registry.delete_project(old)
            _delete_versions(index, old)


def _delete_versions(index: Any, project: str) -> None:
    """Delete what Feast keeps of a project that was deleted, and then refuses a project of the same name for."""
    from feast.infra.registry.sql import feature_view_version_history as versions

    with index.registry.write_engine.begin() as connection:
        connection.execute(versions.delete().where(versions.c.project_id == project))


def _date(project: str) -> str:
    return project.rpartition("_")[0]
