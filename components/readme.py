"""The interface tables of the components' README files, made from the components: `python -m components.readme`.

Everything between the two markers of a README is written by this module; a test says that none is out of date.
"""

import importlib
from pathlib import Path
from typing import Any

from kfp.dsl.base_component import BaseComponent

from onevision.stages import ALL_STAGES

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- interface: made by `python -m components.readme` -->", "<!-- end of interface -->"
MEANINGS = {
    "recipe": "packaged recipe; the stage takes its own section",
    "overrides": "`section.key=value` over the recipe",
    "metrics": "the stage's metrics, seconds and peak memory",
    "report": "the stage's page",
    "snapshot_id": "id that the snapshot must carry; empty takes any",
    "shard": "such as `2/3`, the second of three",
    "embed": "`all` pictures, or `train`: those that are trained on; shards embed all of them then",
    "run_date": "ISO date of the run, so that caching skips no night",
    "bundle_store": "folder or `gs://` prefix to publish into; empty only assembles",
    "night": "what `open-champion` named the night; empty outside the nightly refresh",
    "run": "id of the pipeline run",
    "status": "how the tasks before ended, from KFP",
    "variables": "environment variables that must have a value",
    "services": "`host:port` that must accept a connection",
    "scratch": "`gs://` prefix where the machines leave what they made",
    "image": "of every machine",
    "nodes": "machines",
    "processes": "processes of a machine, one a GPU where there are any",
    "resources": "of a machine",
    "gpu": "whether PyTorch must see a GPU",
    "store": "bundle store: a folder or `gs://` prefix",
    "day": "the day's snapshot: a folder or `gs://` prefix",
}

RETURNED = {
    "open-champion": "the night's name; empty where there is nothing to do",
    "prerequisites": "the snapshot's place",
}
"""Component -> what it returns."""
PARTS = {"encoder": "encoder", "quantizer": "quantizer", "semantic_ids": "semantic_ids", "generator": "generator"}
"""Output of `open-champion` -> kind of the part of its bundle."""


def components() -> dict[str, BaseComponent]:
    """Folder -> component, for every folder with a `component.py`."""
    found = {}
    for file in sorted(FOLDER.glob("*/component.py")):
        module = importlib.import_module(f"components.{file.parent.name}.component")
        found[file.parent.name] = next(v for v in vars(module).values() if isinstance(v, BaseComponent))
    return found


def interface(component: BaseComponent) -> str:
    """Markdown tables of a component's inputs and outputs."""
    spec = component.component_spec
    stage = ALL_STAGES.get(component.name)
    kinds = stage.inputs | stage.collected | stage.optional if stage else {}
    lines = ["| input | type | what it is |", "| --- | --- | --- |"]
    for name, given in (spec.inputs or {}).items():
        meaning = MEANINGS.get(name) or f"[{kinds.get(name, name)}](../../docs/artifacts.md) artifact"
        lines.append(f"| `{name}` | {_type(given)} | {meaning} |")
    lines += ["", "| output | type | what it is |", "| --- | --- | --- |"]
    for name, made in (spec.outputs or {}).items():
        known = RETURNED.get(component.name) if name == "Output" else MEANINGS.get(name)
        meaning = known or f"[{_kind(component.name, name)}](../../docs/artifacts.md) artifact"
        lines.append(f"| `{name}` | {_type(made)} | {meaning} |")
    return "\n".join(lines)


def with_interface(text: str, component: BaseComponent) -> str:
    """A README's text with the tables between its markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{interface(component)}\n{END}{after}"


def _kind(component: str, output: str) -> str:
    """Kind of artifact that an output is; the parts of a champion are handed out beside it."""
    stage = ALL_STAGES.get(component)
    return stage.output if stage and stage.output != "bundle" else PARTS.get(output, "bundle")


def _type(spec: Any) -> str:
    return spec.type.removeprefix("system.").removesuffix("@0.0.1")


if __name__ == "__main__":
    for folder, component in components().items():
        readme = FOLDER / folder / "README.md"
        readme.write_text(with_interface(readme.read_text(), component))
        print(readme)
