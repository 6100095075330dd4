# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FQGAN, an image tokenizer with K factorized codebooks (arXiv 2411.16681), built from diffusers' VQModel parts.

    pixels -> encoder trunk -> K x [adapter -> norm, SiLU, conv -> 1x1 conv] -> quantizer
    quantizer -> 1x1 conv -> decoder -> pixels
    quantizer -> K x feature head -> a teacher's space (training only)

Shapes: B batch, K codebooks, d code dimension, f downsampling factor, h w grid (h = H/f), T = h * w positions,
D width of the trunk's output, C latent channels. Codebooks come visual first, then semantic (mid, high).
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, DecoderOutput, Encoder
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .blocks_fqgan import CodebookBranch, FeatureHead, adopt_inference_forwards
from .checkpoint_checks import require_complete, require_fitting_files
from .checkpoint_files import weight_files
from .configuration_checks import check_names
from .configuration_fqgan import SETTINGS, check_config
from .label_maps_fqgan import check_label_map, one_hot_labels, require_num_labels
from .outputs_fqgan import FQGANEncoderOutput, FQGANOutput
from .quantizer_fqgan import maps_to_rows, rows_to_maps
from .quantizer_regularized import build_quantizer


# Pixels of the images that one slice holds under `enable_slicing`: four of 256 x 256, one from 512 x 512 on.
SLICE_PIXELS = 512 * 512


class FQGANModel(VQModel):
    r"""
    Image tokenizer with K factorized codebooks: Dual (2), Triple (3), any K >= 1; K = 1 is the VQGAN baseline.

    Parameters:
        in_channels, out_channels (`int`, *optional*, defaults to 3): Channels of the image.
        block_out_channels (`tuple[int, ...]`, *optional*, defaults to `(128, 128, 256, 256, 512)`):
            Width of each resolution level. The downsampling factor is f = 2^(levels - 1).
        layers_per_block (`int`, *optional*, defaults to 2): Residual blocks per level (one more in the decoder).
        act_fn (`str`, *optional*, defaults to `"silu"`): Activation of the residual blocks.
        latent_channels (`int`, *optional*, defaults to 256): Channels between the trunk and the codes, on both sides.
        norm_num_groups (`int`, *optional*, defaults to 32): Groups of the group normalisation.
        sample_size (`int`, *optional*, defaults to 256):
            Image size in pixels that sizes the learned positions. Other sizes divisible by f work too: positions are
            interpolated.
        num_codebooks (`int`, *optional*, defaults to 2): K.
        codebook_size (`int`, *optional*, defaults to 16384): Codes in each codebook.
        codebook_dim (`int`, *optional*, defaults to 8): Length of a code.
        adapter_num_layers (`int`, *optional*):
            Transformer blocks of each codebook's adapter. Defaults to 6, or to 0 (no adapter) for one codebook.
        adapter_num_heads (`int`, *optional*, defaults to 8): Attention heads of the adapters.
        feature_dims (`list[int | None]`, *optional*):
            For each codebook the width of its feature head, which must be the teacher's, or None for no head.
        feature_num_layers (`int`, *optional*, defaults to 3): Transformer blocks of each feature head.
        feature_num_heads (`int`, *optional*, defaults to 8): Attention heads of the feature heads.
        entropy_temperature (`float`, *optional*, defaults to 0.01): Softmax temperature in the entropy loss.
        quantizer_type (`str`, *optional*, defaults to `"nearest"`):
            `"nearest"`: the code of the largest cosine. `"regularized"` (Reg-VQ): the encoder gives a distribution
            over the codes, of which training samples at a part of the positions. `"gumbel"`: at all of them. The codes
            of an encoded image are the likeliest ones, whichever it is.
        token_logits (`str`, *optional*, defaults to `"linear"`):
            Of the last two: logits by a 1x1 convolution, `"linear"`, or scaled similarity to the codes, `"cosine"`.
        mask_ratio (`float`, *optional*, defaults to 0.4): Share of positions that `"regularized"` samples, in [0, 1].
        mask_shared (`bool`, *optional*, defaults to `True`): Whether the codebooks sample at the same positions.
        num_labels (`int`, *optional*):
            N of a tokenizer of label maps, whose `in_channels` and `out_channels` it is: one-hot labels go in, their
            logits come out. See `encode_labels` and `decode_labels`.

    The plain `VQModel.from_pretrained` also "loads" such a checkpoint, but with a random codebook of its own: load
    with this class.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["BasicTransformerBlock", "ResnetBlock2D", "InPlaceResnetBlock2D"]
    _skip_layerwise_casting_patterns = ["quantizer", "norm", "position_embedding"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (128, 128, 256, 256, 512),
        layers_per_block: int = 2,
        act_fn: str = "silu",
        latent_channels: int = 256,
        norm_num_groups: int = 32,
        sample_size: int = 256,
        num_codebooks: int = 2,
        codebook_size: int = 16384,
        codebook_dim: int = 8,
        adapter_num_layers: int | None = None,
        adapter_num_heads: int = 8,
        feature_dims: tuple[int | None, ...] | None = None,
        feature_num_layers: int = 3,
        feature_num_heads: int = 8,
        entropy_temperature: float = 0.01,
        quantizer_type: str = "nearest",
        token_logits: str = "linear",
        mask_ratio: float = 0.4,
        mask_shared: bool = True,
        num_labels: int | None = None,
    ):
        # Not VQModel.__init__: it would register its own arguments over ours and build another quantizer.
        super(VQModel, self).__init__()
        check_config(self.config)
        if num_labels is not None:
            in_channels = out_channels = num_labels
            self.register_to_config(in_channels=num_labels, out_channels=num_labels)
        if adapter_num_layers is None:
            adapter_num_layers = 0 if num_codebooks == 1 else 6
            self.register_to_config(adapter_num_layers=adapter_num_layers)
        levels = len(block_out_channels)
        dim = block_out_channels[-1]
        grid = sample_size // 2 ** (levels - 1)

        self.encoder = Encoder(
            in_channels=in_channels,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * (levels - 1) + ("AttnDownEncoderBlock2D",),
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            act_fn=act_fn,
            double_z=False,
        )
        # The trunk ends after the mid block: each codebook has its own output layers, in its branch.
        self.encoder.conv_norm_out = self.encoder.conv_act = self.encoder.conv_out = nn.Identity()
        has_linear_logits = quantizer_type != "nearest" and token_logits == "linear"
        latent_dim = None if has_linear_logits else codebook_dim
        self.branches = nn.ModuleList(
            CodebookBranch(
                dim, latent_channels, latent_dim, adapter_num_layers, adapter_num_heads, grid, norm_num_groups
            )
            for _ in range(num_codebooks)
        )
        self.quantizer = build_quantizer(self.config)
        self.feature_heads = nn.ModuleList(
            FeatureHead(codebook_dim, width, feature_num_layers, feature_num_heads, grid) if width else nn.Identity()
            for width in feature_dims or ()
        )
        self.post_quant_conv = nn.Conv2d(num_codebooks * codebook_dim, latent_channels, 1)
        self.decoder = Decoder(
            in_channels=latent_channels,
            out_channels=out_channels,
            up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * (levels - 1),
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            act_fn=act_fn,
        )
        adopt_inference_forwards(self)
        self.use_slicing = False

    @property
    def downsample_factor(self) -> int:
        """f: pixels along each side of one code."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Code grid (h, w) of an image of `height` x `width` pixels.

        Raises:
            ValueError: If a side is not a positive multiple of the downsampling factor.
        """
        factor = self.downsample_factor
        if height < factor or width < factor or height % factor or width % factor:
            raise ValueError(
                f"pixel_values must have height and width divisible by the downsampling factor {factor}, "
                f"got {height}x{width}"
            )
        return height // factor, width // factor

    def fingerprint(self) -> str:
        """Identity of the codebooks (hex digits); see `FactorizedQuantizer.fingerprint`."""
        return self.quantizer.fingerprint()

    def encode_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Continuous latents before quantization: `(B, 3, H, W)` -> `(B, K, d, h, w)`, not normalised; C for d where
        logits are linear."""
        trunk = self.encoder(pixel_values)
        return torch.stack([branch(trunk) for branch in self.branches], dim=1)

    @apply_forward_hook
    def encode(
        self,
        pixel_values: torch.Tensor,
        return_losses: bool = False,
        return_dict: bool = True,
        *,
        generator: list[torch.Generator] | None = None,
    ) -> FQGANEncoderOutput | tuple:
        """
        Tokenize images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, in_channels, height, width)`): RGB in [-1, 1].
            return_losses (`bool`): Also compute the loss terms and the feature heads' predictions.
            return_dict (`bool`): Return an `FQGANEncoderOutput` rather than a tuple.
            generator (`list[torch.Generator]`, *optional*):
                One for each image: draw its codes as training draws them, rather than take the likeliest ones (ours).

        Raises:
            ValueError: If the shape or dtype does not fit, a side is not divisible by the downsampling factor, the
                latents are not finite (unless `return_losses`), or codes are to be drawn by a quantizer that has no
                distribution, or with losses, or from another number of generators.
        """
        self._check_pixels(pixel_values)
        if generator is not None:
            output = self._encode_by_chance(pixel_values, return_losses, generator)
        elif self.use_slicing and not return_losses:
            images = _images_per_slice(*pixel_values.shape[-2:])
            slices = [self._encode(part, False) for part in pixel_values.split(images)]
            output = FQGANEncoderOutput(
                latents=torch.cat([s.latents for s in slices]), codes=torch.cat([s.codes for s in slices])
            )
        else:
            output = self._encode(pixel_values, return_losses)
        return output if return_dict else output.to_tuple()

    def _encode(self, pixel_values: torch.Tensor, return_losses: bool) -> FQGANEncoderOutput:
        features = self.encode_features(pixel_values)
        # NaN is nearest to some code, too. Training has its own way with steps that are not finite.
        if not return_losses and not torch.compiler.is_compiling() and not features.isfinite().all():
            raise ValueError(
                f"the latents of these images are not finite: pixel_values hold NaN or infinity, or weights overflow "
                f"in {self.dtype}"
            )
        quantized = self.quantizer(features, return_losses)
        predictions = None
        if return_losses and self.config.feature_dims:
            # Fed so that the representation loss also moves the codes, not only the encoder.
            predictions = tuple(
                head(quantized.codebook_latents[:, k]) if isinstance(head, FeatureHead) else None
                for k, head in enumerate(self.feature_heads)
            )
        return FQGANEncoderOutput(
            latents=quantized.latents.flatten(1, 2),
            codes=quantized.codes,
            losses=quantized.losses,
            feature_predictions=predictions,
            sampling_distance=quantized.sampling_distance,
        )

    @torch.no_grad()
    def _encode_by_chance(
        self, pixel_values: torch.Tensor, return_losses: bool, generators: list[torch.Generator]
    ) -> FQGANEncoderOutput:
        if self.config.quantizer_type == "nearest":
            raise ValueError("generator must be None: a quantizer of type 'nearest' has no distribution to draw from")
        if return_losses or not isinstance(generators, (list, tuple)) or len(generators) != len(pixel_values):
            raise ValueError(f"generator must be a list of {len(pixel_values)}, one an image, without return_losses")
        codes = self.quantizer.sample(self.encode_features(pixel_values), generators)
        return FQGANEncoderOutput(latents=self.codes_to_latents(codes), codes=codes)

    @apply_forward_hook
    def decode(
        self, h: torch.Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape: None = None
    ) -> DecoderOutput | tuple:
        """
        Decode latents to pixels, in the style of `VQModel.decode`.

        Args:
            h (`torch.Tensor` of shape `(batch, num_codebooks * codebook_dim, height, width)`): Latents.
            force_not_quantize (`bool`):
                Take `h` as it is. Otherwise each position is first moved to its nearest codes: this leaves the values
                of latents that come from `encode`, but the gradient then goes to the codes and no longer to `h`.
            return_dict (`bool`): Return a `DecoderOutput` rather than a tuple.
            shape: Unused; kept for `VQModel`'s signature.

        Returns:
            `DecoderOutput` with `sample` of shape `(batch, out_channels, height * f, width * f)`, about [-1, 1].
        """
        channels = self.config.num_codebooks * self.config.codebook_dim
        if h.ndim != 4 or h.shape[1] != channels:
            raise ValueError(
                f"h must have shape (batch, {channels}, height, width): {self.config.num_codebooks} codebooks of "
                f"{self.config.codebook_dim} dimensions, got {tuple(h.shape)}"
            )
        if not force_not_quantize:
            rows = maps_to_rows(h.unflatten(1, (self.config.num_codebooks, self.config.codebook_dim)))
            h = self._lookup(self.quantizer.nearest(rows), h).to(h.dtype)
        if self.use_slicing:
            height, width = (side * self.downsample_factor for side in h.shape[-2:])
            parts = h.split(_images_per_slice(height, width))
            sample = torch.cat([self.decoder(self.post_quant_conv(part)) for part in parts])
        else:
            sample = self.decoder(self.post_quant_conv(h))
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def decode_codes(
        self, codes: torch.Tensor, codebooks: list[int] | None = None, return_dict: bool = True
    ) -> DecoderOutput | tuple:
        """
        Decode codes to pixels, from all codebooks or from some of them only (Figure 3 of the paper).

        The latents of a codebook that is left out are filled with the mean of its code rows: the decoder begins with
        a linear map, so it then receives the average over everything that the missing codes could have been, instead
        of a zero that no code stands for.

        Args:
            codes (`torch.LongTensor` of shape `(batch, num_codebooks, height, width)`): Indices in [0, codebook_size).
            codebooks (`list[int]`, *optional*): The codebooks to use; all of them by default.
            return_dict (`bool`): Return a `DecoderOutput` rather than a tuple.

        Raises:
            ValueError: If shape, dtype or range of `codes` do not fit this tokenizer, or `codebooks` names none of it.
        """
        latents = self.codes_to_latents(codes)
        if codebooks is not None:
            num_codebooks = self.config.num_codebooks
            if not codebooks or any(k not in range(num_codebooks) for k in codebooks):
                raise ValueError(f"codebooks must be a list of indices in [0, {num_codebooks - 1}], got {codebooks}")
            means = self.quantizer.normalized_codebooks().mean(1).to(latents.dtype)
            maps = latents.unflatten(1, (num_codebooks, -1))
            missing = [k for k in range(num_codebooks) if k not in codebooks]
            maps[:, missing] = means[missing, :, None, None]
            latents = maps.flatten(1, 2)
        return self.decode(latents, force_not_quantize=True, return_dict=return_dict)

    def encode_labels(self, label_map: torch.Tensor) -> FQGANEncoderOutput:
        """
        Tokenize label maps `(batch, height, width)`, integers in [0, num_labels): see `encode`.

        Raises:
            ValueError: This is no tokenizer of label maps, or they are of another shape, type or range.
        """
        num_labels = require_num_labels(self.config.num_labels)
        check_label_map(label_map, num_labels)
        return self.encode(one_hot_labels(label_map.long(), num_labels, self.dtype))

    def decode_labels(self, codes: torch.Tensor, codebooks: list[int] | None = None) -> torch.Tensor:
        """
        Decode codes to label maps `(batch, height * f, width * f)`, int64: each pixel's likeliest label.

        Args:
            codes, codebooks: See `decode_codes`.
        """
        require_num_labels(self.config.num_labels)
        return self.decode_codes(codes, codebooks).sample.argmax(1)

    @apply_forward_hook
    def codes_to_latents(self, codes: torch.Tensor) -> torch.Tensor:
        """Code rows of `codes` `(B, K, h, w)` as latents `(B, K * d, h, w)` in the model's dtype."""
        size, num_codebooks = self.config.codebook_size, self.config.num_codebooks
        if codes.ndim != 4 or codes.shape[1] != num_codebooks or codes.is_floating_point():
            raise ValueError(
                f"codes must be integers of shape (batch, {num_codebooks}, height, width), "
                f"got {codes.dtype} of shape {tuple(codes.shape)}"
            )
        codes = codes.to(self.quantizer.embedding.device, torch.long)
        if codes.numel() and (codes.min() < 0 or codes.max() >= size):
            raise ValueError(f"codes must be in [0, {size - 1}], got {codes.min().item()} to {codes.max().item()}")
        return self._lookup(codes.transpose(0, 1).flatten(1), codes).to(self.post_quant_conv.weight.dtype)

    def _lookup(self, codes: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Code rows of `codes` `(K, B * h * w)` as latents `(B, K * d, h, w)`, with B, h and w those of `like`."""
        batch, _, height, width = like.shape
        return rows_to_maps(self.quantizer.lookup(codes), batch, height, width).flatten(1, 2)

    def forward(
        self, sample: torch.Tensor, return_losses: bool = False, return_dict: bool = True
    ) -> FQGANOutput | tuple:
        """
        Reconstruct images through the codes.

        Args:
            sample (`torch.Tensor` of shape `(batch, in_channels, height, width)`): RGB in [-1, 1].
            return_losses (`bool`): Also return loss terms and feature predictions (training).
            return_dict (`bool`): Return an `FQGANOutput` rather than a tuple of its set fields.
        """
        encoded = self.encode(sample, return_losses=return_losses)
        reconstruction = self.decode(encoded.latents, force_not_quantize=True).sample
        losses = encoded.losses
        output = FQGANOutput(
            sample=reconstruction,
            commit_loss=(losses.codebook + 0.25 * losses.commitment).sum() if hasattr(losses, "commitment") else None,
            codes=encoded.codes,
            losses=losses,
            feature_predictions=encoded.feature_predictions,
            sampling_distance=encoded.sampling_distance,
        )
        return output if return_dict else output.to_tuple()

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        # Written by the Hub export for remote code; the library would warn of an unexpected argument.
        config_dict = {key: value for key, value in config_dict.items() if key != "auto_map"}
        # The library also only warns of a name that does not exist, and leaves what was meant at its default.
        check_names(config_dict, (*SETTINGS, "block_out_channels", "feature_dims", "act_fn"), cls.__name__)
        return super().extract_init_dict(config_dict, **kwargs)

    def _check_pixels(self, pixel_values: torch.Tensor) -> None:
        channels = self.config.in_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values must have shape (batch, {channels}, height, width), got {tuple(pixel_values.shape)}"
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floating point in [-1, 1] (FQGANImageProcessor makes them), "
                f"got {pixel_values.dtype}"
            )
        self.grid_size(*pixel_values.shape[-2:])

    def enable_slicing(self) -> None:
        """Encode and decode a few images at a time (`SLICE_PIXELS` pixels): bounded memory for any batch."""
        self.use_slicing = True

    def enable_tiling(self) -> None:
        """Not supported: raises `NotImplementedError`."""
        raise NotImplementedError(
            "FQGANModel does not tile: attention and adapters see the whole image, so tiles would change the codes. "
            "Use enable_slicing() to bound the memory of large batches."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any):
        """
        Load as diffusers does, from safetensors only; in addition missing, superfluous or non-finite weights raise
        `ValueError`, those of a local folder before anything is allocated.
        """
        with_info = kwargs.pop("output_loading_info", False)
        for name in ("quantizer_type", "token_logits"):
            if name in kwargs:
                raise ValueError(f"{name} is the checkpoint's own and cannot be chosen, got {kwargs[name]!r}")
        kwargs["use_safetensors"] = True  # whatever is asked for (pipelines do): a pickle could run code
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if folder.is_dir():
            with torch.device("meta"):
                model = cls.from_config(cls.load_config(str(folder)))
            files = weight_files(folder, "diffusion_pytorch_model", kwargs.get("variant"))
            require_fitting_files(model, files, folder)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        require_complete(model, info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model


def _images_per_slice(height: int, width: int) -> int:
    return max(1, SLICE_PIXELS // (height * width))
