# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""K cosine codebooks side by side: nearest-code lookup in fp32, straight-through gradients and the losses of FQGAN.

Shapes: B batch, K codebooks, N codes in a codebook, d code dimension, P positions (P = B * H * W), H W grid.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import nn


# Upper bound of the (positions x codes) similarity block that a lookup holds at one time, in fp32 elements: 16 MiB.
# On a CPU 4 MiB, which its caches keep between the product and the search.
LOOKUP_CHUNK_ELEMENTS = 4 * 1024 * 1024
LOOKUP_CHUNK_ELEMENTS_CPU = 1024 * 1024
# Codes that share one maximum in the search for the largest cosine.
ARGMAX_BLOCK = 128


# (latents (K, P, d), unit codebooks (K, N, d)) -> indices (K, P).
CodeSearch = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class FQGANLosses:
    """The quantizer's loss terms, *unweighted*: the weights belong to the training run, not to the model.

    Whoever weights or logs them walks the fields by name, so that a quantizer with other terms has other fields.

    Args:
        codebook (`torch.Tensor` of shape `(num_codebooks,)`):
            Mean of (code - sg[z])^2 over the normalised vectors; pulls the codes to the encoder.
        commitment (`torch.Tensor` of shape `(num_codebooks,)`):
            Mean of (sg[code] - z)^2; pulls the encoder to the codes. Published weight 0.25.
        entropy (`torch.Tensor` of shape `(num_codebooks,)`):
            Mean entropy of a sample's soft assignment minus the entropy of the mean assignment, in nats: low when
            assignments are sharp and all codes are used. Published weight 0.03.
        disentanglement (`torch.Tensor` of shape `()`):
            Mean squared cosine between the codes that two codebooks give to one position, averaged over the pairs of
            codebooks; 0 for one codebook. Published weight 0.1.

    Source: arXiv 2411.16681, section 3.2 (disentanglement: equation 3).
    """

    codebook: torch.Tensor
    commitment: torch.Tensor
    entropy: torch.Tensor
    disentanglement: torch.Tensor


@dataclass
class QuantizerOutput:
    """
    Output of a quantizer's `forward`.

    Args:
        latents (`torch.Tensor` of shape `(batch, num_codebooks, codebook_dim, height, width)`):
            The chosen code rows, in the input's dtype. Gradients pass straight through to the input.
        codebook_latents (`torch.Tensor`): The same values, with gradients to the input *and* to the codebooks, for
            losses on the codes themselves.
        codes (`torch.LongTensor` of shape `(batch, num_codebooks, height, width)`): In [0, codebook_size).
        losses (`FQGANLosses`, *optional*): When asked for.
        sampling_distance (`torch.Tensor` of shape `(batch, height, width)`, *optional*):
            While training, of a quantizer that samples: squared distance from the sampled to the likeliest codes,
            summed over the codebooks; 0 where they are the same.
    """

    latents: torch.Tensor
    codebook_latents: torch.Tensor
    codes: torch.Tensor
    losses: FQGANLosses | None = None
    sampling_distance: torch.Tensor | None = None


class FactorizedQuantizer(nn.Module):
    """`num_codebooks` independent codebooks, each read by cosine similarity.

    The lookup runs in fp32 whatever the module's dtype: in bf16 about 6 % of the codes would flip.

    What the tokenizer asks of any quantizer: `forward` for training and encoding, `nearest` and `lookup` for decoding,
    `normalized_codebooks`, `fingerprint`; what the training asks: `latent_dim`. One whose codes are those of a largest
    product keeps the search for them in `code_search`; faster implementations take its place there
    (`kernels.cpu_kernels`), whatever the class.

    Args:
        num_codebooks (`int`): K.
        codebook_size (`int`): N, the number of codes in each codebook.
        codebook_dim (`int`): d, the length of a code.
        entropy_temperature (`float`): Temperature of the soft assignment in the entropy term.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, codebook_dim: int, entropy_temperature: float = 0.01):
        super().__init__()
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.entropy_temperature = entropy_temperature
        self.code_search: CodeSearch = nearest_by_cosine
        self.embedding = nn.Parameter(torch.empty(num_codebooks, codebook_size, codebook_dim))
        self.reset_parameters()

    @property
    def latent_dim(self) -> int:
        """Channels that the encoder gives for each codebook; those of a code where its output is to become one."""
        return self.codebook_dim

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in (-1/N, 1/N), then projected to the unit sphere."""
        nn.init.uniform_(self.embedding, -1.0 / self.codebook_size, 1.0 / self.codebook_size)
        self.embedding.copy_(F.normalize(self.embedding, dim=-1))

    def normalized_codebooks(self) -> torch.Tensor:
        """The codebooks as the lookup sees them: fp32 unit rows, `(num_codebooks, codebook_size, codebook_dim)`."""
        return F.normalize(self.embedding.float(), dim=-1)

    @torch.no_grad()
    def nearest(self, latents: torch.Tensor, codebooks: torch.Tensor | None = None) -> torch.Tensor:
        """
        Index of the nearest code by Euclidean distance on the unit sphere, i.e. of the largest cosine.

        Args:
            latents (`torch.Tensor` of shape `(num_codebooks, positions, codebook_dim)`): Only directions count.
            codebooks (`torch.Tensor`, *optional*): `normalized_codebooks()`, when the caller already has it.

        Returns:
            `torch.LongTensor` of shape `(num_codebooks, positions)`.
        """
        return self.code_search(latents, self.normalized_codebooks() if codebooks is None else codebooks)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Unit code rows `(num_codebooks, positions, codebook_dim)` in fp32 of codes `(num_codebooks, positions)`."""
        # Gather first, normalise after: the same rows as `normalized_codebooks()[k, codes[k]]`, at less cost.
        rows = torch.stack([F.embedding(codes[k], self.embedding[k]) for k in range(self.num_codebooks)])
        return F.normalize(rows.float(), dim=-1)

    def forward(self, latents: torch.Tensor, return_losses: bool = False) -> QuantizerOutput:
        """
        Quantize.

        Args:
            latents (`torch.Tensor` of shape `(batch, num_codebooks, codebook_dim, height, width)`).
            return_losses (`bool`): Also compute the loss terms.
        """
        batch, _, _, height, width = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            z = F.normalize(maps_to_rows(latents.float()), dim=-1)
            codebooks = self.normalized_codebooks()
            codes = self.nearest(z, codebooks)
            rows = self.lookup(codes)
            # Both have the values of `rows`. The gradient of the first skips the lookup; that of the second reaches
            # the codes as well, since z - sg[z] adds nothing but a way back to the encoder.
            straight_through = z + (rows - z).detach()
            to_both = rows + (z - z.detach())
            losses = self._losses(z, rows, to_both, codebooks) if return_losses else None
        return QuantizerOutput(
            latents=rows_to_maps(straight_through, batch, height, width).to(latents.dtype),
            codebook_latents=rows_to_maps(to_both, batch, height, width).to(latents.dtype),
            codes=codes_to_maps(codes, batch, height, width),
            losses=losses,
        )

    def _losses(
        self, z: torch.Tensor, rows: torch.Tensor, to_both: torch.Tensor, codebooks: torch.Tensor
    ) -> FQGANLosses:
        """`z`: unit vectors; `rows`, `to_both`: what they became; each `(K, P, d)`. `codebooks`: `(K, N, d)`."""
        return FQGANLosses(
            codebook=(rows - z.detach()).square().mean(dim=(1, 2)),
            commitment=(rows.detach() - z).square().mean(dim=(1, 2)),
            entropy=torch.stack([self._entropy(z[k], codebooks[k]) for k in range(self.num_codebooks)]),
            disentanglement=disentanglement(to_both),
        )

    def _entropy(self, z: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
        """Of one codebook: `z` `(P, d)`, `codebook` `(N, d)`."""
        # On unit vectors the squared distance is 2 - 2 cos; softmax forgets the constant.
        log_probs = F.log_softmax(2.0 * (z @ codebook.T) / self.entropy_temperature, dim=-1)
        probs = log_probs.exp()
        sample_entropy = -(probs * log_probs).sum(-1).mean()
        mean_probs = probs.mean(0)
        # The published loss guards the logarithm by 1e-5, which is not small beside 1/N: part of the value.
        mean_entropy = -(mean_probs * (mean_probs + 1e-5).log()).sum()
        return sample_entropy - mean_entropy

    def fingerprint(self) -> str:
        """SHA-256 over the codebooks' shape and sign bits, as hex digits.

        Two tokenizers share it only when they share their codebooks. Sign bits survive every cast (fp16, bf16 and
        back), so a half-precision copy of a tokenizer keeps the fingerprint.
        """
        signs = torch.signbit(self.embedding.detach().cpu()).flatten()
        digest = hashlib.sha256(repr(tuple(self.embedding.shape)).encode())
        digest.update(signs.numpy().tobytes())
        return digest.hexdigest()


def disentanglement(rows: torch.Tensor) -> torch.Tensor:
    """Of the unit code rows `(K, P, d)` of all codebooks: see `FQGANLosses`."""
    pairs = list(combinations(range(len(rows)), 2))
    overlaps = [(rows[i] * rows[j]).sum(-1).square().mean() for i, j in pairs]
    return torch.stack(overlaps).mean() if pairs else rows.new_zeros(())


def maps_to_rows(maps: torch.Tensor) -> torch.Tensor:
    """One row per position: `(B, K, d, H, W)` -> `(K, B * H * W, d)`."""
    return maps.permute(1, 0, 3, 4, 2).reshape(maps.shape[1], -1, maps.shape[2])


def rows_to_maps(rows: torch.Tensor, batch: int, height: int, width: int) -> torch.Tensor:
    """The inverse of `maps_to_rows`: `(K, B * H * W, d)` -> `(B, K, d, H, W)`."""
    return rows.reshape(rows.shape[0], batch, height, width, -1).permute(1, 0, 4, 2, 3)


def codes_to_maps(codes: torch.Tensor, batch: int, height: int, width: int) -> torch.Tensor:
    """One grid per image and codebook: `(K, B * H * W)` -> `(B, K, H, W)`."""
    return codes.view(-1, batch, height, width).transpose(0, 1).contiguous()


def nearest_by_cosine(latents: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """
    Index of the code of the largest cosine, the first of equal ones; see `CodeSearch`.

    Not all P x N cosines are held at one time, but those of so many rows as `LOOKUP_CHUNK_ELEMENTS` allows.
    """
    size = codebooks.shape[1]
    on_cpu = latents.device.type == "cpu"
    chunk = max(1, (LOOKUP_CHUNK_ELEMENTS_CPU if on_cpu else LOOKUP_CHUNK_ELEMENTS) // size)
    codes = torch.empty(latents.shape[:2], dtype=torch.long, device=latents.device)
    similarity = codebooks.new_empty(min(chunk, latents.shape[1]), size)
    with torch.autocast(latents.device.type, enabled=False):
        for k, codebook in enumerate(codebooks):
            columns = codebook.T.contiguous()
            for start in range(0, latents.shape[1], chunk):
                # The length of z changes no ranking, so it is not normalised here.
                rows = latents[k, start : start + chunk].float()
                found = torch.mm(rows, columns, out=similarity[: len(rows)])
                codes[k, start : start + chunk] = argmax_of_rows(found)
    return codes


def argmax_of_rows(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix.argmax(-1)`, the first of equal values. torch's own reads a CPU's memory one element at a time."""
    if matrix.device.type != "cpu" or matrix.shape[1] % ARGMAX_BLOCK:
        return matrix.argmax(-1)
    # First the block that holds the maximum, then its place there: `amax` runs over contiguous entries at full speed.
    blocks = matrix.unflatten(1, (-1, ARGMAX_BLOCK))
    block = blocks.amax(-1).argmax(-1)
    within = blocks[torch.arange(len(block)), block].argmax(-1)
    return block * ARGMAX_BLOCK + within
