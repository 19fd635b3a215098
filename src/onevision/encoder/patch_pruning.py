"""Patches leave a vision transformer on its way: after some of its layers only those that are looked at go on.

As in EViT (Liang et al. 2022, arXiv 2202.07800) the class token's attention says which patches matter, and the others
go on as one token, their mean weighted by it. There a fixed number stays; here (ours) as many as hold a share of the
attention, picture by picture: a batch is compacted to its widest picture, and what is not a picture's own is masked.
The merged token is looked at as often as the patches it stands for (proportional attention: Bolya et al. 2023, ToMe,
arXiv 2210.09461), so that merging patches that are alike changes nothing. After the last layer every patch is in its
place again, a merged one with what became of the merged token.

It works with models of `transformers` whose layers read tokens and a mask and nothing else, and leave attention to the
library's interface: ViT, DeiT, DINOv2 with and without registers, CLIP, SigLIP. Not with layers that are told where a
patch was (DINOv3, BEiT), with windows (Swin), or with convolutions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from onevision.attention_mass import KeepRule, merge_dropped

_READS = {"hidden_states", "attention_mask", "kwargs"}
_ATTENTION = "onevision_patches"
"""Name of `_attend` among the attention functions of `transformers`."""


class PatchRule(NamedTuple):
    """`keep`: which patches stay; `depth`: share of the layers that all patches go through, and after which it is
    decided."""

    keep: KeepRule
    depth: float


class PatchLayers:
    """The layers of a vision transformer, which go on with fewer patches within `pruned`. Use `PatchLayers.find`.

    Attributes:
        patches: of a picture; front: class and register tokens before them, which always stay.
    """

    def __init__(self, net: Any, layers: nn.ModuleList, tokens: int, patches: int) -> None:
        from transformers import AttentionInterface

        self.patches, self.front = patches, tokens - patches
        self._layers = list(layers)
        self._width = int(net.config.hidden_size)
        self._linear = sum(m.weight.numel() for m in layers[0].modules() if isinstance(m, nn.Linear))
        self._embedding = patches * sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
        AttentionInterface.register(_ATTENTION, _attend)
        net.set_attn_implementation(_ATTENTION)
        for layer in layers:
            layer.register_forward_hook(_after_layer)

    @classmethod
    def find(cls, net: Any, tokens: int, patches: int) -> PatchLayers | None:
        """The layers of a `transformers` model; None of one that this does not work with.

        Args:
            tokens, patches: of a picture, after the last layer.
        """
        stacks = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) > 1 and all(map(_reads, m))]
        if len(stacks) != 1 or net.config._attn_implementation != "sdpa":
            return None
        return cls(net, stacks[0], tokens, patches)

    @contextmanager
    def pruned(self, rule: PatchRule) -> Iterator[PatchPass]:
        """Within, pictures that go through the layers lose patches by this rule."""
        first = self._first(rule.depth)
        under_way = PatchPass(rule.keep, self.front, self._layers[first - 1], self._layers[-1])
        token = _under_way.set(under_way)
        try:
            yield under_way
        finally:
            _under_way.reset(token)

    def flops(self, kept: float, depth: float = 1.0) -> float:
        """FLOPs (2 a multiply-add) of patch embedding and layers for one look at a picture that keeps so many patches
        after this share of the layers; a merged token joins them if any was dropped."""

        def layer(tokens: float) -> float:
            return tokens * self._linear + 2 * tokens * tokens * self._width

        first = self._first(depth)
        whole = first * layer(self.front + self.patches)
        short = (len(self._layers) - first) * layer(self.front + kept + (kept < self.patches))
        return 2.0 * (self._embedding + whole + short)

    def _first(self, depth: float) -> int:
        """Layers that all patches go through: one at least, and all but one at most."""
        return min(max(1, round(depth * len(self._layers))), len(self._layers) - 1)


class PatchPass:
    """What a rule does to the batches that go through.

    Attributes:
        kept: of every batch, how many patches of each look at a picture went on by themselves, (N,).
        mask: (N, 1, 1, T) log of how many patches each token stands for, while there are fewer tokens; else None.
    """

    def __init__(self, keep: KeepRule, front: int, decides: nn.Module, last: nn.Module) -> None:
        self.keep, self.front = keep, front
        self.decides, self.last = decides, last
        self.watched = set(decides.modules())
        self.kept: list[Tensor] = []
        self.mask: Tensor | None = None

    def watch(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Note how much the class token looks at each patch, or where there is none all tokens do; mean over heads.

        Args:
            query, key: (N, heads, T, d).
        """
        asking = query[:, :, :1] if self.front else query
        weights = (asking @ key.transpose(2, 3) * scaling).softmax(-1)
        self._mass = weights.mean((1, 2))[:, self.front :]

    def compact(self, hidden: Tensor) -> Tensor:
        """Tokens (N, T, d) -> front, kept patches and the merged one."""
        keep = self.keep(self._mass)
        patches, own = merge_dropped(hidden[:, self.front :], self._mass, keep)
        self._place = torch.where(keep, keep.cumsum(1) - 1, patches.shape[1] - 1)
        self.kept.append(keep.sum(1))
        stands_for = torch.cat([own.new_ones(len(own), self.front), own], 1).to(hidden.dtype)
        stands_for[:, -1] = (~keep).sum(1)
        self.mask = stands_for.log()[:, None, None]
        return torch.cat([hidden[:, : self.front], patches], 1)

    def restore(self, hidden: Tensor) -> Tensor:
        """What `compact` made shorter -> (N, T, d), every patch in its place."""
        self.mask = None
        patches = hidden[:, self.front :]
        place = self._place[..., None].expand(-1, -1, hidden.shape[2])
        return torch.cat([hidden[:, : self.front], patches.gather(1, place)], 1)


_under_way: ContextVar[PatchPass | None] = ContextVar("patch_pass", default=None)


def _after_layer(layer: nn.Module, args: Any, hidden: Tensor) -> Tensor | None:  # noqa: ARG001
    """Hook behind every layer: None, which changes nothing, but where a pass under way begins and ends."""
    under_way = _under_way.get()
    if under_way is None or layer not in (under_way.decides, under_way.last):
        return None
    return under_way.compact(hidden) if layer is under_way.decides else under_way.restore(hidden)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as `transformers` has it, with the mask of the pass that is under way."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    under_way = _under_way.get()
    if under_way is not None:
        if module in under_way.watched:
            under_way.watch(query, key, options["scaling"])
        if under_way.mask is not None:
            attention_mask = under_way.mask
    return cast(tuple[Tensor, None], sdpa_attention_forward(module, query, key, value, attention_mask, **options))


def _reads(layer: nn.Module) -> bool:
    """Whether a layer reads tokens and a mask, and nothing that belongs to a place."""
    return set(inspect.signature(layer.forward).parameters) == _READS
