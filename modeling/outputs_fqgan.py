# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `FQGANModel.encode` and `FQGANModel.forward` return."""

from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput

from .quantizer_fqgan import FQGANLosses
from .quantizer_regularized import LinearTokenLosses


@dataclass
class FQGANEncoderOutput(BaseOutput):
    """
    Output of `FQGANModel.encode`.

    Args:
        latents (`torch.Tensor` of shape `(batch, num_codebooks * codebook_dim, height, width)`):
            Quantized latents: the chosen unit code rows, codebook after codebook. The gradient passes straight through
            to the encoder.
        codes (`torch.LongTensor` of shape `(batch, num_codebooks, height, width)`):
            Indices in [0, codebook_size).
        losses (`FQGANLosses` or `LinearTokenLosses`, *optional*): Unweighted loss terms, when asked for.
        feature_predictions (`tuple`, *optional*):
            With `losses`: for each codebook `(batch, 1 + height * width, feature_dim)`, token 0 being the prediction
            of the teacher's feature, or None where the codebook has no feature head.
        sampling_distance (`torch.Tensor` of shape `(batch, height, width)`, *optional*): See `QuantizerOutput`.
    """

    latents: torch.Tensor
    codes: torch.LongTensor
    losses: FQGANLosses | LinearTokenLosses | None = None
    feature_predictions: tuple[torch.Tensor | None, ...] | None = None
    sampling_distance: torch.Tensor | None = None


@dataclass
class FQGANOutput(BaseOutput):
    """
    Output of `FQGANModel.forward`.

    Args:
        sample (`torch.Tensor` of shape `(batch, out_channels, height, width)`): The reconstruction, about [-1, 1].
        commit_loss (`torch.Tensor` of shape `()`, *optional*):
            Sum over the codebooks of the codebook loss and 0.25 times the commitment loss, as `VQModel` gives it. None
            unless `return_losses=True`, and where the quantizer has no such terms.
        codes (`torch.LongTensor` of shape `(batch, num_codebooks, height / f, width / f)`).
        losses, feature_predictions, sampling_distance: see `FQGANEncoderOutput`.
    """

    sample: torch.Tensor
    commit_loss: torch.Tensor | None = None
    codes: torch.LongTensor | None = None
    losses: FQGANLosses | LinearTokenLosses | None = None
    feature_predictions: tuple[torch.Tensor | None, ...] | None = None
    sampling_distance: torch.Tensor | None = None
