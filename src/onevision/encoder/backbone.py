"""Any vision model of `transformers` as a tower: ViT, DINO, the vision half of CLIP or SigLIP, ConvNeXt, ResNet.

Weights are read from safetensors alone and no code from a hub is run. The model's configuration and its preprocessing
are saved with the encoder, so that a saved encoder needs neither hub nor folder.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onevision.encoder.patch_pruning import PatchLayers
from onevision.encoder.towers import Tower, TowerOutput, grid_tokens
from onevision.errors import RecipeError


class TransformersTower(Tower):
    """A `transformers` model; its last patch tokens or feature map are the tokens.

    Pooled vector: the model's own pooled output; where it has none, or no weights for it, the class token, else the
    mean of the patch tokens.

    Attributes:
        patch_layers: its layers, where patches can leave them on the way; else None.

    Args:
        net: model that takes `pixel_values` and gives `last_hidden_state`, (N, T, C) or (N, C, h, w).
        preprocessing: `size` in pixels a side, `scale`, `mean` and `std` of the three channels.
        pooler: whether `pooler_output` of the model may be used.
        frozen: keep the model as it is, in evaluation mode.
        image_size: pixels a side; by default the preprocessing's.

    Raises:
        RecipeError: the model does not take pictures of that size, or gives something else.
    """

    net: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, net: Any, preprocessing: dict[str, Any], *, pooler: bool, frozen: bool, image_size: int | None
    ) -> None:
        super().__init__()
        if not pooler and hasattr(net, "pooler"):
            net.pooler = None
        self.net = net
        self.preprocessing = preprocessing
        self.pooler = pooler
        self.frozen = frozen
        self.image_size = image_size or int(preprocessing["size"])
        for name in ("mean", "std"):
            value = torch.tensor(preprocessing[name], dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        resizes = "interpolate_pos_encoding" in inspect.signature(net.forward).parameters
        other_size = self.image_size != getattr(net.config, "image_size", self.image_size)
        self._options = {"interpolate_pos_encoding": True} if resizes and other_size else {}
        if frozen:
            self.requires_grad_(False)
        self.token_dim, self.pooled_dim, tokens = self._probe()
        self.patch_layers = PatchLayers.find(net, tokens, self._side(tokens) ** 2)

    def train(self, mode: bool = True) -> TransformersTower:
        """As usual, but a frozen model stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def see(self, view: Tensor) -> TowerOutput:
        """One look at uint8 pixels (N, S, S, 3)."""
        return self._read(self._run(view))

    def _run(self, pixels: Tensor) -> Any:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32).mul_(self.preprocessing["scale"])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.net(pixel_values=(x - self.mean) / self.std, **self._options)

    def _read(self, output: Any) -> TowerOutput:
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            features, own = hidden, hidden.mean((2, 3))
        else:
            side = self._side(hidden.shape[1])
            patches = hidden[:, hidden.shape[1] - side * side :]
            own = hidden[:, 0] if side * side < hidden.shape[1] else hidden.mean(1)
            features = patches.transpose(1, 2).unflatten(2, (side, side))
        pooled = getattr(output, "pooler_output", None) if self.pooler else None
        return TowerOutput(grid_tokens(features), own if pooled is None else pooled.flatten(1))

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside the weights, as JSON."""
        config = json.loads(self.net.config.to_json_string(use_diff=False))
        return {"config": config, "preprocessing": self.preprocessing, "pooler": self.pooler}

    @classmethod
    def restore(cls, description: dict[str, Any], *, frozen: bool, image_size: int | None) -> TransformersTower:
        """Build the model that `describe` told of, with random weights, without a hub."""
        from transformers import AutoConfig, AutoModel

        values = dict(description["config"])
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        return cls(
            AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False),
            description["preprocessing"],
            pooler=description["pooler"],
            frozen=frozen,
            image_size=image_size,
        )

    @classmethod
    def load(cls, name: str, *, frozen: bool, image_size: int | None) -> TransformersTower:
        """Load model and preprocessing from a hub or a folder.

        Raises:
            RecipeError: there is no such model, a part of it is missing, or it does not look at pictures.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
            raise RecipeError(f"encoder.backbone: {name}: no such folder")
        source = str(Path(name).expanduser()) if name.startswith("~") else name
        try:
            with _quiet():
                config = AutoConfig.from_pretrained(source, trust_remote_code=False)
                config = getattr(config, "vision_config", config)  # of CLIP and its kin only the vision half
                processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
                net, info = AutoModel.from_pretrained(
                    source,
                    config=config,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(
                f"encoder.backbone: {name!r} cannot be loaded: it must be a hub name, or a folder with config.json, "
                f"preprocessor_config.json and model.safetensors ({reason})"
            ) from None
        missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
        if missing:
            raise RecipeError(
                f"encoder.backbone: {name!r} has no weights for {len(missing)} parameters of its "
                f"{config.model_type} model, such as {missing[0]!r}"
            )
        pooler = not any("pooler" in key for key in info["missing_keys"])
        return cls(net, _preprocessing(name, processor), pooler=pooler, frozen=frozen, image_size=image_size)

    def _side(self, tokens: int) -> int:
        """Patches a side: class and register tokens stand before the patches, and there are fewer than those."""
        patch = getattr(self.net.config, "patch_size", None)
        side = self.image_size // patch if isinstance(patch, int) else tokens
        return side if side * side <= tokens else math.isqrt(tokens)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int, int]:
        """Dimensions of tokens and pooled vector, and how many tokens leave the layers, from a black picture."""
        was_training = self.training
        self.eval()
        try:
            output = self._run(torch.zeros(1, self.image_size, self.image_size, 3, dtype=torch.uint8))
            seen = self._read(output)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise RecipeError(
                f"encoder.backbone: the {self.net.config.model_type} model does not run on pictures of "
                f"{self.image_size} pixels ({' '.join(str(error).split())})"
            ) from None
        self.train(was_training)
        return seen.tokens.shape[2], seen.pooled.shape[1], output.last_hidden_state.shape[1]


def _preprocessing(name: str, processor: Any) -> dict[str, Any]:
    size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = size or processor.size
    side = size.get("height") or size.get("shortest_edge")
    if not side:
        raise RecipeError(f"encoder.backbone: the preprocessing of {name!r} names no size of a picture")
    normalize = processor.do_normalize
    return {
        "size": int(side),
        "scale": processor.rescale_factor if processor.do_rescale else 1.0,
        "mean": list(processor.image_mean) if normalize else [0.0, 0.0, 0.0],
        "std": list(processor.image_std) if normalize else [1.0, 1.0, 1.0],
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of a text half that is left out, or of torchvision: what matters is checked and raised."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
