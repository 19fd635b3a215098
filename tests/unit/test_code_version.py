"""The code hash covers what a stage may run: its imports, wherever they stand, and the data files beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

import onevision
from onevision.code_version import code_hash, source_files
from onevision.stages import STAGES

SOURCES = {
    "__init__.py": "",
    "stage.py": "import onevision.direct\n\ndef run():\n    from onevision.package import inside\n",
    "direct.py": "from onevision.deep import value\nimport numpy\n",
    "deep.py": "value = 1\n",
    "unused.py": "value = 2\n",
    "package/__init__.py": "",
    "package/inside.py": "text = 'x'\n",
    "package/query.sql": "SELECT 1",
    "package/templates/page.html": "<p>",
    "package/subpackage/__init__.py": "",
    "recipes/smoke.yaml": "seed: 1",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("stage.py", True),
        ("direct.py", True),
        ("deep.py", True),
        ("package/__init__.py", True),
        ("package/inside.py", True),
        ("package/query.sql", True),
        ("package/templates/page.html", True),
        ("unused.py", False),
        ("package/subpackage/__init__.py", False),
        ("recipes/smoke.yaml", False),
    ],
)
def test_a_change_counts_where_the_stage_may_run_it(root: Path, name: str, counts: bool) -> None:
    before = code_hash("onevision.stage", root)
    with (root / name).open("a") as source:
        source.write("\n")
    assert (code_hash("onevision.stage", root) != before) is counts


def test_an_import_circle_ends(root: Path) -> None:
    (root / "deep.py").write_text("import onevision.stage\n")
    assert root / "deep.py" in source_files("onevision.stage", root)


def test_a_missing_module_is_named(root: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"onevision\.nothing"):
        code_hash("onevision.nothing", root)


def test_real_stages_depend_on_their_own_losses_only() -> None:
    root = Path(onevision.__file__).parent
    files = {name: source_files(s.function.partition(":")[0], root) for name, s in STAGES.items()}
    assert root / "encoder/circle.py" in files["align"]
    assert root / "encoder/circle.py" not in files["pair"]
    assert root / "encoder/circle.py" not in files["materialize-features"]
    assert root / "pairing/stage.py" not in files["align"]
    assert root.parents[1] / "feature_repo/views.py" in files["materialize-features"]
    assert root / "preference/dpo.py" in files["align-preferences"]
    assert [name for name in files if root / "preference/dpo.py" in files[name]] == ["align-preferences"]
