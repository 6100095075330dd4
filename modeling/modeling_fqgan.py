# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FQGAN, an image tokenizer with K factorized codebooks (arXiv 2411.16681), built from diffusers' VQModel parts.

    pixels -> encoder trunk -> K x [adapter -> norm, SiLU, conv -> 1x1 conv] -> quantizer
    quantizer -> 1x1 conv -> decoder -> pixels
    quantizer -> K x feature head -> a teacher's space (training only)

Shapes: B batch, K codebooks, d code dimension, f downsampling factor, h w grid (h = H/f), T = h * w positions,
D width of the trunk's output, C latent channels. Codebooks come visual first, then semantic (mid, high).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.activations import ACT2CLS
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.autoencoders.vae import Decoder, DecoderOutput, Encoder
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .checkpoint_checks import require_complete, require_fitting_files
from .configuration_checks import Setting, check_names, check_setting
from .quantizer_fqgan import FactorizedQuantizer, FQGANLosses


# Pixels of the images that one slice holds under `enable_slicing`: four of 256 x 256, one from 512 x 512 on.
SLICE_PIXELS = 512 * 512
# What a configuration may ask for; see `configuration_checks`.
WIDTH = Setting(int, 1, 2**16)
MAX_LEVELS = 10
SETTINGS = {
    "in_channels": Setting(int, 1, 1024),
    "out_channels": Setting(int, 1, 1024),
    "layers_per_block": Setting(int, 1, 64),
    "latent_channels": WIDTH,
    "norm_num_groups": WIDTH,
    "sample_size": Setting(int, 1, 2**14),
    "num_codebooks": Setting(int, 1, 64),
    "codebook_size": Setting(int, 1, 2**24),
    "codebook_dim": Setting(int, 1, 4096),
    "adapter_num_layers": Setting(int, 0, 64, optional=True),
    "adapter_num_heads": Setting(int, 1, 1024),
    "feature_num_layers": Setting(int, 1, 64),
    "feature_num_heads": Setting(int, 1, 1024),
    "entropy_temperature": Setting(float, 1e-6, 1e6),
}
# Low-resolution positions in a batch from which the upsampling kernel is worth its making.
MIN_TRANSPOSED_POSITIONS = 1024


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
        losses (`FQGANLosses`, *optional*): Unweighted loss terms, when asked for.
        feature_predictions (`tuple`, *optional*):
            With `losses`: for each codebook `(batch, 1 + height * width, feature_dim)`, token 0 being the prediction
            of the teacher's feature, or None where the codebook has no feature head.
    """

    latents: torch.Tensor
    codes: torch.LongTensor
    losses: FQGANLosses | None = None
    feature_predictions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class FQGANOutput(BaseOutput):
    """
    Output of `FQGANModel.forward`.

    Args:
        sample (`torch.Tensor` of shape `(batch, out_channels, height, width)`): The reconstruction, about [-1, 1].
        commit_loss (`torch.Tensor` of shape `()`, *optional*):
            Sum over the codebooks of the codebook loss and 0.25 times the commitment loss, as `VQModel` gives it. None
            unless `return_losses=True`.
        codes (`torch.LongTensor` of shape `(batch, num_codebooks, height / f, width / f)`).
        losses, feature_predictions: see `FQGANEncoderOutput`.
    """

    sample: torch.Tensor
    commit_loss: torch.Tensor | None = None
    codes: torch.LongTensor | None = None
    losses: FQGANLosses | None = None
    feature_predictions: tuple[torch.Tensor | None, ...] | None = None


class InPlaceResnetBlock2D(ResnetBlock2D):
    """diffusers' residual block; without gradients it keeps no intermediate results and skips a division by one."""

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().forward(input_tensor, temb)
        hidden_states = self.conv1(F.silu(self.norm1(input_tensor), inplace=True))
        hidden_states = self.conv2(F.silu(self.norm2(hidden_states), inplace=True))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return hidden_states.add_(input_tensor)


class TransposedUpsample2D(Upsample2D):
    """diffusers' nearest upsampling and 3x3 convolution; on a CPU without gradients one transposed convolution.

    An output pixel's nine taps fall on four input pixels. Adding up the weights that meet leaves a 4x4 kernel of
    stride 2: 4/9 of the multiplications, no upsampled map, and the same values up to rounding.
    """

    def forward(self, hidden_states: torch.Tensor, output_size=None) -> torch.Tensor:
        weight = self.conv.weight
        batch, _, height, width = hidden_states.shape
        if (
            torch.is_grad_enabled()
            or hidden_states.device.type != "cpu"
            or hidden_states.dtype != weight.dtype  # autocast, layerwise casting: the convolution's own business
            or batch * height * width < MIN_TRANSPOSED_POSITIONS
        ):
            return super().forward(hidden_states, output_size)
        # Kernel axes first, so that the sums run over contiguous channels; in fp32, to round once.
        kernel = weight.permute(2, 3, 1, 0).flip(0, 1).float()
        kernel = F.pad(kernel, (0, 0, 0, 0, 1, 1, 1, 1))
        kernel = kernel[1:] + kernel[:-1]
        kernel = (kernel[:, 1:] + kernel[:, :-1]).permute(2, 3, 0, 1).to(weight.dtype)
        return F.conv_transpose2d(hidden_states, kernel, self.conv.bias, stride=2, padding=1)


def _adopt_inference_forwards(module: nn.Module) -> None:
    """Give the library's blocks in `module` the classes above: same weights, names and training, faster inference."""
    for block in module.modules():
        if type(block) is ResnetBlock2D and isinstance(block.nonlinearity, nn.SiLU):
            block.__class__ = InPlaceResnetBlock2D
        elif type(block) is Upsample2D:
            block.__class__ = TransposedUpsample2D


class TokenTransformer(nn.Module):
    """Learned positions, LayerNorm, pre-LN transformer blocks, LayerNorm, over `(batch, positions, dim)` tokens.

    Positions form a grid, after `num_prefix_tokens` tokens without a place in it, and are interpolated bicubically
    when the grid differs from the trained one.
    """

    def __init__(self, dim: int, num_layers: int, num_heads: int, grid: int, num_prefix_tokens: int = 0):
        super().__init__()
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.position_embedding = nn.Parameter(torch.randn(num_prefix_tokens + grid * grid, dim) * dim**-0.5)
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(dim, num_heads, dim // num_heads, activation_fn="gelu", attention_bias=True)
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.gradient_checkpointing = False

    def positions(self, height: int, width: int) -> torch.Tensor:
        if (height, width) == (self.grid, self.grid):
            return self.position_embedding
        prefix, grid = self.position_embedding.split([self.num_prefix_tokens, self.grid * self.grid])
        grid = grid.T.reshape(1, -1, self.grid, self.grid)
        # In fp32: bicubic interpolation has no bf16 kernel everywhere, and positions are few.
        grid = F.interpolate(grid.float(), (height, width), mode="bicubic", align_corners=False).to(prefix.dtype)
        return torch.cat([prefix, grid.flatten(2)[0].T])

    def forward(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        hidden_states = self.norm_in(tokens + self.positions(height, width))
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return self.norm_out(hidden_states)


class CodebookBranch(nn.Module):
    """From the shared trunk to one codebook's space: adapter (paper: factorized adapter), output convs, projection.

    There is no residual connection around the adapter.
    """

    def __init__(self, dim, latent_channels, codebook_dim, num_layers, num_heads, grid, norm_num_groups):
        super().__init__()
        self.adapter = TokenTransformer(dim, num_layers, num_heads, grid) if num_layers > 0 else None
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, dim, eps=1e-6)
        self.conv_out = nn.Conv2d(dim, latent_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(latent_channels, codebook_dim, 1)

    def forward(self, trunk: torch.Tensor) -> torch.Tensor:
        """`(B, D, h, w)` -> `(B, d, h, w)`."""
        if self.adapter is not None:
            height, width = trunk.shape[-2:]
            tokens = self.adapter(trunk.flatten(2).transpose(1, 2), height, width)
            trunk = tokens.transpose(1, 2).reshape(trunk.shape)
        return self.quant_conv(self.conv_out(F.silu(self.conv_norm_out(trunk))))


class FeatureHead(nn.Module):
    """Predicts a teacher's feature from one codebook's codes: `(B, d, h, w)` -> `(B, 1 + h * w, W)`; token 0 counts.

    Source: arXiv 2411.16681, section 3.2, "representation learning".
    """

    def __init__(self, codebook_dim: int, feature_dim: int, num_layers: int, num_heads: int, grid: int):
        super().__init__()
        self.upscale = nn.Sequential(
            nn.Linear(codebook_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, feature_dim)
        )
        self.class_embedding = nn.Parameter(torch.randn(1, feature_dim) * feature_dim**-0.5)
        self.transformer = TokenTransformer(feature_dim, num_layers, num_heads, grid, num_prefix_tokens=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        height, width = latents.shape[-2:]
        tokens = self.upscale(latents.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.class_embedding.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.transformer(tokens, height, width)


class FQGANModel(VQModel):
    r"""
    Image tokenizer with K factorized codebooks: Dual (2), Triple (3), any K >= 1; K = 1 is the VQGAN baseline.

    Parameters:
        in_channels, out_channels (`int`, *optional*, defaults to 3): Channels of the image.
        block_out_channels (`tuple[int, ...]`, *optional*, defaults to `(128, 128, 256, 256, 512)`):
            Width of each resolution level. The downsampling factor is f = 2^(levels - 1).
        layers_per_block (`int`, *optional*, defaults to 2): Residual blocks a level (one more in the decoder).
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
    ):
        # Not VQModel.__init__: it would register its own arguments over ours and build another quantizer.
        super(VQModel, self).__init__()
        _check_config(self.config)
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
        self.branches = nn.ModuleList(
            CodebookBranch(
                dim, latent_channels, codebook_dim, adapter_num_layers, adapter_num_heads, grid, norm_num_groups
            )
            for _ in range(num_codebooks)
        )
        self.quantizer = FactorizedQuantizer(num_codebooks, codebook_size, codebook_dim, entropy_temperature)
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
        _adopt_inference_forwards(self)
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
        """Continuous latents before quantization: `(B, 3, H, W)` -> `(B, K, d, h, w)`, not normalised."""
        trunk = self.encoder(pixel_values)
        return torch.stack([branch(trunk) for branch in self.branches], dim=1)

    @apply_forward_hook
    def encode(
        self, pixel_values: torch.Tensor, return_losses: bool = False, return_dict: bool = True
    ) -> FQGANEncoderOutput | tuple:
        """
        Tokenize images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, in_channels, height, width)`): RGB in [-1, 1].
            return_losses (`bool`): Also compute the loss terms and the feature heads' predictions.
            return_dict (`bool`): Return an `FQGANEncoderOutput` rather than a tuple.

        Raises:
            ValueError: If the shape or dtype does not fit, a side is not divisible by the downsampling factor, or the
                latents are not finite (unless `return_losses`).
        """
        self._check_pixels(pixel_values)
        if self.use_slicing and not return_losses:
            images = _images_per_slice(*pixel_values.shape[-2:])
            slices = [self._encode(part, False) for part in pixel_values.split(images)]
            output = FQGANEncoderOutput(
                latents=torch.cat([s.latents for s in slices]), codes=torch.cat([s.codes for s in slices])
            )
        else:
            output = self._encode(pixel_values, return_losses)
        return output if return_dict else output.to_tuple()

    def _encode(self, pixel_values, return_losses):
        features = self.encode_features(pixel_values)
        # NaN is nearest to some code, too. Training has its own way with steps that are not finite.
        if not return_losses and not torch.compiler.is_compiling() and not features.isfinite().all():
            raise ValueError(
                f"the latents of these images are not finite: pixel_values hold NaN or infinity, or weights overflow "
                f"in {self.dtype}"
            )
        latents, to_codebooks, codes, losses = self.quantizer(features, return_losses)
        predictions = None
        if return_losses and self.config.feature_dims:
            # Fed so that the representation loss also moves the codes, not only the encoder.
            predictions = tuple(
                head(to_codebooks[:, k]) if isinstance(head, FeatureHead) else None
                for k, head in enumerate(self.feature_heads)
            )
        return FQGANEncoderOutput(
            latents=latents.flatten(1, 2), codes=codes, losses=losses, feature_predictions=predictions
        )

    @apply_forward_hook
    def decode(
        self, h: torch.Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape=None
    ) -> DecoderOutput | tuple:
        """
        Decode latents to pixels, in the style of `VQModel.decode`.

        Args:
            h (`torch.Tensor` of shape `(batch, num_codebooks * codebook_dim, height, width)`): Latents.
            force_not_quantize (`bool`):
                Take `h` as it is. Otherwise each position is first moved to its nearest codes, which leaves latents
                that come from `encode` as they are but cuts their gradient to the codes' choice.
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
            split = h.unflatten(1, (self.config.num_codebooks, self.config.codebook_dim))
            h = self.quantizer(split)[0].flatten(1, 2)
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
        batch, _, height, width = codes.shape
        rows = self.quantizer.lookup(codes.transpose(0, 1).flatten(1))
        maps = rows.reshape(num_codebooks, batch, height, width, -1).permute(1, 0, 4, 2, 3)
        return maps.flatten(1, 2).to(self.post_quant_conv.weight.dtype)

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
            commit_loss=None if losses is None else (losses.codebook + 0.25 * losses.commitment).sum(),
            codes=encoded.codes,
            losses=losses,
            feature_predictions=encoded.feature_predictions,
        )
        return output if return_dict else output.to_tuple()

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        # Written by the Hub export for remote code; the library would warn of an unexpected argument.
        config_dict = {key: value for key, value in config_dict.items() if key != "auto_map"}
        # The library also only warns of a name that does not exist, and leaves what was meant at its default.
        check_names(config_dict, (*SETTINGS, "block_out_channels", "feature_dims", "act_fn"), cls.__name__)
        return super().extract_init_dict(config_dict, **kwargs)

    def _check_pixels(self, pixel_values):
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

    def enable_slicing(self):
        """Encode and decode a few images at a time (`SLICE_PIXELS` pixels): bounded memory for any batch."""
        self.use_slicing = True

    def enable_tiling(self):
        raise NotImplementedError(
            "FQGANModel does not tile: attention and adapters see the whole image, so tiles would change the codes. "
            "Use enable_slicing() to bound the memory of large batches."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """
        Load as diffusers does, from safetensors only; in addition missing, superfluous or non-finite weights raise
        `ValueError`, those of a local folder before anything is allocated.
        """
        with_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True  # whatever is asked for (pipelines do): a pickle could run code
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if folder.is_dir():
            with torch.device("meta"):
                model = cls.from_config(cls.load_config(str(folder)))
            require_fitting_files(model, folder, "diffusion_pytorch_model", kwargs.get("variant"))
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        require_complete(model, info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model


def _images_per_slice(height: int, width: int) -> int:
    return max(1, SLICE_PIXELS // (height * width))


def _check_config(config: dict) -> None:
    """Raise `ValueError` for a setting of the wrong type, out of bounds, or at odds with another."""
    for name, setting in SETTINGS.items():
        check_setting(name, config[name], setting)
    channels, groups = config["block_out_channels"], config["norm_num_groups"]
    if not isinstance(channels, (list, tuple)) or not 1 <= len(channels) <= MAX_LEVELS:
        raise ValueError(f"block_out_channels must be a list of 1 to {MAX_LEVELS} widths, got {channels!r:.80}")
    for width in channels:
        check_setting("block_out_channels", width, WIDTH)
    if any(width % groups for width in channels):
        raise ValueError(f"block_out_channels must be divisible by norm_num_groups = {groups}, got {channels}")
    if not isinstance(config["act_fn"], str) or config["act_fn"] not in ACT2CLS:
        raise ValueError(f"act_fn must be one of {', '.join(ACT2CLS)}, got {config['act_fn']!r:.80}")
    factor, size = 2 ** (len(channels) - 1), config["sample_size"]
    if size % factor:
        raise ValueError(
            f"sample_size must be a multiple of the downsampling factor {factor} ({len(channels)} levels in "
            f"block_out_channels), got {size}"
        )
    if config["adapter_num_layers"] and channels[-1] % config["adapter_num_heads"]:
        raise ValueError(
            f"adapter_num_heads must divide block_out_channels[-1] = {channels[-1]}, got {config['adapter_num_heads']}"
        )
    widths, heads = config["feature_dims"], config["feature_num_heads"]
    if widths is None:
        return
    if not isinstance(widths, (list, tuple)) or len(widths) != config["num_codebooks"]:
        raise ValueError(
            f"feature_dims must have one entry per codebook ({config['num_codebooks']}), got {widths!r:.80}"
        )
    for width in widths:
        if width is not None and check_setting("feature_dims", width, WIDTH) % heads:
            raise ValueError(f"feature_dims must be None or multiples of feature_num_heads = {heads}, got {widths}")
