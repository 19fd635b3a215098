"""Training rows, serving rows and the raw events agree; one applied store is shared, since Feast takes seconds."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_event_log import AS_OF, BEGIN, CONFIG, MICROSECOND, QUERIES, USER_IDS, expected, random_log, write_log

from onevision.artifacts import open_artifact
from onevision.errors import ArtifactError, ContractError, MissingDependencyError
from onevision.features import history, repository
from onevision.features.definitions import SEQUENCES, UserSequences
from onevision.features.history import SCHEMA, historical_rows
from onevision.features.online import OnlineFeatures
from onevision.features.stage import run

# Lives of days, so that a log of six days holds sequences that are alive, and some that are not any more.
LOG = random_log(11)


def random_queries(rows, seed, count=150):
    """Half of them at the very moment of an event; also of users without events, and of no known user."""
    rng = np.random.default_rng(seed)
    queries = []
    for k in range(count):
        row = rows[rng.integers(len(rows))]
        user = row["user_id"] if rng.random() < 0.7 else str(rng.choice([*USER_IDS, "stranger"]))
        ts = row["ts"] if rng.random() < 0.5 else BEGIN + timedelta(seconds=int(rng.integers(0, 8 * 86400)))
        queries.append({"query_id": f"q{k}", "user_id": user, "ts": ts, "split": ("train", "test")[k % 2]})
    return queries


ASKED = random_queries(LOG, 5)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The stage's artifact, its report and its inputs."""
    pytest.importorskip("feast")
    folder = tmp_path_factory.mktemp("features")
    snapshot, pairs = write_log(folder, LOG, ASKED)
    report = run(snapshot=snapshot, pairs=pairs, out=folder / "out", config=CONFIG, seed=7)
    return folder / "out", report, snapshot, pairs


@pytest.fixture(scope="module")
def store(built, tmp_path_factory):
    """A store on the artifact's data, nothing materialised."""
    return repository.open_store(built[0] / "feature_repo", tmp_path_factory.mktemp("state"))


def offline(store, asked):
    """Rows of (user, time) pairs through the point-in-time join."""
    queries = [{"query_id": str(k), "user_id": u, "ts": t, "split": "test"} for k, (u, t) in enumerate(asked)]
    rows = historical_rows(store, pa.Table.from_pylist(queries, schema=QUERIES))
    return [{key: row[key] for key in SCHEMA.names[1:]} for row in rows.to_pylist()]


def test_training_rows_are_what_brute_force_says_query_by_query(built):
    rows = pq.read_table(built[0] / "training_sequences.parquet")
    assert rows.schema == SCHEMA
    wanted = [{"query_id": q["query_id"], **expected(LOG, q["user_id"], q["ts"], CONFIG)} for q in ASKED]
    assert rows.to_pylist() == wanted


@pytest.mark.parametrize("days", [1.0, 3.125, 6.5, 9.0])
def test_offline_and_online_and_brute_force_agree_at_a_moment(built, store, tmp_path, days):
    time = BEGIN + timedelta(days=days)
    folder = built[0] / "feature_repo"
    fresh = repository.open_store(folder, tmp_path)
    repository.materialize(fresh, time)
    online = OnlineFeatures(fresh, as_of=time)
    asked = [*USER_IDS, "stranger"]
    wanted = [expected(LOG, user, time, CONFIG) for user in asked]
    assert offline(store, [(user, time) for user in asked]) == wanted
    assert [asdict(online.sequences(user)) for user in asked] == wanted


def test_the_log_holds_sequences_that_expired_or_the_tests_above_prove_little():
    forever = CONFIG.model_copy(update={s.ttl: 9999 for s in SEQUENCES})
    expired = [
        name
        for q in ASKED
        for name, items in expected(LOG, q["user_id"], q["ts"], forever).items()
        if items != expected(LOG, q["user_id"], q["ts"], CONFIG)[name]
    ]
    assert {s.name for s in SEQUENCES} == set(expired)


def test_an_event_at_or_after_the_query_never_reaches_its_row(store):
    row = next(r for r in LOG if r["event_type"] == "order")
    user, time = row["user_id"], row["ts"]
    second = timedelta(seconds=1)
    earlier, at, just_after = offline(store, [(user, time - second), (user, time), (user, time + MICROSECOND)])
    assert at == expected([r for r in LOG if r["ts"] < time], user, time, CONFIG)
    assert earlier == expected([r for r in LOG if r["ts"] < time - second], user, time - second, CONFIG)
    assert row["item_id"] in just_after["recent_ordered"]
    assert at["recent_ordered"] != just_after["recent_ordered"]


def test_a_join_in_many_parts_is_the_join_in_one(store, monkeypatch):
    queries = pa.Table.from_pylist(ASKED, schema=QUERIES)
    whole = historical_rows(store, queries)
    monkeypatch.setattr(history, "JOIN_ROWS", 500)
    assert len(history._bounded_parts(store, queries)) > 3
    assert historical_rows(store, queries).equals(whole)


def test_serving_reads_the_whole_log_wherever_the_artifact_was_moved(built, tmp_path):
    moved = tmp_path / "elsewhere" / "with a space"
    shutil.copytree(built[0], moved)
    before = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    online = OnlineFeatures.open(moved)
    for user in USER_IDS:
        assert asdict(online.sequences(user)) == expected(LOG, user, AS_OF, CONFIG)
    assert online.sequences("stranger") == UserSequences()
    assert {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()} == before


def test_a_sequence_dies_online_as_it_does_offline(built, store):
    online = OnlineFeatures.open(built[0])
    last = max(r["ts"] for r in LOG if r["user_id"] == "u2" and r["event_type"] == "order")
    death = last + MICROSECOND + timedelta(days=CONFIG.order_ttl_days)
    times = [death, death + MICROSECOND]
    lists = [online.sequences("u2", at=time).recent_ordered for time in times]
    assert lists[0]
    assert lists[1] == []
    assert lists == [row["recent_ordered"] for row in offline(store, [("u2", time) for time in times])]


def test_many_threads_read_what_one_reads(built):
    online = OnlineFeatures.open(built[0])
    users = [*USER_IDS, "stranger"] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(online.sequences, users)) == [online.sequences(user) for user in users]


def test_the_same_inputs_give_the_same_identity_in_another_time_zone(built, tmp_path, monkeypatch):
    import time

    _, _, snapshot, pairs = built
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        run(snapshot=snapshot, pairs=pairs, out=tmp_path / "again", config=CONFIG, seed=8)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert open_artifact(tmp_path / "again").identity == open_artifact(built[0]).identity


def test_the_report_counts_every_query(built):
    report = built[1]
    with_history = sum(any(expected(LOG, q["user_id"], q["ts"], CONFIG)[s.name] for s in SEQUENCES) for q in ASKED)
    assert report.counts["queries_in"] == report.counts["queries_out"] == len(ASKED)
    assert report.counts["queries_with_history"] == with_history
    assert report.counts["queries_without_history"] == len(ASKED) - with_history
    assert report.counts["users_in_queries"] == len({q["user_id"] for q in ASKED})
    assert open_artifact(built[0], "features").counts == report.counts


def test_code_that_lies_in_an_artifact_is_never_run(built, tmp_path):
    folder = tmp_path / "feature_repo"
    shutil.copytree(built[0] / "feature_repo", folder)
    (folder / "views.py").write_text("raise SystemExit('the artifact ran its own code')\n")
    opened = repository.open_store(folder, tmp_path)
    assert {view.name for view in opened.list_feature_views()} == {*(s.name for s in SEQUENCES), "profile"}
    assert "views" not in sys.modules


def test_the_service_serves_exactly_the_columns_of_training(store):
    served = {
        feature.name for p in repository.sequence_service(store).feature_view_projections for feature in p.features
    }
    assert served == {*SCHEMA.names[1:], *(s.valid_from for s in SEQUENCES)}


def test_a_shop_without_orders_or_users_still_materialises(tmp_path):
    rows = [r for r in LOG if r["event_type"] == "click" and r["query_id"] is None]
    snapshot, pairs = write_log(tmp_path, rows, ASKED[:5])
    users = snapshot / "users.parquet"
    pq.write_table(pq.read_table(users).slice(0, 0), users)
    manifest = json.loads((snapshot / "manifest.json").read_text())
    del manifest["files"]["users.parquet"]
    (snapshot / "manifest.json").write_text(json.dumps(manifest))
    run(snapshot=snapshot, pairs=pairs, out=tmp_path / "out", config=CONFIG, seed=7)
    row = OnlineFeatures.open(tmp_path / "out").sequences(rows[-1]["user_id"])
    assert row.long_history
    assert row.recent_ordered == row.recent_searched == []
    assert row.segment is None


def test_an_event_of_the_snapshots_last_moment_is_served(tmp_path):
    as_of = max(r["ts"] for r in LOG if r["event_type"] == "order")
    rows = [r for r in LOG if r["ts"] <= as_of]
    snapshot, pairs = write_log(tmp_path, rows, ASKED[:5], as_of)
    run(snapshot=snapshot, pairs=pairs, out=tmp_path / "out", config=CONFIG, seed=7)
    online = OnlineFeatures.open(tmp_path / "out")
    for user in USER_IDS[:6]:
        assert asdict(online.sequences(user)) == expected(rows, user, as_of + MICROSECOND, CONFIG)


def test_a_query_id_that_stands_twice_is_named(built, tmp_path):
    snapshot, pairs = write_log(tmp_path, LOG, [ASKED[0], ASKED[1], ASKED[1]])
    with pytest.raises(ContractError, match="'q1'"):
        run(snapshot=snapshot, pairs=pairs, out=tmp_path / "out", config=CONFIG, seed=7)


def test_an_artifact_of_another_service_version_is_refused(built, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(built[0], copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["extra"]["service"] = "user_sequences_v0"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="materialize-features again"):
        OnlineFeatures.open(copy)


def test_without_feast_the_extra_is_named(monkeypatch, built, tmp_path):
    monkeypatch.setitem(sys.modules, "feast", None)
    with pytest.raises(MissingDependencyError, match=r"onevision\[features\]"):
        repository.open_store(built[0] / "feature_repo", tmp_path)


def test_the_feast_command_applies_and_materialises_a_copy_of_the_repository(built, tmp_path, monkeypatch):
    from click.testing import CliRunner
    from feast import FeatureStore
    from feast.cli.cli import cli

    folder = tmp_path / "repo"
    shutil.copytree(built[0] / "feature_repo", folder)
    (folder / "online_store.db").unlink()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    try:
        for command in (["apply"], ["materialize", BEGIN.isoformat(), AS_OF.isoformat()]):
            done = CliRunner().invoke(cli, command)
            assert done.exit_code == 0, done.output
    finally:
        for name in repository.MODULES:
            sys.modules.pop(name, None)
    online = OnlineFeatures(FeatureStore(repo_path=str(folder)), as_of=AS_OF)
    assert asdict(online.sequences("u3")) == expected(LOG, "u3", AS_OF, CONFIG)
