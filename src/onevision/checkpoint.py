"""Checkpoints of a training that goes on after a kill: one safetensors file, its JSON state in the header.

A checkpoint lies beside the artifact that is being made, or in the folder that the environment names, and goes when
the training is done. It carries the identity of the work (recipe, inputs, code), and no other work takes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS_VARIABLE = "ONEVISION_CHECKPOINTS"
"""Folder of checkpoints, such as a volume that outlives a pod; unset or empty: beside the artifact."""


@dataclass(frozen=True)
class Checkpoint:
    """Place and identity of a training's checkpoint."""

    path: Path
    identity: str

    @classmethod
    def of(cls, stage: str, out: Path, work: list[Any]) -> Checkpoint:
        """The checkpoint of the work that `work` (JSON) identifies, which writes its artifact to `out`."""
        identity = hashlib.sha256(json.dumps([stage, work], sort_keys=True).encode()).hexdigest()[:16]
        folder = os.environ.get(CHECKPOINTS_VARIABLE)
        return cls((Path(folder) if folder else out.parent) / f".{stage}-{identity}.checkpoint", identity)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the checkpoint in one step."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        metadata = {"identity": self.identity, "state": json.dumps(state)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)
        temporary.replace(self.path)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state; None if there are none, or with a warning if they are damaged or of other work."""
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("identity") == self.identity:
                    return load_file(self.path), json.loads(metadata["state"])
                reason = "it is of other work"
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            reason = str(error)
        print(f"{self.path}: not taken, the training starts again ({reason})", file=sys.stderr)
        return None

    def remove(self) -> None:
        """Delete the checkpoint."""
        self.path.unlink(missing_ok=True)
