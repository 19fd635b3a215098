"""The Feast repository: where its definitions are, and how a store is opened on a folder of data.

A registry holds absolute paths and the time of day, so no artifact carries one: a store is opened by applying the
definitions again, into a folder of its own, onto the artifact's data. It takes a second, works wherever the artifact
was copied, changes nothing in it, and leaves the same bytes for the same inputs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onevision.artifacts import write_json
from onevision.errors import MissingDependencyError
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import SERVICE, SETTINGS
from onevision.features.targets import CONFIGURATIONS, LOCAL, configuration, definitions_folder

ONLINE_STORE = "online_store.db"
REGISTRY = "registry.db"
MODULES = ("entities", "sources", "views", "services")
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_IMPORT_LOCK = threading.Lock()


def require_feast() -> None:
    """Import Feast (2 seconds), or say which extra to install."""
    try:
        with _leanly():
            importlib.import_module("feast")
    except ImportError as error:
        raise MissingDependencyError(
            f"user sequences need Feast ({error}); install it with: pip install 'onevision[features]'"
        ) from None


def write_repository(folder: Path, config: FeaturesConfig) -> None:
    """Copy the definitions into `folder` and put the configuration of its data beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIGURATIONS[LOCAL], *(f"{module}.py" for module in MODULES)):
        shutil.copyfile(definitions_folder() / name, folder / name)
    write_json(folder / SETTINGS, config.model_dump(mode="json"))


def open_store(folder: Path, state: Path, *, materialized_until: datetime | None = None) -> Any:
    """A `feast.FeatureStore` on the data of a Feast folder.

    Args:
        folder: holds `data/` and `settings.json`; it is only read.
        state: folder for the registry and the online store (one that is there already is used).
        materialized_until: time up to which `state`'s online store is filled already; None if it is empty.
    """
    require_feast()
    from feast import FeatureStore, FeatureView, RepoConfig

    raw = configuration(LOCAL)
    raw["registry"]["path"] = f"sqlite:///{state.resolve() / REGISTRY}"
    raw["online_store"]["path"] = str(state.resolve() / ONLINE_STORE)
    store = FeatureStore(config=RepoConfig(**raw, repo_path=state))
    objects = apply_definitions(store, folder)
    if materialized_until is not None:
        # Feast refuses to serve a view that this registry has not seen materialised.
        for view in (o for o in objects if isinstance(o, FeatureView)):
            store.registry.apply_materialization(view, store.project, BEGINNING, materialized_until)
        store.refresh_registry()
    return store


def apply_definitions(store: Any, folder: Path) -> list[Any]:
    """Register our views on the data of a Feast folder; the objects that were registered."""
    objects = _load_definitions(folder)
    with quiet():
        store.apply(objects)
    return objects


def materialize(store: Any, until: datetime) -> None:
    """Bring every user's latest row of every view, of `until` or before, into the online store.

    It starts from the beginning of time, since an incremental run would never pick up a row that came late.
    """
    with quiet():
        store.materialize(start_date=BEGINNING, end_date=until)


def copy_online_store(source: Path, target: Path) -> None:
    """Copy a SQLite online store so that equal content gives equal bytes: sorted tables and rows, times as in UTC.

    Feast's SQLite store writes and reads times through the machine's own time zone; the copy is as a machine on UTC
    would have written it. `OnlineFeatures` reads the exact time from a feature instead.
    """
    target.unlink(missing_ok=True)
    connection = sqlite3.connect(source)
    connection.create_function("as_in_utc", 1, lambda t: datetime.fromtimestamp(t).replace(tzinfo=UTC).timestamp())
    try:
        connection.execute("ATTACH DATABASE ? AS target", (str(target),))
        schema = connection.execute("SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL")
        for kind, name, sql in sorted(schema, key=lambda entry: (entry[0] != "table", entry[1])):
            connection.execute(sql.replace(f'"{name}"', f'target."{name}"', 1))
            if kind == "table":
                connection.execute(
                    f'INSERT INTO target."{name}" SELECT * FROM main."{name}" ORDER BY entity_key, feature_name'
                )
                connection.execute(
                    f'UPDATE target."{name}" '
                    "SET event_ts = CAST(as_in_utc(event_ts) AS INT), created_ts = CAST(as_in_utc(created_ts) AS INT)"
                )
        connection.commit()
    finally:
        connection.close()


def sequence_service(store: Any) -> Any:
    """The feature service that training and serving read."""
    return store.get_feature_service(SERVICE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's progress prints out of our output; errors still raise."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def _leanly() -> Iterator[None]:
    """Import Feast in two seconds instead of seven.

    typeguard parses the source of Feast's classes anew at every import, to check arguments (`feast apply` does so
    still), and torch is imported for tensors that nobody here asks Feast for.
    """
    import typeguard

    checked, without_torch = typeguard.typechecked, "torch" not in sys.modules
    typeguard.typechecked = lambda target: target  # type: ignore[assignment]
    if without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        typeguard.typechecked = checked
        if without_torch:
            del sys.modules["torch"]


def _load_definitions(folder: Path) -> list[Any]:
    """Feast objects of our own definitions, on the data of `folder`.

    The modules have short names, as `feast apply` wants them, so they are imported for this call only. The copies in
    an artifact are for people and the `feast` command: data that was handed to us is never executed.
    """
    from feast import Entity, FeatureService, FeatureView

    with _IMPORT_LOCK:
        shadowed = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
        before = os.environ.get("ONEVISION_FEATURE_REPO")
        os.environ["ONEVISION_FEATURE_REPO"] = str(folder.resolve())
        sys.path.insert(0, str(definitions_folder()))
        try:
            modules = [importlib.import_module(name) for name in MODULES]
        finally:
            sys.path.remove(str(definitions_folder()))
            for name in MODULES:
                sys.modules.pop(name, None)
            sys.modules.update(shadowed)
            if before is None:
                del os.environ["ONEVISION_FEATURE_REPO"]
            else:
                os.environ["ONEVISION_FEATURE_REPO"] = before
    found = [value for module in modules for value in vars(module).values()]
    return [value for value in found if isinstance(value, (Entity, FeatureView, FeatureService))]
