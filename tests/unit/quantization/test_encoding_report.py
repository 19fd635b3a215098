"""The encoding report takes any array, holds products out, measures what it says, and refuses what it cannot read."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import onevision.quantization.encoding_report as encoding_report_module
from onevision import cli
from onevision.errors import ContractError, OneVisionError
from onevision.metrics import crossed_interval
from onevision.quantization.encoding_inputs import HELD_OUT_SHARE, read_encoding_data
from onevision.quantization.encoding_measures import Measured, ranks
from onevision.quantization.encoding_report import (
    _collapses,
    default_codebook_sizes,
    default_config,
    encoding_report,
)
from onevision.quantization.methods import ablated_configs
from onevision.quantization.residual import ResidualKMeans
from onevision.quantization.sizing import candidates, suggest
from onevision.report import StageReport

PRODUCTS, VIEWS, DIM = 60, 3, 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodings")
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(PRODUCTS, DIM))
    owner = rng.permutation(np.repeat(np.arange(PRODUCTS), VIEWS))
    x = (centre[owner] + 0.1 * rng.normal(size=(len(owner), DIM))).astype(np.float32)
    rows = [np.flatnonzero(owner == p) for p in range(PRODUCTS)]
    pairs = np.array([(r[0], other) for r in rows for other in r[1:]])
    np.save(folder / "x.npy", x)
    save_file({"embedding": x, "other": x[:3]}, folder / "x.safetensors")
    np.save(folder / "pairs.npy", pairs)
    pd.DataFrame(pairs, columns=["a", "b"]).to_csv(folder / "pairs.csv", index=False)
    pd.DataFrame({"category": [f"c{o % 4}" for o in owner]}).to_parquet(folder / "categories.parquet")
    np.save(folder / "owner.npy", owner)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding_report_module, "VRQ_STEPS", 10)
        yield


METHOD_ORDER = ("rq_kmeans", "hierarchical_kmeans", "rq_opq", "opq", "rq_vae", "fsq", "vrq")
METHODS = set(METHOD_ORDER)


def read(files, pairs="pairs.npy"):
    return read_encoding_data(files / "x.npy", pairs and files / pairs, files / "categories.parquet", seed=7)


@pytest.fixture(scope="module")
def report(files):
    data = read(files)
    return encoding_report(data, default_config(data, (8, 4)), out=files / "out")


def test_products_are_held_out_whole_and_their_photo_is_in_no_item_vector(files):
    data = read_encoding_data(files / "x.npy", files / "pairs.csv", files / "categories.parquet", seed=1)
    owner = np.load(files / "owner.npy")
    assert all(len(set(owner[data.product == p])) == 1 for p in range(PRODUCTS))
    assert len(data.target) == round(HELD_OUT_SHARE * PRODUCTS)
    assert not set(data.product[data.train]) & set(data.target)
    u, v = data.train[data.pairs.u], data.train[data.pairs.v]
    np.testing.assert_array_equal(owner[u], owner[v])
    assert len(u) == (PRODUCTS - len(data.target)) * (VIEWS - 1)
    np.testing.assert_array_equal(data.product[data.photo], data.target)
    photo, target = data.photo[0], data.target[0]
    rest = np.setdiff1d(np.flatnonzero(data.product == target), [photo])
    mean = data.x[rest].mean(axis=0)
    np.testing.assert_allclose(data.item[target], mean / np.linalg.norm(mean), atol=1e-6)
    assert data.category[target] == owner[photo] % 4


def test_formats_hold_the_same(files):
    a = read_encoding_data(files / "x.npy", files / "pairs.npy", None, seed=1)
    b = read_encoding_data(files / "x.safetensors", files / "pairs.csv", None, seed=1)
    for name in ("x", "product", "item", "photo"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.pairs.u, b.pairs.u)


def test_every_method_is_measured_on_the_same_products(report, files):
    assert {key.split("/")[0] for key in report.metrics} == METHODS
    assert report.counts["products"] == PRODUCTS
    for method in METHODS:
        assert 0 <= report.metrics[f"{method}/collision_rate"] < 1
        assert report.metrics[f"{method}/vc@1"] >= report.metrics[f"{method}/vc@2"]
    assert report.metrics["rq_opq/relative_error"] < report.metrics["rq_kmeans/relative_error"] < 1
    assert json.loads((files / "out" / "metrics.json").read_text()) == report.metrics
    assert StageReport.load(files / "out").metrics == report.metrics


CELL = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]( \*)?")


def numbers(cell):
    """Mean and bounds of a cell in percent, and whether it has a star."""
    mean, low, high, star = CELL.fullmatch(cell).groups()
    return float(mean), float(low), float(high), star is not None


def tables_of(report):
    return {table.title: table for table in report.tables}


def test_the_main_table_has_every_methods_figures_with_their_intervals(report):
    table = tables_of(report)["Encodings"]
    assert {row[0] for row in table.rows} == METHODS
    widths = []
    for method, *cells in table.rows:
        named = dict(zip(table.columns[1:], cells, strict=True))
        for name in ("icr", "collision_rate", "vc@1", "vc@2", "r@1", "r@10"):
            mean, low, high, _ = numbers(named[name])
            assert mean == pytest.approx(100 * report.metrics[f"{method}/{name}"], abs=0.051)
            assert low <= mean <= high
            widths.append(high - low)
    assert np.mean(widths) > 5  # of 12 held-out products


def test_differences_are_vrq_less_each_other_method_and_a_star_marks_those_that_exclude_zero(report):
    table = tables_of(report)["VRQ against the others"]
    assert {row[0] for row in table.rows} == {f"vrq - {method}" for method in METHODS - {"vrq"}}
    assert set(table.columns[1:]) >= {"icr", "vc@1", "vc@2", "r@1", "r@10"}
    stars = set()
    for label, *cells in table.rows:
        for name, cell in zip(table.columns[1:], cells, strict=True):
            if cell:  # a method with fewer levels has none of the deepest
                mean, low, high, star = numbers(cell)
                other = report.metrics[f"{label.removeprefix('vrq - ')}/{name}"]
                assert mean == pytest.approx(100 * (report.metrics[f"vrq/{name}"] - other), abs=0.051)
                assert star == (low > 0 or high < 0)
                stars.add(star)
    assert stars == {True, False}


@pytest.fixture(scope="module")
def kinds(files):
    """Pairs of two kinds, as a table."""
    table = pd.read_csv(files / "pairs.csv")
    table["kind"] = np.where(np.arange(len(table)) % 2, "odd", "even")
    table.to_parquet(files / "kinds.parquet")
    return files / "kinds.parquet"


def test_the_table_by_kind_has_every_method_and_vrqs_lead_on_the_same_pairs(files, kinds):
    data = read(files, kinds.name)
    report = encoding_report(data, default_config(data, (8, 4)))
    table = tables_of(report)["View consistency by kind of pair"]
    assert [(row[0], row[2]) for row in table.rows] == [(kind, m) for kind in ("even", "odd") for m in METHOD_ORDER]
    for kind, pairs, method, *cells in table.rows:
        assert pairs == len(data.kinds[kind])
        for name, own, lead in (("vc@1", *cells[:2]), ("vc@2", *cells[2:])):
            mean, low, high, _ = numbers(own)
            assert mean == pytest.approx(100 * report.metrics[f"{method}/{name}/{kind}"], abs=0.051)
            assert low <= mean <= high
            if method == "vrq":
                assert lead == ""
            else:
                by = report.metrics[f"vrq/{name}/{kind}"] - report.metrics[f"{method}/{name}/{kind}"]
                assert numbers(lead)[0] == pytest.approx(100 * by, abs=0.051)


def run_command(monkeypatch, capsys, *arguments):
    """Exit code, standard output and error of a command."""
    monkeypatch.setattr(sys, "argv", ["onevision", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "240")
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_the_command_writes_the_report_of_files(files, kinds, report, tmp_path, monkeypatch, capsys):
    given = ("--embeddings", files / "x.npy", "--pairs", kinds, "--categories", files / "categories.parquet")
    code, out, _ = run_command(
        monkeypatch, capsys, "encoding-report", *given, "--sizes", "8,4", "--seed", 7, "--out", tmp_path / "out"
    )
    assert code == 0
    for title in ("Encodings", "VRQ against the others", "View consistency by kind of pair", "Codes by level"):
        assert title in out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {name: value for name, value in metrics.items() if name.count("/") == 1} == report.metrics
    assert {"report.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    code, _, error = run_command(monkeypatch, capsys, "encoding-report", *given, "--sizes", "eight")
    assert (code, "write them as 64,32,16" in error) == (1, True)
    code, _, error = run_command(monkeypatch, capsys, "encoding-report", *given, "--validation")
    assert (code, "--validation is of a --run" in error) == (2, True)
    code, _, error = run_command(monkeypatch, capsys, "encoding-report", "--pairs", kinds)
    assert (code, "give either --embeddings" in error) == (2, True)


def test_the_command_marks_the_sizes_of_fewest_bits_that_reach_the_target(monkeypatch, capsys):
    code, out, _ = run_command(monkeypatch, capsys, "codebook-sizes", "--items", 100_000, "--target-icr", 0.9)
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split() == ["codebook", "sizes", "OPQ", "bits", "ICR", "collisions"]
    assert len(lines) == len(candidates(100_000))
    chosen = suggest(100_000, 0.9)
    (marked,) = (line for line in lines if "fewest bits" in line)
    assert marked.split()[:4] == [
        ",".join(map(str, chosen.codebook_sizes)),
        f"2x{chosen.opq_size}" if chosen.opq_size else "none",
        f"{chosen.bits:.0f}",
        f"{chosen.icr:.1%}",
    ]
    code, out, _ = run_command(monkeypatch, capsys, "codebook-sizes", "--items", 100_000, "--target-icr", 1)
    assert (code, "none of them is expected to reach 100%" in out) == (0, True)
    assert "fewest bits" not in out


def test_same_seed_gives_the_same_figures(files, report):
    data = read(files)
    assert encoding_report(data, default_config(data, (8, 4)), seed=7).metrics == report.metrics


def test_without_pairs_every_row_is_a_product_and_there_is_no_vrq(files):
    report = encoding_report(read(files, pairs=None))
    assert report.counts["products"] == PRODUCTS * VIEWS
    assert {key.split("/")[0] for key in report.metrics} == METHODS - {"vrq"}
    assert not [key for key in report.metrics if "vc@" in key]


@pytest.mark.parametrize(
    ("products", "sizes"),
    [
        (400, (16, 8, 4)),
        (2_400, (64, 32, 16)),
        (10_000, (128, 64, 32)),
        (100_000, (512, 256, 128)),
        (1_000_000, (1024, 512, 256)),
        (10_000_000, (4096, 1024, 512)),
    ],
)
def test_default_sizes_follow_the_rule(products, sizes):
    assert default_codebook_sizes(products) == sizes


def test_kinds_of_pairs_are_measured_on_held_out_products_alone(files, tmp_path):
    pairs = np.load(files / "pairs.npy")
    table = pd.DataFrame(pairs, columns=["a", "b"])
    table["kind"] = np.where(np.arange(len(pairs)) % 2, "odd", "even")
    table.to_parquet(tmp_path / "pairs.parquet")
    data = read_encoding_data(files / "x.npy", tmp_path / "pairs.parquet", None, seed=7)
    assert set(data.kinds) == {"even", "odd"}
    for kind, rows in data.kinds.items():
        unseen = [row.tolist() for row, name in zip(pairs, table["kind"], strict=True) if name == kind]
        assert rows.tolist() == [row for row in unseen if data.product[row[0]] in data.target]
        assert len(rows)
    quantizer = ResidualKMeans(DIM, (8, 4), opq_subspaces=0).fit(data.x, seed=0)
    rows = data.kinds["odd"]
    same = quantizer.encode(data.x[rows[:, 0]])[:, 0] == quantizer.encode(data.x[rows[:, 1]])[:, 0]
    assert Measured([quantizer], data, 0).metrics["vc@1/odd"] == pytest.approx(same.mean())  # one pair a product


def test_a_product_with_many_photos_counts_once(files):
    data = read(files)
    first, second = data.photo[:2]
    several = replace(data, photo=np.array([first] * 9 + [second]))
    quantizer = ResidualKMeans(DIM, (8, 4), opq_subspaces=0).fit(data.x, seed=0)
    once = Measured([quantizer], replace(data, photo=np.array([first, second])), 0)
    many = Measured([quantizer], several, 0)
    assert len(many.values["vc@1"]) == 2
    assert many.metrics["vc@1"] == once.metrics["vc@1"]
    assert many.difference(once, "r@1").mean == 0


def test_figures_of_several_fits_are_means_with_intervals_for_other_fits_too(files):
    data = read(files)
    config = default_config(data, (8, 4))
    one, two, both = (encoding_report(data, config, seed=seed, fits=fits) for seed, fits in ((7, 1), (8, 1), (7, 2)))
    assert both.counts["fits"] == 2
    names = [f"{method}/{name}" for method in METHODS for name in ("icr", "vc@1", "r@1", "perplexity@1", "bits")]
    for name in names:
        assert both.metrics[name] == pytest.approx((one.metrics[name] + two.metrics[name]) / 2)
    assert any(one.metrics[name] != two.metrics[name] for name in names)


def test_intervals_are_for_other_products_and_other_fits(files):
    data = read(files)
    fits = [ResidualKMeans(DIM, (8, 4), opq_subspaces=0).fit(data.x, seed=seed) for seed in (0, 1)]
    found = Measured(fits, data, 0)
    by_fit = np.stack([Measured([fit], data, 0).values["icr"][:, 0] for fit in fits], axis=1)
    assert (by_fit[:, 0] != by_fit[:, 1]).any()
    np.testing.assert_array_equal(found.values["icr"], by_fit)
    assert found.interval("icr", seed=3) == crossed_interval(by_fit, seed=3)
    assert found.difference(Measured(fits[::-1], data, 0), "icr") == crossed_interval(by_fit - by_fit[:, ::-1])


def test_ablations_take_out_each_part_that_is_on_and_add_each_that_is_off(files):
    data = read(files)
    config = default_config(data, (8, 4))
    ablated = ablated_configs(config)
    parts = {"contrast", "category", "margin", "learn_view_map", "balance_last_level"}
    taken_out = {f"vrq_without_{loss}" for loss in ("agreement", "usage", "commitment")}
    assert set(ablated) == {"vrq_closed_form"} | taken_out | {f"vrq_with_{part}" for part in parts}
    for name, changed in ablated.items():
        (differing,) = (f for f in type(config).model_fields if getattr(changed, f) != getattr(config, f))
        assert bool(getattr(changed, differing)) == ("vrq_with_" in name)
        type(config)(**changed.model_dump())  # of the right kind, and within its limits
    on = ablated_configs(config.model_copy(update={"margin_weight": 0.5, "balance_last_level": True}))
    assert {"vrq_without_margin", "vrq_without_balance_last_level"} <= set(on)
    assert (on["vrq_without_margin"].margin_weight, on["vrq_without_balance_last_level"].balance_last_level) == (
        0,
        False,
    )


def test_an_ablation_report_has_every_part_beside_vrq(files):
    data = read(files)
    config = default_config(data, (8, 4)).model_copy(update={"steps": 2})
    ablated = set(ablated_configs(config))
    unknown = replace(data, pairs=replace(data.pairs, category=None))
    reports = [encoding_report(given, config, ablations=True) for given in (data, unknown)]
    found = [{row[0] for row in tables_of(report)["Encodings"].rows} for report in reports]
    assert found == [METHODS | ablated, METHODS | ablated - {"vrq_with_category"}]
    warning = "categories are not known: VRQ with a category loss is left out"
    assert [warning in report.warnings for report in reports] == [False, True]


def test_training_pairs_know_the_category_of_their_product(files):
    data = read(files)
    owner = np.load(files / "owner.npy")
    np.testing.assert_array_equal(data.pairs.category, owner[data.train[data.pairs.u]] % 4)
    assert read_encoding_data(files / "x.npy", files / "pairs.npy", None, seed=7).pairs.category is None


def test_collapse_alarm_hears_few_codes_doing_all_the_work():
    def alarms(dead, perplexity):
        quantizer = ResidualKMeans(DIM, (64,), opq_subspaces=0)
        return _collapses({"m": quantizer}, {"m/dead_codes@1": dead, "m/perplexity@1": perplexity})

    assert alarms(0, 60.0) == []
    assert alarms(3, 32.0) == []
    assert alarms(0, 31.9) == ["m: level 1 uses 64 codes like 31.9 (perplexity)"]
    assert alarms(4, 60.0) == ["m: level 1 leaves 4 of 64 codes unused"]


def test_products_with_one_code_share_the_worst_rank():
    rebuilt = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    photos = np.array([[1, 0.1], [0, 1]], dtype=np.float32)
    assert ranks(photos, rebuilt, np.array([0, 2])).tolist() == [2, 1]


def test_inputs_that_are_not_what_they_should_be_are_refused(files, tmp_path):
    x = np.load(files / "x.npy")
    bad = x.copy()
    bad[5] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    np.save(tmp_path / "flat.npy", x[0])
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "far.npy", np.array([[0, 1], [0, len(x)]]))
    np.save(tmp_path / "few.npy", np.arange(3))
    good = files / "x.npy"
    for embeddings, pairs, categories, message in (
        (tmp_path / "nan.npy", None, None, "row 5 is zero or not finite"),
        (tmp_path / "flat.npy", None, None, r"\(N, d\) array"),
        (tmp_path / "objects.npy", None, None, "cannot be read"),
        (tmp_path / "nothing.npy", None, None, "cannot be read"),
        (tmp_path / "x.csv", None, None, "ends in .npy"),
        (good, tmp_path / "far.npy", None, "pair 1 is"),
        (good, files / "categories.parquet", None, "no column 'a'"),
        (good, None, tmp_path / "few.npy", "one a row"),
    ):
        with pytest.raises(ContractError, match=message):
            read_encoding_data(embeddings, pairs, categories, seed=7)
    data = read(files)
    with pytest.raises(OneVisionError, match="cannot fill"):
        encoding_report(data, default_config(data, (1024,)))
