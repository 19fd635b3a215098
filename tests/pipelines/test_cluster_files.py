"""The cluster's files: the overlays render, and what they name is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=sorted(p.name for p in (ROOT / "manifests" / "overlays").iterdir()))
def objects(request: pytest.FixtureRequest) -> list[dict]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    overlay = ROOT / "manifests" / "overlays" / request.param
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_everything_is_in_the_overlays_namespace(objects: list[dict]) -> None:
    assert len({item["metadata"]["namespace"] for item in objects}) == 1


def test_bindings_name_accounts_and_roles_that_are_there(objects: list[dict]) -> None:
    names = {(item["kind"], item["metadata"]["name"]) for item in objects}
    bindings = [item for item in objects if item["kind"] == "RoleBinding"]
    assert bindings
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in names
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in names


def test_no_role_allows_everything(objects: list[dict]) -> None:
    for role in (item for item in objects if item["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"]


def test_the_image_installs_everything_that_the_wheel_is_made_of() -> None:
    copied = (ROOT / "images" / "Containerfile").read_text()
    for folder in ("src", "components", "pipelines", "feature_repo"):
        assert f"COPY {folder} {folder}" in copied
