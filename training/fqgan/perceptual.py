# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Perceptual networks: LPIPS, VGG-19, or any local or Hub vision model, by its feature maps.

A network gives the maps of some of its layers, as unit vectors at every position, and a distance between two sets of
them. Networks here are frozen and always in evaluation mode: LPIPS has dropout, which training must not switch on.
"""

import contextlib
import difflib
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from fqgan_hf.frozen_vision import FrozenVisionModel
from fqgan_hf.training.common.arguments import LPIPS_NAME, VGG19_NAME
from fqgan_hf.training.fqgan.contrastive import contrastive_loss, probabilistic_contrastive_loss
from fqgan_hf.training.fqgan.losses import Scalars


if TYPE_CHECKING:
    from fqgan_hf.training.train_fqgan import TrainFQGANArguments

ALTERNATIVES = (
    "Or name a local vision model by --perceptual_model PATH, or do without by --perceptual_weight 0 "
    "(the published recipe has LPIPS at weight 1)."
)
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Convolutions of each block of VGG-19.
VGG19_BLOCKS = (2, 2, 4, 4, 4)
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


class PerceptualNetwork(nn.Module):
    """What `LPIPS`, `VGG19` and `FeatureDistance` share: maps, and the mean squared distance of their vectors."""

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        """Evaluation mode, whatever `mode` is."""
        return super().train(False)

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Images `(B, 3, H, W)` in [-1, 1] -> maps `(B, C, h, w)` of each layer, unit vectors along C."""
        raise NotImplementedError

    def distance(self, targets: Sequence[torch.Tensor], features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Between two sets of `features`: squared distance at a position, mean over positions, images and layers."""
        distances = [
            (feature - target).square().sum(1).mean() for target, feature in zip(targets, features, strict=True)
        ]
        return torch.stack(distances).mean()

    def forward(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """Two batches `(B, 3, H, W)` in [-1, 1] -> mean distance, a scalar with gradient to `reconstructions`."""
        with torch.no_grad():
            targets = self.features(images)
        return self.distance(targets, self.features(reconstructions))


class LPIPS(PerceptualNetwork):
    """
    LPIPS with VGG16 and its learned linear weights, from the package `lpips`.

    Raises:
        ValueError: The package or torchvision is not installed.
        OSError: The weights of VGG16 are neither in torch's hub cache nor can they be downloaded.

    Source: arXiv 1801.03924.
    """

    def __init__(self):
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise ValueError(
                f"perceptual_model 'lpips' needs the packages lpips and torchvision ({error}): "
                f"pip install lpips torchvision. {ALTERNATIVES}"
            ) from error
        try:
            # Its draws, for weights that are loaded over, must not move the tokenizer's own.
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the package calls torchvision by an old signature
                self.network = lpips.LPIPS(net="vgg", verbose=False)
        except OSError as error:  # urllib's errors are among these
            raise OSError(
                "perceptual_model 'lpips' needs the weights of VGG16, and they cannot be downloaded "
                f"({error}): put vgg16-397923af.pth from https://download.pytorch.org/models into "
                f"{torch.hub.get_dir()}/checkpoints. {ALTERNATIVES}"
            ) from error
        self.requires_grad_(False)
        self.train(False)

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        maps = self.network.net(self.network.scaling_layer(pixel_values))
        return [F.normalize(map_.float(), dim=1) for map_ in maps]

    def distance(self, targets: Sequence[torch.Tensor], features: Sequence[torch.Tensor]) -> torch.Tensor:
        """With the learned weight of each channel, summed over the layers."""
        pairs = zip(self.network.lins, targets, features, strict=True)
        return sum(linear((feature - target).square()).float().mean() for linear, target, feature in pairs)


class VGG19(PerceptualNetwork):
    """
    torchvision's VGG-19, trained on ImageNet.

    Args:
        layers (`Sequence[str]`): Names such as `"relu1_2"`: the second convolution of the first block.

    Raises:
        ValueError: torchvision is not installed, or there is no such layer.
        OSError: The weights are neither in torch's hub cache nor can they be downloaded.
    """

    def __init__(self, layers: Sequence[str] = VGG_LAYERS):
        super().__init__()
        names, place = {}, 0
        for block, depth in enumerate(VGG19_BLOCKS, start=1):
            names |= {f"relu{block}_{i + 1}": place + 2 * i + 1 for i in range(depth)}
            place += 2 * depth + 1
        for name in layers:
            if name not in names:
                raise ValueError(f"perceptual_layers: 'vgg19' has {', '.join(names)}, got {name!r}")
        self.places = sorted(names[name] for name in layers)
        try:
            from torchvision.models import vgg19
        except ImportError as error:
            raise ValueError(f"perceptual_model 'vgg19' needs torchvision ({error}). {ALTERNATIVES}") from error
        try:
            weights = torch.hub.load_state_dict_from_url(
                VGG19_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except OSError as error:
            raise OSError(
                f"perceptual_model 'vgg19' needs the weights of VGG-19, and they cannot be downloaded ({error}): put "
                f"{VGG19_URL} into {torch.hub.get_dir()}/checkpoints. {ALTERNATIVES}"
            ) from error
        with torch.device("meta"):
            network = vgg19(weights=None)
        network.load_state_dict(weights, assign=True)
        self.network = network.features[: self.places[-1] + 1]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.train(False)

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        hidden_states, maps = ((pixel_values + 1) / 2 - self.mean) / self.std, []
        for place, layer in enumerate(self.network):
            hidden_states = layer(hidden_states)
            if place in self.places:
                maps.append(F.normalize(hidden_states.float(), dim=1))
        return maps


class _AllSeen(Exception):  # noqa: N818 - ends a forward pass early, and is no error
    """All layers that were asked for have given their output."""


class FeatureDistance(PerceptualNetwork, FrozenVisionModel):
    """
    LPIPS without its learned weights, on the feature maps of a vision model of transformers.

    Networks whose configuration names an `image_size` see images of the size that their image processor produces,
    others see them as they are.

    Args:
        name (`str`): Hub id or local folder.
        layers (`Sequence[str]`, *optional*):
            Names of its modules, whose outputs count; its hidden states without it. What comes after the last of them
            is not computed.

    Raises:
        OSError: It cannot be loaded.
        ValueError: It has no hidden states, no such layer, or a layer that gives no feature map.

    Source: arXiv 1801.03924, equation 1 with w = 1.
    """

    def __init__(self, name: str, layers: Sequence[str] | None = None):
        FrozenVisionModel.__init__(self, name, "perceptual_model")
        if not hasattr(self.model.config, "image_size"):
            self.size = None
        self.layers = None if layers is None else list(dict.fromkeys(layers))
        self._outputs: dict[str, torch.Tensor] = {}
        modules = dict(self.model.named_modules())
        for layer in layers or ():
            if layer not in modules or not layer:
                near = difflib.get_close_matches(layer, modules, n=3, cutoff=0) if layer else []
                raise ValueError(f"perceptual_layers: {name!r} has no layer {layer!r}; it has {', '.join(near)}")
            modules[layer].register_forward_hook(self._keep(layer))
        maps = self.features(torch.zeros(1, 3, *(self.size or (64, 64))))
        if layers and len(maps) < len(self.layers):
            raise ValueError(f"perceptual_layers: not all of {self.layers} have an output in {name!r}")
        if not maps:
            raise ValueError(f"perceptual_model: {name!r} must be a vision model with hidden states")

    def _keep(self, layer: str):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            # Of several outputs, in a tuple or a library's class, the first is the hidden state.
            self._outputs[layer] = output if torch.is_tensor(output) else output[0]
            if len(self._outputs) == len(self.layers):
                raise _AllSeen

        return hook

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        prepared = self.preprocess(pixel_values, self.size, mode="bilinear")
        if self.layers is None:
            found = dict(enumerate(self.model(prepared, output_hidden_states=True).hidden_states or ()))
        else:
            with contextlib.suppress(_AllSeen):
                self.model(prepared)
            found, self._outputs = self._outputs, {}
        return [F.normalize(_as_map(stage, name).float(), dim=1) for name, stage in found.items()]


def _as_map(stage: torch.Tensor, name: str | int) -> torch.Tensor:
    """A feature map as it is; the tokens `(B, T, C)` of a transformer on one line, prefix and all."""
    if stage.ndim == 3:
        return stage.transpose(1, 2)[..., None, :]
    if stage.ndim != 4:
        raise ValueError(f"perceptual_layers: {name!r} must give a feature map, got shape {tuple(stage.shape)}")
    return stage


def load_perceptual(name: str, layers: Sequence[str] | None = None) -> PerceptualNetwork:
    """The network that `--perceptual_model` names: `lpips`, `vgg19`, or a vision model's Hub id or folder."""
    if name == LPIPS_NAME:
        if layers is not None:
            raise ValueError(f"perceptual_layers must not be set for 'lpips', whose layers are fixed, got {layers}")
        return LPIPS()
    return VGG19(layers or VGG_LAYERS) if name == VGG19_NAME else FeatureDistance(name, layers)


def perceptual_losses(
    network: PerceptualNetwork,
    images: torch.Tensor,
    reconstructions: torch.Tensor,
    sampling_distance: torch.Tensor | None,
    args: "TrainFQGANArguments",
) -> tuple[torch.Tensor, Scalars]:
    """
    Weighted sum of the losses on feature maps: one pass over the images, one over their reconstructions.

    Args:
        network (`PerceptualNetwork`): Gives the maps.
        images, reconstructions (`torch.Tensor` of shape `(B, 3, H, W)`): In [-1, 1].
        sampling_distance (`torch.Tensor`, *optional*): Of the tokenizer's output, for the probabilistic loss.
        args (`TrainFQGANArguments`): `perceptual_weight`, `contrastive_weight`, `pcl_weight`, and the options of both.

    Returns:
        `tuple`: the loss, and its terms before weighting: `loss/perceptual`, `loss/contrastive` and `loss/pcl`.
    """
    with torch.no_grad():
        targets = network.features(images)
    features = network.features(reconstructions)
    terms = {}
    if args.perceptual_weight > 0:
        terms["perceptual"] = network.distance(targets, features)
    settings = args.pcl_num_patches, args.pcl_temperature
    grids = [_as_grid(map_) for map_ in targets], [_as_grid(map_) for map_ in features]
    if args.contrastive_weight > 0:
        terms["contrastive"] = contrastive_loss(*grids, *settings)
    if args.pcl_weight > 0:
        terms["pcl"] = probabilistic_contrastive_loss(*grids, sampling_distance, *settings)
    loss = sum(getattr(args, f"{name}_weight") * term for name, term in terms.items())
    return loss, {f"loss/{name}": term.detach() for name, term in terms.items()}


def _as_grid(map_: torch.Tensor) -> torch.Tensor:
    """Tokens on one line without their prefix, on a square grid; a map as it is."""
    if map_.shape[2] > 1:
        return map_
    side = math.isqrt(map_.shape[3])
    return map_[:, :, 0, map_.shape[3] - side * side :].unflatten(2, (side, side))
