"""The version of a stage's code: a hash over everything of this package that the stage's function may run.

Imports are read from the source (also those inside functions), never executed, so the hash costs milliseconds and
no heavy package. Data files beside the modules (SQL, YAML, templates) count; recipes do not, because a stage's own
section of the recipe is part of its cache key already.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "onevision"
RECIPES = "recipes"
DATA_AT_THE_ROOT = {"onevision.features": "feature_repo"}
"""Package -> folder of data that it reads at the root of a checkout; in a wheel it is inside this package."""


def code_hash(module: str, root: Path | None = None) -> str:
    """Short hash of the sources that `module` transitively imports from this package, and of their data files.

    Args:
        module: dotted name, such as `onevision.pairing.stage`.
        root: folder of the package; by default the one that is running.

    Raises:
        ModuleNotFoundError: the package has no such module.
    """
    root = root or Path(__file__).parent
    digest = hashlib.sha256()
    for path in source_files(module, root):
        digest.update(f"{os.path.relpath(path, root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def source_files(module: str, root: Path) -> list[Path]:
    """Every file that the hash of `module` covers, sorted."""
    start = _module_file(module, root)
    if start is None:
        raise ModuleNotFoundError(f"no module {module!r} in {root}", name=module)
    seen: set[str] = set()
    files: set[Path] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        path = None if name in seen else _module_file(name, root)
        seen.add(name)
        if path is None:
            continue
        files.add(path)
        files.update(_data_files(path.parent, root))
        if name in DATA_AT_THE_ROOT:
            files.update(_outside(root, DATA_AT_THE_ROOT[name]))
        queue.extend(_parents(name))
        queue.extend(_imported(path, path.stat().st_mtime_ns))
    return sorted(files)


def _module_file(module: str, root: Path) -> Path | None:
    """Source of a module; None for a name inside a module, or a module of another package."""
    first, *parts = module.split(".")
    if first != PACKAGE:
        return None
    folder = root.joinpath(*parts)
    if (folder / "__init__.py").is_file():
        return folder / "__init__.py"
    source = folder.with_suffix(".py")
    return source if parts and source.is_file() else None


def _parents(module: str) -> Iterator[str]:
    """Packages that Python imports on the way to `module`."""
    parts = module.split(".")
    for depth in range(1, len(parts)):
        yield ".".join(parts[:depth])


@cache
def _imported(source: Path, _modified: int) -> tuple[str, ...]:
    """Names of this package that a source imports anywhere; `from a import b` gives both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(), filename=str(source))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(sorted(n for n in names if n.split(".")[0] == PACKAGE))


def _outside(root: Path, folder: str) -> Iterator[Path]:
    place = root / folder if (root / folder).is_dir() else root.parents[1] / folder
    return (p for p in place.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _data_files(folder: Path, root: Path) -> Iterator[Path]:
    """Files of a package that are no modules: beside its sources, and whole folders that are no packages."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")) or path == root / RECIPES:
            continue
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path
        elif path.is_dir() and not (path / "__init__.py").exists():
            yield from (p for p in sorted(path.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
