# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""One pass of images through a tokenizer, and what it leaves: sums, counts, and the few pictures that are shown.

    survey = Survey(model)
    for indices, pixel_values, labels in image_batches(ShuffledImages(images, 1000), resolution=256, num_images=1000):
        survey.update(indices, pixel_values, labels)

Memory does not grow with the number of images beyond `MAX_KEPT_POSITIONS` codes of each codebook.

Shapes: B batch, K codebooks, V codebook size, C latent channels, h w grid, H W pixels, P positions, M patches a code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.features import ImageNetwork
from fqgan_hf.evaluation.image_sets import ReadableSet
from fqgan_hf.evaluation.images import LabelledImages
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer, codes_to_maps, maps_to_rows


# Codes of each codebook that stay in memory for probes, overlap and t-SNE, those of the first images: 8 MB.
MAX_KEPT_POSITIONS = 2**21


class ShuffledImages(ReadableSet):
    """
    Some of the images, drawn without replacement: folders are often sorted by class, and their first images no sample.

    Args:
        images (`LabelledImages`): All of them.
        num_images (`int`): Of the view; all of them if there are fewer.
        seed (`int`): Of the choice and its order.
    """

    def __init__(self, images: LabelledImages, num_images: int, seed: int = 0):
        self.images = images
        self.order = np.random.default_rng(seed).permutation(len(images))[:num_images].tolist()
        self.label_names, self.source, self.fingerprint = images.label_names, images.source, images.fingerprint

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[self.order[index]]

    def read(self, indices: Sequence[int], position: int) -> tuple[Image.Image, int]:
        return self.images.read(self.order, indices[position])


@dataclass(frozen=True)
class ShownImage:
    """
    An image of which pictures are shown.

    Args:
        original (`PIL.Image.Image`): As the tokenizer sees it.
        reconstructions (`list[PIL.Image.Image]`): In the order of `Survey.selections`.
        codes (`np.ndarray` of shape `(K, h, w)`): Its codes.
    """

    original: Image.Image
    reconstructions: list[Image.Image]
    codes: np.ndarray


class NearestPatches:
    """
    For each code the grid positions whose latents are nearest to it, at most one per image: the best of all images.

    Args:
        num_codebooks (`int`): K.
        codebook_size (`int`): V.
        num_patches (`int`): M.

    Attributes:
        closeness (`np.ndarray` float32 of shape `(K, V, M)`): Falling along the last axis; -inf where there is none.
        places (`np.ndarray` int64 of shape `(K, V, M)`): Image number times h * w plus position; -1 where there is
            none.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, num_patches: int):
        shape = (num_codebooks, codebook_size, num_patches)
        self.closeness = np.full(shape, -np.inf, dtype=np.float32)
        self.places = np.full(shape, -1, dtype=np.int64)

    def update(self, indices: Sequence[int], codes: torch.Tensor, closeness: torch.Tensor) -> None:
        """
        Take a batch into account.

        Args:
            indices (`Sequence[int]`): Numbers of the images, each only once over all batches.
            codes (`torch.Tensor` of shape `(B, K, h, w)`): Of these images.
            closeness (`torch.Tensor` of that shape): Of each latent to its code; larger is nearer.
        """
        codes, closeness = (tensor.flatten(2).transpose(0, 1).cpu().numpy() for tensor in (codes, closeness))
        num_positions = codes.shape[2]
        places = np.asarray(indices)[:, None] * num_positions + np.arange(num_positions)
        for k in range(len(codes)):
            self._merge(k, codes[k].ravel(), closeness[k].ravel(), places.ravel(), num_positions)

    def _merge(self, k: int, codes: np.ndarray, closeness: np.ndarray, places: np.ndarray, num_positions: int) -> None:
        """Positions `(P,)` of a batch against those of codebook k so far."""
        images = places // num_positions
        order = np.lexsort((places, -closeness, images, codes))
        codes, images, closeness, places = (array[order] for array in (codes, images, closeness, places))
        is_best = np.append(True, (codes[1:] != codes[:-1]) | (images[1:] != images[:-1]))  # of its code and image
        found, num_patches = np.unique(codes), self.places.shape[2]
        codes = np.concatenate([np.repeat(found, num_patches), codes[is_best]])
        closeness = np.concatenate([self.closeness[k, found].ravel(), closeness[is_best]])
        places = np.concatenate([self.places[k, found].ravel(), places[is_best]])
        order = np.lexsort((places, -closeness, codes))
        codes, closeness, places = codes[order], closeness[order], places[order]
        rank = np.arange(len(codes)) - np.searchsorted(codes, codes)  # among those of the same code
        is_kept = rank < num_patches
        where = codes[is_kept], rank[is_kept]
        self.closeness[k][where], self.places[k][where] = closeness[is_kept], places[is_kept]


class Survey:
    """
    What batches of images say about a tokenizer.

    Args:
        model ([`FQGANModel`]): The tokenizer, on its device.
        network ([`ImageNetwork`], *optional*): A classifier of the images' classes, to judge originals and
            reconstructions.
        num_shown (`int`): Images of which pictures are kept, the first ones.
        num_patches (`int`): Patches kept of each code.

    Attributes:
        selections (`list`): The codebooks of each kind of reconstruction: None for all and, where there are several,
            `[k]` for each alone.
        usage ([`CodebookUsage`]): Of all images.
        nearest ([`NearestPatches`]): Of all images.
        shown (`list[ShownImage]`): The first images.
        num_images (`int`): So far.
    """

    def __init__(
        self, model: FQGANModel, network: ImageNetwork | None = None, num_shown: int = 6, num_patches: int = 8
    ):
        config = model.config
        self.model, self.network, self.num_shown = model.eval(), network, num_shown
        self.selections = [None] + ([[k] for k in range(config.num_codebooks)] if config.num_codebooks > 1 else [])
        self.usage = CodebookUsage(config.num_codebooks, config.codebook_size)
        self.nearest = NearestPatches(config.num_codebooks, config.codebook_size, num_patches)
        self.shown: list[ShownImage] = []
        self.num_images = self.num_labelled = 0
        self._processor = FQGANImageProcessor()
        self._psnr = np.zeros(len(self.selections))  # sums over the images
        self._hits = np.zeros(1 + len(self.selections), dtype=np.int64)  # of originals, then of each selection
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._num_kept = 0

    @torch.no_grad()
    def update(self, indices: Sequence[int], pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        """
        Take a batch into account.

        Args:
            indices (`Sequence[int]`): Numbers of the images.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): In [-1, 1].
            labels (`torch.Tensor` of shape `(B,)`): Class ids, -1 for none.
        """
        latents = self.model.encode_features(pixel_values.to(self.model.device, self.model.dtype))
        codes = self.model.quantizer(latents).codes
        self.usage.update(codes)
        self.nearest.update(indices, codes, closeness_to_code(self.model.quantizer, latents, codes))
        samples = [self.model.decode_codes(codes, codebooks=chosen).sample.float().cpu() for chosen in self.selections]
        self._psnr += [psnr(pixel_values, sample).sum().item() for sample in samples]
        pictures = [self._processor.postprocess(pixels) for pixels in (pixel_values, *samples)]
        if self.network is not None:
            self._judge(pictures, labels)
        codes = codes.int().cpu()
        for image, *reconstructions in list(zip(*pictures, strict=True))[: self.num_shown - len(self.shown)]:
            self.shown.append(ShownImage(image, reconstructions, codes[len(self.shown) - self.num_images].numpy()))
        self.num_images += len(codes)
        self._keep(codes, labels)

    def _judge(self, pictures: list[list[Image.Image]], labels: torch.Tensor) -> None:
        self.num_labelled += int((labels >= 0).sum())
        # An image without a label is -1, which no prediction equals.
        self._hits += [int((self.network(images).predictions == labels).sum()) for images in pictures]

    def _keep(self, codes: torch.Tensor, labels: torch.Tensor) -> None:
        room = max(0, MAX_KEPT_POSITIONS // codes[0, 0].numel() - self._num_kept)
        if room:
            self._kept.append((codes[:room], labels[:room]))
            self._num_kept += len(codes[:room])

    @property
    def grid(self) -> tuple[int, int]:
        """h and w."""
        return tuple(self._kept[0][0].shape[2:])

    @property
    def codes(self) -> torch.Tensor:
        """Those of the first images, int32 `(N, K, h, w)`."""
        return torch.cat([codes for codes, _ in self._kept])

    @property
    def labels(self) -> torch.Tensor:
        """Of the images of `codes`, int64 `(N,)`."""
        return torch.cat([labels for _, labels in self._kept])

    @property
    def psnr(self) -> list[float]:
        """Mean over all images, in dB, for each of `selections`."""
        return (self._psnr / self.num_images).tolist()

    @property
    def accuracy(self) -> list[float] | None:
        """The network's on the originals, then on the reconstructions of each of `selections`; None without one."""
        return (self._hits / self.num_labelled).tolist() if self.num_labelled else None


def closeness_to_code(quantizer: FactorizedQuantizer, latents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """
    How near each latent lies to the code it became: their cosine; of a quantizer with token logits, the code's logit.

    Args:
        quantizer ([`FactorizedQuantizer`]): Any.
        latents (`torch.Tensor` of shape `(B, K, C, h, w)`): Before quantization.
        codes (`torch.Tensor` of shape `(B, K, h, w)`): What they became.

    Returns:
        `torch.Tensor` float32 of shape `(B, K, h, w)`: Larger is nearer; comparable within a codebook.
    """
    rows, chosen = maps_to_rows(latents.float()), codes.transpose(0, 1).flatten(1)
    if hasattr(quantizer, "token_logits"):
        rows, weights = quantizer.token_logits(rows)
        tokens = torch.stack([weights[k, chosen[k]] for k in range(len(chosen))])
    else:
        rows, tokens = F.normalize(rows, dim=-1), quantizer.lookup(chosen)
    return codes_to_maps((rows * tokens).sum(-1), len(codes), *codes.shape[2:])
