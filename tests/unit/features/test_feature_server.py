"""Feast's feature server on the shared store: it answers what servers read, follows what is published, only reads."""

import itertools
import re
import threading
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import httpx2 as httpx
import psutil
import pytest
import uvicorn
from feature_event_log import AS_OF, CONFIG, USER_IDS, expected, features_artifact, random_log
from support.in_thread import PATIENCE, InThread, wait_until

from onevision.errors import SettingError
from onevision.features import server
from onevision.features.definitions import SEGMENT, SEQUENCES, SERVICE, USER_KEY, UserSequences
from onevision.features.server import READS, create_app
from onevision.features.shared import SharedFeatures, publish_features

LOG = random_log(21)
LOOK_S = 0.2


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return features_artifact(tmp_path_factory.mktemp("first"), LOG)


@pytest.fixture
def client(production):
    """A client of a feature server that looks for publications all the time."""
    running = InThread(uvicorn.Server(uvicorn.Config(create_app(LOOK_S), port=0, log_config=None)))
    with httpx.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as client:
        yield client
    running.stop()


@pytest.fixture
def ready(client, first):
    publish_features(first)
    wait_until(lambda: client.get("/health").status_code == 200)
    return client


def ask(client, users):
    return client.post("/get-online-features", json={"feature_service": SERVICE, "entities": {USER_KEY: users}})


def rows(answer):
    """Feature -> value of every user that was asked for."""
    body = answer.raise_for_status().json()
    names = body["metadata"]["feature_names"]
    columns = dict(zip(names, (result["values"] for result in body["results"]), strict=True))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def alive(row, at):
    """The sequences of a raw row, as a client has to read them: a list that has outlived its view's life is empty."""
    lists = {}
    for sequence in SEQUENCES:
        since, items = row[sequence.valid_from], row[sequence.name]
        begun = None if since is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(since))
        lists[sequence.name] = items if begun is not None and begun + sequence.life(CONFIG) >= at else []
    return UserSequences(**lists, segment=row[SEGMENT])


def test_it_answers_what_servers_read_but_for_the_life_of_lists(ready):
    users = SharedFeatures()
    found = rows(ask(ready, [*USER_IDS, "stranger"]))
    assert [alive(row, AS_OF) for row in found] == [users.sequences(user) for user in [*USER_IDS, "stranger"]]
    assert rows(ask(ready, ["u3"])) == [found[3]]
    expired = [row for row, user in zip(found, USER_IDS, strict=False) if row["recent_clicked"]]
    assert any(alive(row, AS_OF).recent_clicked == [] for row in expired), "Feast leaves an expired list as it is"
    assert ready.get("/health").json() == asdict(server.served_publication(server.open_project()))


def test_a_newer_publication_takes_over_while_requests_go_on(ready, tmp_path):
    day = AS_OF + timedelta(days=1)
    late = {**LOG[0], "event_id": "late", "user_id": "u2", "item_id": "late", "event_type": "click", "query_id": None}
    later = [*LOG, {**late, "ts": AS_OF}]
    artifact = features_artifact(tmp_path, later, day)
    before, after = (
        UserSequences(**expected(events, "u2", time, CONFIG)) for events, time in ((LOG, AS_OF), (later, day))
    )
    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            answers.append(ask(ready, ["u2"]))

    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        today = publish_features(artifact)
        wait_until(lambda: ready.get("/health").json()["project"] == today.project)
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 10)
    finally:
        stop.set()
        for asker in askers:
            asker.join(PATIENCE)
    assert {answer.status_code for answer in answers} == {200}
    found = [rows(answer)[0] for answer in answers]
    new = [alive(row, day) == after for row in found]
    assert all(is_new or alive(row, AS_OF) == before for is_new, row in zip(new, found, strict=True))
    assert not new[0]
    assert all(new[-7:])


def test_publications_that_are_over_leave_no_connection(ready, production, monkeypatch):
    from redis import Redis

    served = server.served_publication(server.open_project())
    twins = itertools.cycle([served, replace(served, features="of the same sequences")])
    looks = []
    monkeypatch.setattr(server, "served_publication", lambda index: looks.append(index) or next(twins))
    with Redis(port=int(production.split(":")[1])) as redis:

        def connections():
            files = psutil.Process().open_files()
            return len(redis.client_list()), sum(file.path.endswith("registry.db") for file in files)

        before = connections()
        wait_until(lambda: len(looks) > 8)
        assert all(now <= then + 2 for now, then in zip(connections(), before, strict=True))


def test_nothing_else_of_feasts_server_is_there(ready, first):
    from feast.feature_server import get_app

    served = server.served_publication(server.open_project())
    before = rows(ask(ready, USER_IDS))
    routes = [route for route in get_app(server.open_project(served.project)).routes if route.path not in READS]
    paths = {route.path for route in routes}
    assert {"/push", "/write-to-online-store", "/materialize", "/materialize-incremental", "/chat", "/search"} <= paths
    body = {"feature_view_name": "profile", "df": {USER_KEY: ["u1"], SEGMENT: ["forged"]}}
    for route in routes:
        if route.path == "/health":  # ours stands in its place
            continue
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = ready.request(method, re.sub(r"{\w+}", "profile", route.path), json=body)
            assert answer.status_code == 404, (method, route.path)
    assert ready.get("/get-online-features").status_code == 405
    assert set(ready.get("/openapi.json").json()["paths"]) == {"/get-online-features"}
    assert ready.get("/docs").status_code == 200
    assert rows(ask(ready, USER_IDS)) == before


def test_before_the_first_publication_it_lives_and_is_not_ready(client, first):
    assert client.get("/live").status_code == 200
    for answer in (client.get("/health"), ask(client, ["u1"])):
        assert answer.status_code == 503
        assert "run onevision features publish" in answer.json()["detail"]
    publish_features(first)
    wait_until(lambda: client.get("/health").status_code == 200)
    assert alive(rows(ask(client, ["u1"]))[0], AS_OF) == UserSequences(**expected(LOG, "u1", AS_OF, CONFIG))


def test_it_is_not_ready_while_redis_is_gone(ready, production):
    from redis import Redis

    with Redis(port=int(production.split(":")[1])) as redis:
        redis.config_set("requirepass", "changed")
        redis.client_kill_filter(_type="normal", skipme=True)
        answer = ready.get("/health")
        assert answer.status_code == 503
        assert answer.json()["detail"] == f"the features of {AS_OF.isoformat()} cannot be read"
        assert ready.get("/live").status_code == 200
        redis.config_set("requirepass", "")
    assert ready.get("/health").status_code == 200


def test_without_a_shared_store_it_does_not_begin(monkeypatch):
    monkeypatch.delenv("FEATURE_STORE", raising=False)
    with pytest.raises(SettingError, match="FEATURE_STORE is not production"):
        create_app()
    monkeypatch.setenv("FEATURE_STORE", "production")
    monkeypatch.delenv("FEATURE_STORE_REGISTRY", raising=False)
    with pytest.raises(SettingError, match="FEATURE_STORE_REGISTRY is not set"):
        create_app()
