"""Linear maps whose weights lie as oneDNN wants them, so that they are not rearranged at every call, and that take a
GELU after them along.

For a single query, whose beams are few rows, rearranging is up to half of a product's time, and calling is much of the
rest. These are the operators that PyTorch's own compiler turns frozen linear maps into on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """x W^T + b, then GELU if asked for, with weights as they are now; it cannot be trained or saved."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> None:
        super().__init__()
        self.gelu = gelu
        self._packed = can_pack(weight)
        weight = weight.detach()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight
        self._bias = None if bias is None else bias.detach()

    @classmethod
    def of(cls, linear: nn.Linear, *, gelu: bool = False) -> PackedLinear:
        """What `linear` computes."""
        return cls(linear.weight, linear.bias, gelu=gelu)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), a tensor of its own."""
        if not self._packed:
            out = F.linear(x, self._weight, self._bias)
            return F.gelu(out) if self.gelu else out
        after, how = ("gelu", "none") if self.gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, after, [], how)


def can_pack(weight: Tensor) -> bool:
    """Whether this CPU has packed products of a weight's type."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
