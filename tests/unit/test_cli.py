"""The command line: quick, complete, and polite about mistakes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from onevision import cli
from onevision.recipe import load_recipe
from onevision.stages import ALL_STAGES as ALL

HEAVY = ("torch", "kfp", "pandas", "pyarrow", "numpy", "transformers", "feast")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["onevision", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_imports_nothing_heavy_and_names_every_stage() -> None:
    code = (
        "import sys; from onevision.cli import main; sys.argv = ['onevision', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # CPU seconds; 0.3 on an idle core
    assert "heavy: []" in done.stdout
    for stage in ALL:
        assert stage in done.stdout


@pytest.mark.parametrize("stage", ALL)
def test_a_stage_command_has_an_option_for_every_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, monkeypatch, stage, "--help")
    assert code == 0
    found = ALL[stage]
    for name in (*found.inputs, *found.collected, *found.optional, *found.parameters, "out", "recipe"):
        assert f"--{name.replace('_', '-')} " in out


def test_a_stage_runs_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_snapshot: Path, tmp_path: Path
) -> None:
    code, out, _ = run(
        capsys,
        monkeypatch,
        *("pair", "--snapshot", str(tiny_snapshot), "--out", str(tmp_path / "pairs"), "--recipe", "smoke"),
        *("pairing.validation_days=2", "pairing.test_days=2"),
    )
    assert code == 0
    assert f"written to {tmp_path / 'pairs'}" in out
    assert (tmp_path / "pairs" / "report.html").exists()


def test_a_mistake_is_one_message_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = tmp_path / "nothing"
    code, out, err = run(
        capsys, monkeypatch, "pair", "--snapshot", str(missing), "--out", str(tmp_path / "out"), "--recipe", "smoke"
    )
    assert (code, out) == (1, "")
    assert err == f"onevision: {missing}: no such artifact folder\n"


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run(capsys, monkeypatch, "pair", "--recipe", "smoke")
    assert code == 2
    assert "--snapshot" in err
    assert run(capsys, monkeypatch, "pare")[0] == 2


def test_a_recipe_is_shown_with_its_defaults_and_overrides(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "recipes", "show", "smoke", "encoder.steps=3")
    assert code == 0
    assert yaml.safe_load(out) == load_recipe("smoke", ["encoder.steps=3"]).model_dump(mode="json")
    assert "smoke" in run(capsys, monkeypatch, "recipes", "list")[1].splitlines()


def test_an_override_that_is_wrong_names_the_right_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, "recipes", "show", "smoke", "encoder.stepz=3")
    assert code == 1
    assert "did you mean 'steps'?" in err


def test_a_snapshot_is_written_and_verified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_snapshot: Path
) -> None:
    code, out, _ = run(capsys, monkeypatch, "snapshot", "verify", str(tiny_snapshot))
    assert code == 0
    assert "tiny-2026-01-13" in out
