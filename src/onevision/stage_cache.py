"""Finished stages of local runs, kept so that a rerun only does what depends on a change.

An entry is `<cache>/<stage>/<key>/`, a finished artifact with its report. The key covers the stage's section of the
recipe, the seed, the identities of the input artifacts and the stage's code; a stage that makes the same bytes
from changed code therefore spares the stages after it. On a cluster the variable is unset: KFP has its own cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from onevision.artifacts import UNFINISHED, copy_tree, open_artifact, start_artifact
from onevision.code_version import code_hash
from onevision.config import Section
from onevision.errors import ArtifactError
from onevision.recipe import section_hash
from onevision.report import StageReport

CACHE_VARIABLE = "ONEVISION_STAGE_CACHE"
"""Folder of the cache; unset or empty: no cache."""
REUSE_VARIABLE = "ONEVISION_STAGE_REUSE"
"""`0`: run every stage again and replace what is kept."""


class StageCache:
    """A folder of finished artifacts; `reuse=False` only writes."""

    def __init__(self, folder: Path, reuse: bool = True) -> None:
        self.folder = folder
        self.reuse = reuse

    @classmethod
    def from_environment(cls) -> StageCache | None:
        """The cache that the environment names; None without one."""
        folder = os.environ.get(CACHE_VARIABLE)
        return cls(Path(folder), os.environ.get(REUSE_VARIABLE) != "0") if folder else None

    def fetch(self, stage: str, key: str, kind: str, out: Path) -> StageReport | None:
        """Link a finished artifact into `out` and return its report, marked as reused; None if there is none.

        A damaged entry (a file was changed through one of its links) is dropped with a warning, and made anew.
        """
        entry = self.folder / stage / key
        if not (self.reuse and entry.is_dir()):
            return None
        try:
            open_artifact(entry, kind)
            copy_tree(entry, start_artifact(out))
            (out / UNFINISHED).unlink()
            report = StageReport.load(out)
        except ArtifactError as error:
            print(f"the stage cache is damaged, {stage} runs again: {error}", file=sys.stderr)
            shutil.rmtree(entry, ignore_errors=True)
            return None
        report.reused = True
        return report

    def store(self, stage: str, key: str, out: Path) -> None:
        """Keep a finished artifact: linked into a temporary folder, then renamed, so that no half is ever read."""
        entry = self.folder / stage / key
        temporary = entry.with_name(f".{key}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        copy_tree(out, temporary)
        shutil.rmtree(entry, ignore_errors=True)
        temporary.replace(entry)


def stage_key(stage: str, section: Section, seed: int, inputs: Mapping[str, str], module: str) -> str:
    """Key of a stage's work.

    Args:
        inputs: input name -> identity of its artifact, or another text that stands for its content; parameters too.
        module: where the stage's function is; its code and all that it imports count.
    """
    parts = [stage, section_hash(section), seed, dict(sorted(inputs.items())), code_hash(module)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
