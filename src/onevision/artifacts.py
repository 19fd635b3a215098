"""Artifacts: the folders that stages hand to each other.

An artifact is a folder of data files (Parquet, safetensors, JSON, HTML) and a `manifest.json` that is written last:
a folder without a manifest is half-written and no reader takes it. The manifest holds no clock and no path, so the
same inputs, recipe and code give the same `identity`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onevision import __version__
from onevision.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
RUN = "run.json"
"""Lies in the folder of a run, beside its artifacts."""
UNFINISHED = ".unfinished"
"""Lies in a folder from the start of an artifact to its end: what a killed attempt left may be written anew."""
REPORTS = ("report.json", "report.html")
"""Written beside an artifact after it is finished; they hold seconds, so they are no part of its identity."""


@dataclass(frozen=True)
class Artifact:
    """A verified artifact folder.

    `identity` is a hash of the kind, the parents and every file's content; `generation` names the codebooks that
    semantic IDs in it belong to (None before there are codebooks).
    """

    path: Path
    kind: str
    identity: str
    parents: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    generation: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """Path of a file in the artifact; `ArtifactError` if it is not there."""
        path = self.path / name
        if not path.exists():
            raise ArtifactError(f"{self.path}: the {self.kind} artifact has no file {name!r}")
        return path


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically (temporary file in the same folder, then rename), keys in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Parse a JSON file; `ArtifactError` names the file and the place of a syntax error."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from None


def check_output_folder(out: Path, inputs: Mapping[str, Path | Sequence[Path]], kind: str) -> Path:
    """Refuse a folder that an artifact cannot be written to without harm: it is emptied first.

    Args:
        inputs: name -> folders that the artifact is made from.
        kind: of the artifact; one of the same kind, or what a killed attempt left, is replaced.

    Raises:
        ArtifactError: not a local folder, a link, (part of) an input, or a folder that holds something else.
    """
    require_local(out)
    if out.is_symlink():
        raise ArtifactError(f"{out}: is a link to {out.resolve()}; name a folder of its own to write to")
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out}: this is a file; an artifact is a folder")
    target = out.resolve()
    for name, given in inputs.items():
        for path in [given] if isinstance(given, Path) else given:
            source = path.resolve()
            if target.is_relative_to(source) or source.is_relative_to(target):
                raise ArtifactError(f"{out}: writing here would change {path}, the input {name!r}; name another folder")
    if (out / MANIFEST).exists():
        found = open_artifact(out, verify=False).kind
        if found != kind:
            raise ArtifactError(f"{out}: holds a {found!r} artifact, which a {kind!r} artifact does not replace")
    elif out.is_dir() and any(out.iterdir()) and not (out / UNFINISHED).exists():
        raise ArtifactError(
            f"{out}: the folder is not empty and holds no finished artifact; name another folder, or delete this one"
        )
    return out


def require_local(path: Path) -> None:
    """`ArtifactError` if a path that is to be written to is an address such as gs://bucket/prefix."""
    if re.match(r"[a-z][a-z0-9]+:/", str(path)):
        raise ArtifactError(f"{path}: this is written to a local folder; only snapshots, bundles and stores are remote")


def start_artifact(path: Path) -> Path:
    """Make `path` an empty folder to write an artifact into; what an earlier, killed attempt left there goes."""
    if path.exists():
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
    path.mkdir(parents=True)
    (path / UNFINISHED).touch()
    return path


def finish_artifact(
    path: Path,
    kind: str,
    *,
    parents: dict[str, Artifact] | None = None,
    counts: dict[str, int] | None = None,
    generation: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Artifact:
    """Checksum every file under `path` and write the manifest, last and atomically.

    Args:
        parents: input name -> artifact that this one was made from.
        counts: rows or things in the artifact, for reports (in, out, aside).
        generation: identity of the codebooks; by default that of the parents, which must agree.
    """
    parents = parents or {}
    generations = {p.generation for p in parents.values() if p.generation is not None}
    if generation is None and len(generations) > 1:
        raise ArtifactError(f"{path}: its inputs are of different generations: {sorted(generations)}")
    generation = generation or next(iter(generations), None)
    files = {
        str(f.relative_to(path)): {"bytes": f.stat().st_size, "sha256": file_sha256(f)}
        for f in sorted(path.rglob("*"))
        if f.is_file() and str(f.relative_to(path)) not in (MANIFEST, UNFINISHED, *REPORTS)
    }
    content = {name: entry["sha256"] for name, entry in files.items()}
    parent_ids = {name: parent.identity for name, parent in sorted(parents.items())}
    digest = hashlib.sha256(json.dumps([kind, parent_ids, content], sort_keys=True).encode()).hexdigest()
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "identity": digest[:16],
        "generation": generation,
        "library_version": __version__,
        "parents": parent_ids,
        "counts": counts or {},
        "extra": extra or {},
        "files": files,
    }
    write_json(path / MANIFEST, manifest)
    (path / UNFINISHED).unlink(missing_ok=True)
    _make_readable(path, files)
    return _from_manifest(path, manifest)


def open_artifact(path: Path | str, kind: str | None = None, *, verify: bool = True) -> Artifact:
    """Read and verify an artifact.

    Args:
        kind: the kind that is wanted; None takes any.
        verify: also compare every file's checksum (sizes are always compared).

    Raises:
        ArtifactError: no folder, no manifest (half-written), another kind or schema, a missing or altered file.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such artifact folder")
    if (path / RUN).exists():
        raise ArtifactError(
            f"{path}: is the folder of a run; name an artifact in it, such as {path / (kind or 'bundle')}"
        )
    if not (path / MANIFEST).exists():
        raise ArtifactError(f"{path}: no {MANIFEST}; the stage that writes it did not finish. Run that stage again.")
    manifest = read_json(path / MANIFEST)
    try:
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}: schema version {manifest['schema_version']}, this library reads {SCHEMA_VERSION}"
            )
        if kind is not None and manifest["kind"] != kind:
            raise ArtifactError(f"{path}: this is a {manifest['kind']!r} artifact, a {kind!r} artifact is wanted")
        for name, entry in manifest["files"].items():
            _check_file(path / name, entry, verify)
        return _from_manifest(path, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path / MANIFEST}: not an artifact manifest ({error!r})") from None


def require_same_generation(*artifacts: Artifact) -> None:
    """`ArtifactError` unless all artifacts that name a generation name the same one."""
    named = {a.generation: a for a in artifacts if a.generation is not None}
    if len(named) > 1:
        listing = ", ".join(f"{a.path} ({g})" for g, a in sorted(named.items()))
        raise ArtifactError(f"artifacts of different generations cannot be used together: {listing}")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder, hard-linking files where the file system allows it (artifacts are never changed in place)."""

    def link_or_copy(src: str, dst: str) -> None:
        try:
            os.link(os.path.realpath(src), dst)  # not the link, where a file is one
        except OSError:
            shutil.copy2(src, dst)

    shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)


def _make_readable(path: Path, files: Iterable[str]) -> None:
    """Let whoever may read the manifest read the files: safetensors writes its own for their owner alone."""
    mode = (path / MANIFEST).stat().st_mode
    for name in files:
        if (path / name).stat().st_mode != mode:
            (path / name).chmod(mode)


def _check_file(path: Path, entry: dict[str, Any], verify: bool) -> None:
    if not path.exists():
        raise ArtifactError(f"{path}: named in the manifest but missing")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry['bytes']}")
    if not os.access(path, os.R_OK):
        raise ArtifactError(f"{path}: may not be read by this user (number {os.getuid()}); give it read permission")
    if verify and file_sha256(path) != entry["sha256"]:
        raise ArtifactError(f"{path}: its checksum differs from the manifest's; the file was changed or damaged")


def _from_manifest(path: Path, manifest: dict[str, Any]) -> Artifact:
    return Artifact(
        path=path,
        kind=manifest["kind"],
        identity=manifest["identity"],
        parents=dict(manifest["parents"]),
        counts=dict(manifest["counts"]),
        generation=manifest["generation"],
        extra=dict(manifest["extra"]),
    )
