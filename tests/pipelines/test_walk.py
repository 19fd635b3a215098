"""The walk of `docs/tweak.md`, command by command, in a copy of the repository and at the smallest size.

It is also the test of a whole run: every stage, the report, the metrics, the bundle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onevision.artifacts import open_artifact
from onevision.runs import LINKS, Run
from onevision.stages import STAGES

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "components", "pipelines", "feature_repo", "docs")
TINY = """
seed: 7
snapshot: {source: synthetic, items: 120, users: 60, queries: 400, days: 12}
pairing: {validation_days: 3, test_days: 3}
encoder: {width: 8, embedding_dim: 32, steps: 20, items_per_batch: 16}
quantization: {codebook_sizes: [16, 8, 4], opq_size: 4, steps: 10, batch_size: 128}
generator: {d_model: 32, feedforward: 64, batch_size: 32, steps_visual: 10, steps_cooccurrence: 6, steps_personal: 10}
preference: {steps: 4, batch_size: 16, checks: 1}
pruning: {open_below: [30], masses: [0.8], queries: 20, timed_queries: 5}
evaluation: {max_queries: 40, beam_width: 8, bootstrap_samples: 100, recall_candidates: 30, ranker_trees: 10,
             latency_queries: 5, gallery: 2}
publishing: {min_hr10_of_dense: 0.0, max_hr50_loss_to_dense: 1.0, max_loss_to_champion: 1.0}
"""
BEFORE_ENCODER = {"snapshot", "validate", "pair", "materialize-features"}
BEFORE_PREFERENCES = BEFORE_ENCODER | {"align", "train-vrq", "assign-ids", "sft"}


def commands(page: Path) -> list[str]:
    """The bash blocks of a page, at the smallest size."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [block.replace("--recipe smoke", "--recipe tiny") for block in blocks]


def copy_repository(target: Path) -> None:
    """A copy with a history of its own, so that the walk may edit sources and put them back."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / "src/onevision/recipes/tiny.yaml").write_text(TINY)
    git = ["git", "-c", "user.name=walk", "-c", "user.email=walk@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Start the walk"]):
        subprocess.run([*git, *arguments], cwd=target, check=True)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], str]:
    """The walk's runs in their order, and all that it printed."""
    checkout = tmp_path_factory.mktemp("walk")
    copy_repository(checkout)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{checkout}",
        "COLUMNS": "160",
        "OMP_NUM_THREADS": "1",
    }
    script = "set -euo pipefail\n" + "\n".join(commands(checkout / "docs" / "tweak.md"))
    done = subprocess.run(["bash", "-c", script], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    folders = sorted(path.parent for path in (checkout / "runs").glob("*/run.json") if not path.parent.is_symlink())
    return [Run.open(folder) for folder in folders], done.stdout


def reused(run: Run) -> set[str]:
    return {report.stage for report in run.reports() if report.reused}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_first_run_leaves_everything_that_a_run_leaves(walk: tuple[list[Run], str]) -> None:
    run = walk[0][0]
    assert [report.stage for report in run.reports()] == list(LINKS)
    assert reused(run) == set()
    for name, stage in STAGES.items():
        artifact = open_artifact(run.artifact(name), stage.output)
        assert (artifact.path / "report.html").exists()
    assert not re.search(r"""(src|href)=["']?http|url\(["']?http|@import""", (run.path / "report.html").read_text())
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert {"dense/hr@10", "generator_aligned/mrr@10", "align/seconds", "pair/peak_memory_mb"} <= set(metrics)
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_a_changed_value_runs_what_depends_on_it_only(walk: tuple[list[Run], str]) -> None:
    runs, printed = walk
    assert reused(runs[1]) == BEFORE_ENCODER
    assert re.search(r"^encoder\.circle_weight: \S+ -> 1\.0$", printed, flags=re.MULTILINE)
    before, after = (open_artifact(run.artifact("align")).identity for run in runs[:2])
    assert before != after


def test_a_changed_line_runs_what_depends_on_it_only(walk: tuple[list[Run], str]) -> None:
    run = walk[0][2]
    assert reused(run) == BEFORE_PREFERENCES


def test_with_the_line_back_everything_but_publishing_is_reused(walk: tuple[list[Run], str]) -> None:
    run = walk[0][3]
    assert reused(run) == set(LINKS) - {"publish"}
    assert open_artifact(run.artifact("evaluate")).identity == open_artifact(walk[0][0].artifact("evaluate")).identity


def test_reused_artifacts_are_the_first_runs_artifacts(walk: tuple[list[Run], str]) -> None:
    first, second = walk[0][:2]
    for stage in BEFORE_ENCODER:
        assert open_artifact(first.artifact(stage)).identity == open_artifact(second.artifact(stage)).identity


def test_the_pipeline_and_single_stages_share_one_code_path(walk: tuple[list[Run], str]) -> None:
    checkout = walk[0][0].path.parents[1]
    assert open_artifact(checkout / "my-pairs", "pairs").counts["pairs_out"] > 0
