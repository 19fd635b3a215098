"""Linear maps whose weights lie as oneDNN wants them, so that they are not rearranged at every call.

For a single query, whose beams are few rows, that is up to half of a product's time. These are the operators that
PyTorch's own compiler turns frozen linear maps into on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What `linear` computes, with its weight as it is now; it cannot be trained or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


def pack(module: nn.Module) -> None:
    """Replace all linear maps inside a module whose type this CPU has packed products of."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if _can_pack(child.weight):
                setattr(module, name, PackedLinear(child))
        else:
            pack(child)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
