# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Teachers: which feature they give of which image, that they stay as they are, and where their gradient goes."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPVisionModel,
    Dinov2Model,
    SegformerConfig,
    SegformerImageProcessor,
    SegformerModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.fqgan.losses import representation_losses
from fqgan_hf.training.fqgan.teachers import Teacher, add_feature_dims, load_teachers


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def column(values) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


@pytest.mark.parametrize("prefix", ["clip:", ""])
def test_clip_before_the_post_layernorm(prefix, tiny_clip):
    teacher = Teacher(prefix + tiny_clip)
    assert teacher.feature_dim == 16 and teacher.size == (32, 32)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    reference = CLIPVisionModel.from_pretrained(tiny_clip).eval()
    with torch.no_grad():
        output = reference(((images + 1) / 2 - column(CLIP_MEAN)) / column(CLIP_STD), output_hidden_states=True)
    feature = teacher(images)
    torch.testing.assert_close(feature, output.hidden_states[-1][:, 0])
    assert not torch.allclose(feature, output.pooler_output, atol=1e-2)
    # Other sizes are nearest-resized, which leaves enlarged pixels what they were.
    doubled = images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(teacher(doubled), feature)


def test_dinov2_class_token(tiny_dinov2):
    teacher = Teacher(f"dinov2:{tiny_dinov2}")
    assert teacher.feature_dim == 24 and teacher.size == (28, 28)
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    mean, std = column((0.48145466, 0.4578275, 0.40821073)), column((0.26862954, 0.26130258, 0.27577711))
    with torch.no_grad():
        hidden = Dinov2Model.from_pretrained(tiny_dinov2).eval()(((images + 1) / 2 - mean) / std).last_hidden_state
    torch.testing.assert_close(teacher(images), hidden[:, 0])


def test_local_network_sees_what_its_processor_gives(shared_dir):
    folder = str(shared_dir / "data" / "cifar10-net")
    teacher = Teacher(folder)
    assert teacher.feature_dim == 256 and teacher.size == (32, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    inputs = AutoImageProcessor.from_pretrained(folder)([Image.fromarray(p) for p in pixels], return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder).eval()(**inputs).pooler_output.flatten(1)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(teacher(images), expected, rtol=1e-4, atol=1e-4)


def test_without_a_pooler_the_mean_over_tokens(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}, do_normalize=False).save_pretrained(tmp_path)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    teacher = Teacher(str(tmp_path))
    assert not teacher.has_pooler, "AutoModel's class has one, with random weights"
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model((images + 1) / 2).last_hidden_state.mean(1))


def test_without_a_pooler_the_mean_over_maps(tmp_path):
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 12], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
    )  # fmt: skip
    model = SegformerModel(config).eval()
    model.save_pretrained(tmp_path)
    SegformerImageProcessor(do_resize=False, do_normalize=False).save_pretrained(tmp_path)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    teacher = Teacher(str(tmp_path))
    assert teacher.size is None and teacher.feature_dim == 12
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model((images + 1) / 2).last_hidden_state.mean((2, 3)))


def test_a_teacher_is_frozen_and_disturbs_nobody(tiny_clip):
    state = torch.get_rng_state()
    teacher = Teacher(tiny_clip)
    assert torch.equal(torch.get_rng_state(), state), "the tokenizer's weights must not depend on its teachers"
    assert not any(module.training for module in teacher.train().modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not teacher(images).requires_grad


def test_teachers_that_cannot_be(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="must be a dinov2 model, got model_type 'clip"):
        Teacher(f"dinov2:{tiny_clip}")
    with pytest.raises(OSError, match="teachers: 'no/such-model' cannot be loaded as a vision model"):
        Teacher("no/such-model")
    AutoImageProcessor.from_pretrained(tiny_clip).save_pretrained(tmp_path)
    model = CLIPVisionModel.from_pretrained(tiny_clip)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if "position_embedding" in name))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks the weights"):
        Teacher(str(tmp_path))


def test_one_teacher_or_none_for_each_codebook(tiny_clip, tiny_dinov2):
    assert load_teachers(None) == load_teachers(["none"]) == load_teachers(["none", "none"]) == []
    teachers = load_teachers(["none", f"dinov2:{tiny_dinov2}", f"clip:{tiny_clip}"])
    widths = [None, 24, 16]
    assert add_feature_dims({}, teachers, 3) == {"feature_dims": widths}
    assert add_feature_dims({"feature_dims": widths}, teachers, 3) == {"feature_dims": widths}
    assert add_feature_dims({"feature_dims": [None, 7]}, [], 2) == {"feature_dims": [None, 7]}
    with pytest.raises(ValueError, match=r"must be the widths of the teachers' features, \[None, 24, 16\], got"):
        add_feature_dims({"feature_dims": [24, None, 16]}, teachers, 3)
    with pytest.raises(ValueError, match="or 'none' for each of 2 codebooks, got 3"):
        add_feature_dims({}, teachers, 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_gradient_reaches_head_and_codebook_of_the_taught_codebook(batch, tiny_clip):
    teachers = load_teachers(["none", tiny_clip])
    config = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "latent_channels": 8,
        "norm_num_groups": 4,
        "sample_size": 8,
        "codebook_size": 16,
        "codebook_dim": 4,
        "adapter_num_layers": 1,
        "adapter_num_heads": 2,
    }
    model = FQGANModel(**add_feature_dims(config, teachers, 2))
    images = torch.rand(batch, 3, 8, 8) * 2 - 1
    predictions = model.encode(images, return_losses=True).feature_predictions
    loss, scalars = representation_losses(predictions, [t and t(images) for t in teachers])
    assert set(scalars) == {"loss/representation/1"} and torch.isfinite(loss)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.feature_heads[1].upscale.parameters())
    gradient = model.quantizer.embedding.grad
    assert gradient[1].abs().sum() > 0 and gradient[0].abs().sum() == 0
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teachers[1].parameters())
