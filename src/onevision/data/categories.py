"""The category tree of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from onevision.errors import ContractError


@dataclass(frozen=True)
class CategoryTree:
    """Nodes by id; `parent` is None for a department."""

    name: dict[str, str]
    parent: dict[str, str | None]

    @classmethod
    def from_table(cls, categories: pa.Table) -> CategoryTree:
        """Read the `categories` table; `ContractError` on a loop or a parent that does not exist."""
        ids = categories["category_id"].to_pylist()
        tree = cls(
            dict(zip(ids, categories["name"].to_pylist(), strict=True)),
            dict(zip(ids, categories["parent_id"].to_pylist(), strict=True)),
        )
        for node in ids:
            tree.path(node)
        return tree

    def path(self, node: str) -> list[str]:
        """Nodes from the department down to `node`."""
        path = [node]
        while (above := self.parent[path[-1]]) is not None:
            if above not in self.parent:
                raise ContractError(f"categories: {path[-1]!r} has parent_id {above!r}, which is no category")
            if above in path:
                raise ContractError(f"categories: {node!r} is its own ancestor (through {above!r})")
            path.append(above)
        return path[::-1]

    def department(self, node: str) -> str:
        """The department that holds `node`."""
        return self.path(node)[0]

    def leaves(self) -> list[str]:
        """Nodes without children, sorted."""
        return sorted(set(self.parent) - {p for p in self.parent.values() if p is not None})

    def numbers(self) -> dict[str, int]:
        """A number for every node, in sorted order of the ids."""
        return {node: n for n, node in enumerate(sorted(self.parent))}
