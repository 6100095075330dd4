# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images of two classes, a classifier of them, and a pipeline that generates them: all untrained and tiny."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessor


CLASSES = ["bright", "dark"]


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory):
    """30 pictures of 16 x 16 pixels in a folder per class."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(30):
        name = CLASSES[i % 2]
        pixels = rng.integers(0, 120, (16, 16, 3)) + (130 if name == "bright" else 0)
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def images(image_dir, cache_dir):
    pytest.importorskip("datasets")
    from fqgan_hf.evaluation.image_sets import open_image_set

    return open_image_set(image_dir, cache_dir=str(cache_dir))


@pytest.fixture(scope="session")
def network_dir(tmp_path_factory):
    """A classifier of them with 8 features."""
    torch.manual_seed(0)
    config = RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], groups_width=8, id2label=dict(enumerate(CLASSES))
    )
    folder = tmp_path_factory.mktemp("network")
    RegNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def network(network_dir):
    from fqgan_hf.evaluation.features import FeatureNetwork

    return FeatureNetwork(network_dir)


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    tiny.pipeline(num_classes=2, id2label=dict(enumerate(CLASSES))).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """Random weights of Inception in the file that torch-fidelity reads."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    load = module.FeatureExtractorInceptionV3.load_state_dict
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: None)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    assert module.FeatureExtractorInceptionV3.load_state_dict is load
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def inception(inception_file, monkeypatch):
    """The network with these weights."""
    from fqgan_hf.evaluation import features
    from fqgan_hf.files import sha256

    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(inception_file))
    return features.load_network("inception", weights=inception_file)
