"""Linear maps and convolutions whose weights lie as oneDNN wants them, so that they are not rearranged at every call,
and that take what comes after them along.

For a single query, whose beams are few rows, rearranging is up to half of a product's time, and calling is much of the
rest. These are the operators that PyTorch's own compiler turns frozen maps into on a CPU.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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


class PackedConv(nn.Module):
    """A convolution, the batch normalisation after it folded in, and an activation, with weights as they are now; it
    cannot be trained or saved.

    Weights are packed for pictures of the size that comes first. Other sizes are right too, and may be slow.
    """

    _AFTER: ClassVar[dict[type[nn.Module], tuple[str, list[float], str]]] = {
        nn.Identity: ("none", [], ""),
        nn.GELU: ("gelu", [], "none"),
        nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    }

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = fuse_conv_bn_eval(conv.eval(), norm.eval()).requires_grad_(False)
        self.activation = activation or nn.Identity()
        self._after = self._AFTER[type(self.activation)]
        self._how = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self._packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        weight, bias = self.conv.weight, self.conv.bias
        if not can_pack(weight):
            out: Tensor = self.activation(self.conv(x))
            return out
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._how, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(x, self._packed, bias, *self._how, *self._after)


def can_pack(weight: Tensor) -> bool:
    """Whether this CPU has packed products of a weight's type."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
