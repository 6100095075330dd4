# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Networks that judge images: any vision network of transformers, and the Inception network of published figures.

    network = load_network("inception")           # FID, sFID, Inception score: the protocol of ADM
    network = load_network("path/to/classifier")  # Frechet distances of its features; comparable with its own only

Both give what `Features` holds, and say in `description` what somebody else needs to get the same numbers.

Shapes: B batch, D features, S spatial features, C classes, H W pixels.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from fqgan_hf.failures import first_line
from fqgan_hf.files import sha256
from fqgan_hf.pretrained import load_pretrained


INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True)
class Features:
    """
    What a network says of a batch of images; all on the CPU.

    Args:
        pooled (`torch.Tensor` of shape `(B, D)`): One vector per image.
        probabilities (`torch.Tensor` of shape `(B, C)`, *optional*): Of its classes. None if it is no classifier.
        spatial (`torch.Tensor` of shape `(B, S)`, *optional*): Of an early layer, with its positions.
    """

    pooled: torch.Tensor
    probabilities: torch.Tensor | None = None
    spatial: torch.Tensor | None = None

    @property
    def predictions(self) -> torch.Tensor | None:
        """Ids of the likeliest classes `(B,)`."""
        return None if self.probabilities is None else self.probabilities.argmax(-1)


class ImageNetwork(Protocol):
    """
    Something that judges images.

    Attributes:
        label_names (`list[str]` or `None`): Names of its classes, where it has names for them.
        device (`torch.device`): Where it computes.
        description (`dict`): What its figures depend on; equal for networks that give the same ones.
    """

    label_names: list[str] | None
    device: torch.device
    description: dict[str, Any]

    def __call__(self, images: Sequence[Image.Image]) -> Features: ...


def load_network(
    name: str | Path, device: str | torch.device = "cpu", weights: str | Path | None = None
) -> ImageNetwork:
    """
    The network of a name.

    Args:
        name (`str` or `Path`): `"inception"`, or a Hub id or local folder of a transformers vision model.
        device (`str` or `torch.device`): Where it runs.
        weights (`str` or `Path`, *optional*): File of Inception's weights, where they are not in torch's cache.

    Returns:
        [`InceptionNetwork`] or [`FeatureNetwork`].

    Raises:
        ValueError: It cannot be loaded, or weights are given to another network than Inception.
        FileNotFoundError: Inception's weights cannot be had; the message says where to put them.
    """
    if str(name) == "inception":
        return InceptionNetwork(weights, device)
    if weights is not None:
        raise ValueError(f"weights are for the network 'inception' only, got {str(weights)!r} for {str(name)!r}")
    return FeatureNetwork(name, device)


class FeatureNetwork:
    """
    A pretrained network of transformers. Pictures pass through its own image processor. The feature is the base
    model's pooled output, or where there is none the mean of its last hidden state over positions.

    Args:
        name (`str` or `Path`): Hub id or local folder of a transformers vision model.
        device (`str` or `torch.device`): Where it runs.
        option (`str`): What errors call it.

    Attributes:
        label_names (`list[str]` or `None`): Its classes; None if it is no classifier.

    Raises:
        ValueError: It cannot be loaded; the message names it.
    """

    def __init__(self, name: str | Path, device: str | torch.device = "cpu", option: str = "features"):
        config = load_pretrained(AutoConfig, name, option)
        is_classifier = any("ForImageClassification" in kind for kind in config.architectures or ())
        self.processor = load_pretrained(AutoImageProcessor, name, option)
        model_class = AutoModelForImageClassification if is_classifier else AutoModel
        network = load_pretrained(model_class, name, option, dtype=torch.float32)
        self.name = Path(name).name if Path(name).is_dir() else str(name)
        self.model = network.eval().to(device)
        self.label_names = [config.id2label[i] for i in range(len(config.id2label))] if is_classifier else None
        self._base_output = None
        # The base model runs within the classifier: one forward pass gives features and logits.
        self.model.base_model.register_forward_hook(
            lambda module, inputs, output: setattr(self, "_base_output", output)
        )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def description(self) -> dict[str, Any]:
        """What its figures depend on."""
        resize = {
            name: value
            for name, value in self.processor.to_dict().items()
            if name.startswith(("do_", "size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor"))
        }
        return {
            "name": self.name,
            "class": type(self.model).__name__,
            "layer": "pooled output",
            "weights_sha256": weights_sha256(self.model),
            "preprocessing": resize,
        }

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Features:
        """Features and, of a classifier, probabilities of pictures."""
        inputs = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        output = self.model(pixel_values=inputs.to(self.model.device))
        pooled = getattr(self._base_output, "pooler_output", None)
        if pooled is None:
            hidden = self._base_output.last_hidden_state
            pooled = hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
        probabilities = None if self.label_names is None else output.logits.softmax(-1).cpu()
        self._base_output = None
        return Features(pooled.flatten(1).cpu(), probabilities)


class InceptionNetwork:
    """
    The Inception network of published FIDs, as torch-fidelity has ported it, with the features of ADM's protocol.

    Pooled features are `pool_3` (2,048); probabilities those of the logits without their bias, over 1,008 classes that
    have no names here; spatial features the first seven channels of `mixed_6/conv`, 17 x 17 positions (2,023).

    Args:
        weights (`str` or `Path`, *optional*): Their file; by default the one in torch's cache, or it is downloaded.
        device (`str` or `torch.device`): Where it runs.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: The weights cannot be had.
        ValueError: The file is another one.

    Source: Szegedy et al. 2015 (arXiv 1512.00567); Dhariwal & Nichol 2021 (arXiv 2105.05233) for the protocol.
    """

    label_names = None

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "cpu"):
        path = _inception_weights(weights)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError("the network 'inception' needs torch-fidelity: pip install 'fqgan-hf[eval]'") from error
        with _tensors_only():
            self.model = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
            ).to(device)
        self.device = torch.device(device)
        self._spatial = None
        # mixed_6 of the original graph, whose first branch, the convolution of that name, leads the block's output.
        self.model.Mixed_6d.register_forward_hook(
            lambda module, inputs, output: setattr(self, "_spatial", output[:, :7])
        )

    @property
    def description(self) -> dict[str, Any]:
        """What its figures depend on."""
        return {
            "name": "inception-v3-compat",
            "class": f"torch-fidelity {version('torch-fidelity')}",
            "layer": "pool_3 (2048); spatial: mixed_6/conv, 7 channels (2023)",
            "weights_sha256": INCEPTION_SHA256,
            "preprocessing": {"resize": "299, bilinear as in TensorFlow 1, without corners aligned"},
        }

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Features:
        """Features of RGB pictures of one size."""
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        pooled, logits = self.model(pixels.to(self.device))
        # Positions before channels, as in the original's files of statistics.
        spatial, self._spatial = self._spatial.permute(0, 2, 3, 1).flatten(1).cpu(), None
        return Features(pooled.cpu(), logits.softmax(-1).cpu(), spatial)


def weights_sha256(model: torch.nn.Module) -> str:
    """Hex digest of the parameters and buffers of a model, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _inception_weights(path: str | Path | None) -> Path:
    """The file of Inception's weights: the one given, or that of torch's cache, where it is downloaded to."""
    given, path = path, Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE) if path is None else Path(path)
    if not path.is_file():
        if given is not None:
            raise FileNotFoundError(f"inception_weights: there is no file {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
        except Exception as error:  # of the network, of whatever kind
            raise FileNotFoundError(
                f"Inception's weights cannot be downloaded ({first_line(error)}): put {INCEPTION_URL} to {path}, or "
                "name its place by --inception_weights"
            ) from error
    if (found := sha256(path)) != INCEPTION_SHA256:
        raise ValueError(
            f"inception_weights {path} is not {INCEPTION_FILE}: its SHA-256 is {found}, not {INCEPTION_SHA256}"
        )
    return path


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Let `torch.load` read tensors only, whatever its caller asks for: torch-fidelity asks for pickles."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
