"""Render every overlay and check it: `python -m manifests.check [overlay ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

from manifests.policies import POLICIES
from manifests.schema import VERSIONS, problems
from manifests.workloads import OVERLAYS, RenderError, render


def check(overlay: Path) -> tuple[int, list[str]]:
    """How many objects an overlay has, and all that is wrong with them."""
    objects = render(overlay)
    wrong = [problem for version in VERSIONS for item in objects for problem in problems(item, version)]
    wrong += [f"{policy.__name__}: {sentence}" for policy in POLICIES for sentence in policy(objects)]
    return len(objects), wrong


def main(names: list[str]) -> int:
    """Check the overlays of these names, or all; the exit code."""
    bad = 0
    for name in names or sorted(folder.name for folder in OVERLAYS.iterdir()):
        try:
            count, wrong = check(OVERLAYS / name)
        except RenderError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        bad += len(wrong)
        verdict = f"{len(wrong)} problems" if wrong else "good"
        print(f"{name}: {count} objects, Kubernetes {', '.join(VERSIONS)}, {len(POLICIES)} policies: {verdict}")
        print("".join(f"  {sentence}\n" for sentence in wrong), end="")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
