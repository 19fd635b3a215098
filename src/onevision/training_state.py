"""What the next step of a training depends on, for its checkpoint: weights, optimiser, schedule, random numbers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the rest as JSON."""


def training_state(
    weights: dict[str, Tensor], optimizer: Optimizer, schedule: LRScheduler, device: torch.device
) -> State:
    """The state after a step; `weights` are those that training changes."""
    moments = optimizer.state_dict()
    tensors = {f"weights/{name}": value for name, value in weights.items()}
    for number, values in moments["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    return tensors, {"groups": moments["param_groups"], "schedule": schedule.state_dict()}


def restore_training(state: State, optimizer: Optimizer, schedule: LRScheduler, device: torch.device) -> None:
    """Go on from a state; the weights are for the caller to load (`saved_weights`)."""
    tensors, rest = state
    moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "optimizer":
            number, _, moment = name.partition("/")
            moments[int(number)][moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": rest["groups"]})
    schedule.load_state_dict(rest["schedule"])
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], device)


def saved_weights(state: State, kind: str = "weights") -> dict[str, Tensor]:
    """The tensors of a state whose names begin with `kind/`, without it."""
    return {name[len(kind) + 1 :]: value for name, value in state[0].items() if name.startswith(f"{kind}/")}
