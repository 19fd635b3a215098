"""Running a stage: measured, reported, refused where the input is wrong, and reused where nothing changed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from onevision import runner, stage_cache, task
from onevision.artifacts import finish_artifact, open_artifact, start_artifact, write_json
from onevision.errors import ArtifactError, MissingDependencyError, OneVisionError, RecipeError
from onevision.report import StageReport
from onevision.runner import run_stage
from onevision.stages import STAGES, Stage

FAKE = Stage("fake", "fake_stage:run", "pairing", {"encoder": "encoder"}, "pairs", "fake", parameters={"store": "x"})


class FakeWork:
    """A stage function that counts its calls and writes its arguments."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.text = ""

    def __call__(self, *, encoder: Path, out: Path, config: object, seed: int, store: str = "") -> StageReport:
        self.calls += 1
        start_artifact(out)
        (out / "data.txt").write_text(f"{config} {seed} {store}{self.text}")
        if self.error:
            raise self.error
        finish_artifact(out, "pairs", parents={"encoder": open_artifact(encoder)}, counts={"rows": 3})
        return StageReport("fake", counts={"rows": 3}, metrics={"hr@10": 0.5}, warnings=["few rows"])


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> FakeWork:
    fake = FakeWork()
    module = ModuleType("fake_stage")
    module.run = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_stage", module)
    monkeypatch.setitem(STAGES, "fake", FAKE)
    monkeypatch.setattr(stage_cache, "code_hash", lambda name: f"code of {name}")
    monkeypatch.delenv(stage_cache.CACHE_VARIABLE, raising=False)
    return fake


def make_encoder(path: Path, text: str = "weights") -> Path:
    start_artifact(path)
    (path / "model.txt").write_text(text)
    finish_artifact(path, "encoder")
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "encoder")


@pytest.fixture
def cache(work: FakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(stage_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(encoder: Path, out: Path, *overrides: str, **arguments: object) -> StageReport:
    return run_stage("fake", {"encoder": encoder}, out, recipe="smoke", overrides=overrides, **arguments)  # type: ignore[arg-type]


def test_a_stage_leaves_artifact_report_and_page(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    report = run(encoder, tmp_path / "out", html=tmp_path / "deep" / "page.html")
    assert report.seconds > 0
    assert report.peak_memory_mb > 1
    assert open_artifact(tmp_path / "out", "pairs").parents == {"encoder": open_artifact(encoder).identity}
    assert StageReport.load(tmp_path / "out") == report
    page = (tmp_path / "out" / "report.html").read_text()
    assert "few rows" in page
    assert (tmp_path / "deep" / "page.html").read_text() == page


def test_the_function_gets_its_section_and_the_seed(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    run(encoder, tmp_path / "out", "pairing.test_days=9", "seed=11", parameters={"store": "there"})
    text = (tmp_path / "out" / "data.txt").read_text()
    assert "test_days=9" in text
    assert text.endswith(" 11 there")


def test_wrong_calls_are_explained(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OneVisionError, match="did you mean 'fake'"):
        run_stage("fakee", {}, out, recipe="smoke")
    with pytest.raises(OneVisionError, match=r"takes the inputs encoder; missing: encoder; unknown: pairs"):
        run_stage("fake", {"pairs": encoder}, out, recipe="smoke")
    with pytest.raises(OneVisionError, match="no parameter speed"):
        run(encoder, out, parameters={"speed": "1"})
    with pytest.raises(RecipeError, match="did you mean"):
        run(encoder, out, "pairing.tset_days=3")
    with pytest.raises(ArtifactError, match="nowhere"):
        run(tmp_path / "nowhere", out)
    assert work.calls == 0


def test_an_input_of_another_kind_is_refused(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    run(encoder, tmp_path / "pairs")
    with pytest.raises(ArtifactError, match="'encoder' artifact is wanted"):
        run(tmp_path / "pairs", tmp_path / "out")


def test_a_folder_of_other_things_is_not_emptied(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(OneVisionError, match="not empty"):
        run(encoder, precious.parent)
    assert precious.exists()
    run(encoder, tmp_path / "out")
    run(encoder, tmp_path / "out")  # its own artifact may be replaced


def test_what_a_killed_attempt_left_is_written_anew(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    work.error = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        run(encoder, tmp_path / "out")
    work.error = None
    run(encoder, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "data.txt",
        "manifest.json",
        "report.json",
        "report.html",
    }


@pytest.mark.parametrize("out", ["encoder", ".", "encoder/inside", "link", "gs:/bucket/out", "other"])
def test_an_output_that_would_harm_something_is_refused_before_any_harm(
    work: FakeWork, encoder: Path, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_encoder(tmp_path / "other")
    run(encoder, tmp_path / "pairs")
    (tmp_path / "link").symlink_to(tmp_path / "pairs")
    before, calls = sorted(tmp_path.rglob("*")), work.calls
    with pytest.raises(ArtifactError, match=r"input 'encoder'|is a link to|local folder|does not replace"):
        run(encoder, Path(out))
    assert (work.calls, sorted(tmp_path.rglob("*"))) == (calls, before)
    open_artifact(encoder)
    open_artifact(tmp_path / "pairs")


def test_a_parameter_that_has_no_default_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OneVisionError, match="stage open-champion needs --champion, --snapshot"):
        run_stage("open-champion", {}, tmp_path / "out", recipe="smoke")


def test_the_folder_of_a_run_is_told_from_an_artifact(encoder: Path) -> None:
    write_json(encoder.parent / "run.json", {})
    with pytest.raises(ArtifactError, match=r"folder of a run; name an artifact in it, such as .*/encoder"):
        open_artifact(encoder.parent, "encoder")


def test_a_missing_package_names_the_extra(
    work: FakeWork, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_stage.py").write_text("import package_that_is_not_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    needy = Stage("fake", "needy_stage:run", "pairing", {"encoder": "encoder"}, "pairs", "", extra="features")
    monkeypatch.setitem(STAGES, "fake", needy)
    with pytest.raises(MissingDependencyError, match=r"package_that_is_not_here.*onevision\[features\]"):
        run(encoder, tmp_path / "out")


def test_the_same_work_is_reused(work: FakeWork, encoder: Path, cache: Path, tmp_path: Path) -> None:
    first = run(encoder, tmp_path / "a")
    again = run(make_encoder(tmp_path / "copy"), tmp_path / "b")
    assert work.calls == 1
    assert (again.reused, again.seconds) == (True, first.seconds)
    assert not first.reused
    assert open_artifact(tmp_path / "b") == open_artifact(tmp_path / "a").__class__(
        **{**vars(open_artifact(tmp_path / "a")), "path": tmp_path / "b"}
    )


def test_without_the_variable_nothing_is_kept(work: FakeWork, encoder: Path, tmp_path: Path) -> None:
    run(encoder, tmp_path / "a")
    run(encoder, tmp_path / "b")
    assert work.calls == 2


@pytest.mark.parametrize("change", ["section", "seed", "input", "code", "fresh"])
def test_what_the_work_depends_on_makes_it_run_again(
    work: FakeWork, encoder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run(encoder, tmp_path / "a")
    overrides = {"section": ["pairing.test_days=9"], "seed": ["seed=99"]}.get(change, [])
    if change == "input":
        encoder = make_encoder(tmp_path / "other", "other weights")
    if change == "code":
        monkeypatch.setattr(stage_cache, "code_hash", lambda name: "changed")
    if change == "fresh":
        monkeypatch.setenv(stage_cache.REUSE_VARIABLE, "0")
    assert not run(encoder, tmp_path / "b", *overrides).reused
    assert work.calls == 2


def test_another_section_does_not_make_it_run_again(work: FakeWork, encoder: Path, cache: Path, tmp_path: Path) -> None:
    run(encoder, tmp_path / "a")
    assert run(encoder, tmp_path / "b", "encoder.steps=5").reused


def test_a_failed_stage_is_not_kept(work: FakeWork, encoder: Path, cache: Path, tmp_path: Path) -> None:
    work.error = OneVisionError("bad rows")
    with pytest.raises(OneVisionError, match="bad rows"):
        run(encoder, tmp_path / "a")
    work.error = None
    assert not run(encoder, tmp_path / "b").reused


def test_a_damaged_entry_is_made_anew(
    work: FakeWork, encoder: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(encoder, tmp_path / "a")
    (tmp_path / "a" / "data.txt").write_text("changed in place, through the link")
    report = run(encoder, tmp_path / "b")
    assert not report.reused
    assert "damaged" in capsys.readouterr().err
    assert run(encoder, tmp_path / "c").reused


def test_an_impure_stage_always_runs(
    work: FakeWork, encoder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "fake", Stage(**{**vars(FAKE), "pure": False}))
    run(encoder, tmp_path / "a")
    run(encoder, tmp_path / "b")
    assert work.calls == 2


class TestTask:
    """What a KFP component calls."""

    @pytest.fixture(autouse=True)
    def outputs(self, tmp_path: Path) -> None:
        self.out, self.metrics, self.page = (
            SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("out", "metrics", "page.html")
        )

    def run(self, encoder: Path, **arguments: object) -> None:
        task.run_task(
            "fake",
            {"encoder": str(encoder)},
            self.out,
            recipe="smoke",
            overrides=[],
            metrics=self.metrics,
            page=self.page,
            **arguments,  # type: ignore[arg-type]
        )

    def test_metrics_and_lineage_reach_kfp(self, work: FakeWork, encoder: Path) -> None:
        self.run(encoder, lineage={"run_date": "2026-01-02"})
        assert self.metrics.metadata["hr@10"] == 0.5
        assert all(type(value) is float for value in self.metrics.metadata.values())
        assert self.out.metadata["identity"] == open_artifact(self.out.path).identity
        assert self.out.metadata["run_date"] == "2026-01-02"
        assert Path(self.page.path).exists()

    def test_a_mistake_ends_with_one_message_and_no_traceback(
        self, work: FakeWork, encoder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        work.error = OneVisionError("items.parquet: row 7: no price\nput one there")
        with pytest.raises(SystemExit) as stop:
            self.run(encoder)
        assert stop.value.code == 1
        assert stop.value.__suppress_context__
        lines = capsys.readouterr().out.splitlines()
        assert "onevision: fake failed: items.parquet: row 7: no price" in lines
        assert "onevision: put one there" in lines

    def test_a_bug_keeps_its_traceback(self, work: FakeWork, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        work.error = ZeroDivisionError("division by zero")
        with pytest.raises(ZeroDivisionError):
            self.run(encoder)
        assert "fake failed: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_snapshots_of_a_recipe_are_reused(work: FakeWork, cache: Path, tmp_path: Path) -> None:
    small = ["snapshot.items=72", "snapshot.users=10", "snapshot.queries=50", "snapshot.days=12"]
    first = runner.make_snapshot(tmp_path / "a", recipe="smoke", overrides=small)
    again = runner.make_snapshot(tmp_path / "b", recipe="smoke", overrides=small)
    assert (first.reused, again.reused) == (False, True)
    assert open_artifact(tmp_path / "a").identity == open_artifact(tmp_path / "b").identity
