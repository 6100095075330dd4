# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Networks that judge: what they give, what identifies them, and where weights may come from."""

import numpy as np
import pytest
import torch
from PIL import Image

from fqgan_hf.evaluation import features
from fqgan_hf.evaluation.features import FeatureNetwork, load_network, weights_sha256
from fqgan_hf.files import sha256


def pictures(number=3, size=(20, 24)):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(number)]


def test_inception_gives_the_features_of_the_protocol(inception):
    found = inception(pictures())
    assert found.pooled.shape == (3, 2048) and found.probabilities.shape == (3, 1008)
    assert found.spatial.shape == (3, 17 * 17 * 7)
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures()])).permute(0, 3, 1, 2)
    branch = {}
    inception.model.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, output: branch.update(output=output))
    with torch.no_grad():
        pooled, logits = inception.model(pixels)
    torch.testing.assert_close(found.pooled, pooled)
    # Logits without their bias, as ADM has them.
    torch.testing.assert_close(found.probabilities, (pooled @ inception.model.fc.weight.T).softmax(-1))
    assert inception.model.fc.bias.abs().max() > 0
    # The first seven channels of the convolution `mixed_6/conv`, position by position.
    expected = branch["output"][:, :7].permute(0, 2, 3, 1).reshape(3, -1)
    torch.testing.assert_close(found.spatial, expected)


def test_other_weights_than_the_published_ones_are_refused(inception_file):
    with pytest.raises(ValueError, match="its SHA-256 is [0-9a-f]{64}, not 6726825d"):
        load_network("inception", weights=inception_file)
    with pytest.raises(FileNotFoundError, match="there is no file /nowhere.pth"):
        load_network("inception", weights="/nowhere.pth")
    with pytest.raises(ValueError, match="weights are for the network 'inception' only"):
        load_network("path/to/network", weights=inception_file)


def test_where_the_weights_cannot_be_had_the_error_says_where_to_put_them(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(features, "INCEPTION_URL", "http://127.0.0.1:9/" + features.INCEPTION_FILE)
    with pytest.raises(
        FileNotFoundError, match=rf"put http://127.0.0.1:9/weights.* to {tmp_path}/checkpoints/weights"
    ):
        load_network("inception")


def test_no_pickle_is_loaded(monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity")
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "pickle.pth")  # a module: code, not tensors alone
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256(tmp_path / "pickle.pth"))
    with pytest.raises(Exception, match="Weights only load failed"):
        load_network("inception", weights=tmp_path / "pickle.pth")


def test_a_network_is_identified_by_its_weights_and_preprocessing(network_dir, network):
    again = FeatureNetwork(network_dir)
    assert again.description == network.description
    assert network.description["weights_sha256"] == weights_sha256(network.model)
    assert network.description["preprocessing"]["size"] == {"height": 16, "width": 16}
    with torch.no_grad():
        next(again.model.parameters()).mul_(1 + 1e-6)
    assert again.description["weights_sha256"] != network.description["weights_sha256"]


def test_probabilities_are_the_classifiers(network):
    found = network(pictures())
    assert found.spatial is None and found.probabilities.shape == (3, 2)
    inputs = network.processor(images=pictures(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = network.model(pixel_values=inputs).logits.softmax(-1)
    torch.testing.assert_close(found.probabilities, expected)
    assert torch.equal(found.predictions, expected.argmax(-1))
