# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Networks that judge images: any vision network of transformers, as feature extractor and as classifier."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from fqgan_hf.pretrained import load_pretrained


class FeatureNetwork:
    """
    A pretrained network that turns pictures into one feature vector each and, if it is a classifier, predicts classes.

    Pictures pass through the network's own image processor. The feature is the base model's pooled output, or where
    there is none the mean of its last hidden state over positions.

    Args:
        name (`str` or `Path`): Hub id or local folder of a transformers vision model.
        device (`str` or `torch.device`): Where it runs.

    Attributes:
        label_names (`list[str]` or `None`): Its classes; None if it is no classifier.

    Raises:
        ValueError: It cannot be loaded; the message names it.
    """

    def __init__(self, name: str | Path, device: str | torch.device = "cpu"):
        config = load_pretrained(AutoConfig, name, "feature_extractor")
        is_classifier = any("ForImageClassification" in kind for kind in config.architectures or ())
        self.processor = load_pretrained(AutoImageProcessor, name, "feature_extractor")
        model_class = AutoModelForImageClassification if is_classifier else AutoModel
        network = load_pretrained(model_class, name, "feature_extractor", dtype=torch.float32)
        self.model = network.eval().to(device)
        self.label_names = [config.id2label[i] for i in range(len(config.id2label))] if is_classifier else None
        self._base_output = None
        # The base model runs within the classifier: one forward pass gives features and logits.
        self.model.base_model.register_forward_hook(
            lambda module, inputs, output: setattr(self, "_base_output", output)
        )

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures -> features `(B, D)` and predicted class ids `(B,)`, None if it is no classifier."""
        inputs = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        output = self.model(pixel_values=inputs.to(self.model.device))
        pooled = getattr(self._base_output, "pooler_output", None)
        if pooled is None:
            hidden = self._base_output.last_hidden_state
            pooled = hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
        predictions = None if self.label_names is None else output.logits.argmax(-1).cpu()
        self._base_output = None
        return pooled.flatten(1).cpu(), predictions
