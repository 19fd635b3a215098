"""The target `production` on a Redis that the tests start: what is published is what servers read."""

import socket
import time
from dataclasses import asdict
from datetime import timedelta

import pytest
from feature_event_log import AS_OF, BEGIN, CONFIG, USER_IDS, expected, features_artifact, random_log

from onevision.artifacts import open_artifact
from onevision.errors import ArtifactError, SettingError
from onevision.features import shared
from onevision.features.definitions import UserSequences
from onevision.features.shared import SharedFeatures, publish_features
from onevision.features.targets import chosen_target, configuration

LOG = random_log(21)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return features_artifact(tmp_path_factory.mktemp("first"), LOG)


def redis_keys(address):
    from redis import Redis

    with Redis(port=int(address.split(":")[1])) as client:
        return client.keys()


def empty(address):
    from redis import Redis

    with Redis(port=int(address.split(":")[1])) as client:
        client.flushall()


def test_servers_read_what_was_published(production, first):
    published = publish_features(first)
    users = SharedFeatures()
    assert users.as_of == AS_OF
    for user in USER_IDS:
        assert asdict(users.sequences(user)) == expected(LOG, user, AS_OF, CONFIG)
    assert users.sequences("stranger") == UserSequences()
    assert publish_features(first) == published
    assert len(redis_keys(production)) == len(USER_IDS)


def test_a_new_day_with_late_events_and_a_deleted_account_replaces_the_day_before(production, first, tmp_path):
    """Feast's Redis alone keeps a row whose event time is unchanged, so a late event, and a user who is gone."""
    yesterday = publish_features(first)
    users = SharedFeatures(look_s=0.0)
    latest = max((r for r in LOG if r["user_id"] == "u2" and r["event_type"] == "order"), key=lambda r: r["ts"])
    late = {
        **latest,
        "event_id": "late",
        "ts": latest["ts"] - timedelta(seconds=1),
        "item_id": "late",
        "query_id": None,
    }
    rows = [*(r for r in LOG if r["user_id"] != "u4"), late]
    day = timedelta(days=1)
    today = publish_features(features_artifact(tmp_path, rows, AS_OF + day, without="u4"))
    assert today.project > yesterday.project
    wait_for(lambda: users.as_of == AS_OF + day, users)
    at = AS_OF  # the orders of u2 are alive
    assert users.sequences("u2", at=BEGIN + day).recent_ordered[1] == "late"
    for user in USER_IDS:
        if user != "u4":
            assert asdict(users.sequences(user, at=at)) == expected(rows, user, at, CONFIG)
    assert users.sequences("u4", at=at) == UserSequences()
    assert publish_features(first) == today, "an older snapshot never replaces a newer one"


def test_the_publication_before_stays_until_the_next(production, first, tmp_path):
    publish_features(first)
    behind = SharedFeatures(look_s=9999)
    for day in (1, 2):
        publish_features(features_artifact(tmp_path / str(day), LOG, AS_OF + timedelta(days=day)))
        if day == 1:
            assert asdict(behind.sequences("u3")) == expected(LOG, "u3", AS_OF, CONFIG)
    assert len(redis_keys(production)) == 2 * len(USER_IDS)
    assert behind.sequences("u3") == UserSequences()


@pytest.mark.parametrize("order", [1, -1])
def test_of_one_date_the_last_published_is_served_whatever_its_identity(production, first, tmp_path, order):
    """Names of one date sort by identity, so one of the two orders is against the alphabet."""
    second = features_artifact(tmp_path / "second", random_log(22))
    artifacts = sorted((first, second), key=lambda path: open_artifact(path).identity)[::order]
    for artifact in artifacts:
        published = publish_features(artifact)
        assert published.features == open_artifact(artifact).identity
    log = LOG if artifacts[-1] == first else random_log(22)
    assert asdict(SharedFeatures().sequences("u3")) == expected(log, "u3", AS_OF, CONFIG)
    assert len(redis_keys(production)) == 2 * len(USER_IDS), "the one before stays"
    assert publish_features(artifacts[-1]) == published
    assert publish_features(artifacts[0]).features != published.features
    assert len(redis_keys(production)) == 2 * len(USER_IDS)


def test_a_publication_that_is_gone_is_filled_again(production, first):
    published = publish_features(first)
    shared.open_project().registry.delete_project(published.project)
    assert publish_features(first) == published
    assert asdict(SharedFeatures().sequences("u3")) == expected(LOG, "u3", AS_OF, CONFIG)


def test_half_a_publication_is_never_read(production, first, tmp_path, monkeypatch):
    publish_features(first)
    with monkeypatch.context() as broken:
        broken.setattr(shared, "materialize", lambda store, until: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish_features(features_artifact(tmp_path, LOG, AS_OF + timedelta(days=1)))
    assert SharedFeatures().as_of == AS_OF
    publish_features(tmp_path / "out")
    assert SharedFeatures().as_of == AS_OF + timedelta(days=1)


def test_before_the_first_publication_lookups_fail_and_then_succeed(production, first):
    users = SharedFeatures(look_s=0.0)
    with pytest.raises(ArtifactError, match="onevision features publish"):
        users.sequences("u1")
    assert users.as_of.year == 1970
    publish_features(first)
    wait_for(lambda: users.as_of == AS_OF, users)
    assert asdict(users.sequences("u1")) == expected(LOG, "u1", AS_OF, CONFIG)


def test_lost_histories_are_written_again_once_the_registry_is_emptied_too(production, first, tmp_path):
    published = publish_features(first)
    users = SharedFeatures(look_s=0.0)
    empty(production)
    publish_features(first)  # the registry says that it is published
    assert redis_keys(production) == []
    (tmp_path / "registry.db").unlink()
    assert publish_features(first) == published
    assert asdict(users.sequences("u1")) == expected(LOG, "u1", AS_OF, CONFIG)


def wait_for(condition, users):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        try:
            users.sequences("u1")
        except ArtifactError:
            time.sleep(0.01)
    assert condition()


def test_a_missing_or_unknown_setting_is_named(first, monkeypatch):
    for name in ("FEATURE_STORE", "FEATURE_STORE_REDIS", "FEATURE_STORE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    assert chosen_target() == "local"
    with pytest.raises(SettingError, match="FEATURE_STORE is not production"):
        publish_features(first)
    monkeypatch.setenv("FEATURE_STORE", "staging")
    with pytest.raises(SettingError, match="'staging' is no target: local or production"):
        chosen_target()
    with pytest.raises(SettingError, match="FEATURE_STORE_REGISTRY is not set"):
        SharedFeatures()
    monkeypatch.setenv("FEATURE_STORE_REGISTRY", "sqlite:///registry.db")
    with pytest.raises(SettingError, match="FEATURE_STORE_REDIS is not set"):
        SharedFeatures()


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("FEATURE_STORE_REDIS", "127.0.0.1:1,password=secret"),
        ("FEATURE_STORE_REGISTRY", "postgresql://user:secret@127.0.0.1:1/shop"),
    ],
)
def test_a_store_that_does_not_answer_is_a_clear_error_without_its_password(
    production, first, monkeypatch, variable, address
):
    monkeypatch.setenv(variable, address)
    with pytest.raises(SettingError, match=r"cannot be filled: (.|\n)*refused") as raised:
        publish_features(first)
    assert "secret" not in str(raised.value)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("FEATURE_STORE_REDIS", "127.0.0.1:{port}"),
        ("FEATURE_STORE_REGISTRY", "postgresql+psycopg://user:secret@127.0.0.1:{port}/shop"),
    ],
)
def test_a_store_that_never_answers_does_not_keep_a_server_from_starting(
    production, first, monkeypatch, caplog, variable, address
):
    publish_features(first)
    monkeypatch.setattr(shared, "FIRST_LOOK_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(variable, address.format(port=silent.getsockname()[1]))
        users = SharedFeatures()
        assert "until it does, users are cold" in caplog.text
        with pytest.raises(ArtifactError, match="has not answered yet"):
            users.sequences("u1")
    assert users.as_of.year == 1970


def test_a_password_may_hold_any_character(monkeypatch):
    monkeypatch.setenv("FEATURE_STORE_REDIS", "host:6379,password=a: #'\"{b}$c")
    monkeypatch.setenv("FEATURE_STORE_REGISTRY", "postgresql://u:p%40@host/db")
    raw = configuration("production")
    assert raw["online_store"]["connection_string"] == "host:6379,password=a: #'\"{b}$c"
    assert raw["registry"]["path"] == "postgresql://u:p%40@host/db"
