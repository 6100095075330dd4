# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Frechet distance, streamed statistics, Inception score, precision and recall against independent computations.

The comparison on CIFAR-10 is marked slow.
"""

import json
import math

import numpy as np
import pytest
import torch

from fqgan_hf.evaluation.metrics import FeatureStatistics, frechet_distance, inception_score, psnr
from fqgan_hf.evaluation.precision_recall import precision_recall


def random_covariance(rng: np.random.Generator, size: int, rank: int | None = None) -> np.ndarray:
    factors = rng.normal(size=(size, rank or 2 * size))
    return factors @ factors.T / factors.shape[1]


class TestFrechetDistance:
    def test_closed_form_of_diagonal_gaussians(self):
        rng = np.random.default_rng(0)
        mu1, mu2 = rng.normal(size=(2, 12))
        deviation1, deviation2 = rng.uniform(0.1, 3, size=(2, 12))
        expected = np.sum((mu1 - mu2) ** 2) + np.sum((deviation1 - deviation2) ** 2)
        actual = frechet_distance(mu1, np.diag(deviation1**2), mu2, np.diag(deviation2**2))
        assert actual == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("rank", [None, 8])
    def test_the_general_matrix_square_root(self, rank):
        linalg = pytest.importorskip("scipy.linalg")
        rng = np.random.default_rng(1)
        mu1, mu2 = rng.normal(size=(2, 20))
        sigma1, sigma2 = random_covariance(rng, 20), random_covariance(rng, 20, rank)
        root = linalg.sqrtm(sigma1 @ sigma2).real
        expected = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root)
        assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-6)

    def test_singular_covariances(self):
        # Both in one plane of many dimensions, turned out of the axes: the closed form of two dimensions holds.
        rng = np.random.default_rng(2)
        basis = np.linalg.qr(rng.normal(size=(200, 200)))[0][:, :2]
        sigma1, sigma2 = basis @ np.diag([4.0, 9.0]) @ basis.T, basis @ np.diag([1.0, 16.0]) @ basis.T
        distance = frechet_distance(np.zeros(200), sigma1, np.zeros(200), sigma2)
        assert distance == pytest.approx((2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-9)

    def test_identity_symmetry_and_constant_features(self):
        rng = np.random.default_rng(3)
        mu1, mu2 = rng.normal(size=(2, 16))
        sigma1, sigma2 = random_covariance(rng, 16), random_covariance(rng, 16)
        assert 0 <= frechet_distance(mu1, sigma1, mu1, sigma1) < 1e-10
        forth, back = frechet_distance(mu1, sigma1, mu2, sigma2), frechet_distance(mu2, sigma2, mu1, sigma1)
        assert forth == pytest.approx(back, rel=1e-10)
        assert frechet_distance([0.0], [[0.0]], [3.0], [[0.0]]) == 9.0

    def test_tensors_in_single_precision(self):
        rng = np.random.default_rng(4)
        mu, sigma = rng.normal(size=16), random_covariance(rng, 16)
        exact = frechet_distance(mu, sigma, np.zeros(16), np.eye(16))
        tensors = (torch.tensor(mu).float(), torch.tensor(sigma).float(), torch.zeros(16), torch.eye(16))
        assert frechet_distance(*tensors) == pytest.approx(exact, rel=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0, 0], np.eye(3), [0, 0], np.eye(2)), r"mu1 and sigma1 must have shapes .*got \(2,\) and \(3, 3\)"),
            (([[0, 0]], np.eye(2), [0, 0], np.eye(2)), r"mu1 and sigma1 .*got \(1, 2\)"),
            (([0, 0], np.eye(2), [0, 0, 0], np.eye(3)), "same number of features, got 2 and 3"),
            (([0, np.nan], np.eye(2), [0, 0], np.eye(2)), "mu1 must hold finite values"),
            (([0, 0], np.eye(2), [0, 0], np.diag([1, np.inf])), "sigma2 must hold finite values"),
            (([0, 0], np.eye(2), [0, 0], [[1, 0.5], [0, 1]]), "sigma2 must be symmetric, got entries .*0.5"),
            (([0, 0], np.diag([1, -1]), [0, 0], np.eye(2)), "sigma1 must have no negative eigenvalue, got -1"),
            (([0, 0], np.eye(2), [0, 0], [[1, 2], [2, 1]]), "sigma2 must have no negative eigenvalue, got -1"),
        ],
    )
    def test_bad_input_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            frechet_distance(*arguments)


class TestFeatureStatistics:
    @pytest.mark.parametrize("counts", [(40, 60), (3, 60), (60, 3)])
    def test_distance_is_that_of_means_and_covariances(self, counts):
        rng = np.random.default_rng(0)
        one, other = (FeatureStatistics().update(rng.normal(i, 1 + i, (n, 6))) for i, n in enumerate(counts))
        expected = frechet_distance(one.mu, one.sigma, other.mu, other.sigma)
        assert one.distance(other) == pytest.approx(expected, rel=1e-9)
        with pytest.raises(ValueError, match="other must be of 6 features, got 2"):
            one.distance(FeatureStatistics().update(rng.normal(size=(5, 2))))

    def test_any_split_gives_the_statistics_of_the_whole(self):
        features = np.random.default_rng(0).normal(size=(101, 7))
        statistics = FeatureStatistics()
        for part in np.split(features, [1, 2, 2, 40, 77]):  # single samples and an empty batch among them
            statistics.update(part)
        assert statistics.count == 101 and statistics.num_features == 7
        assert np.allclose(statistics.mu, features.mean(axis=0), rtol=1e-13, atol=1e-13)
        assert np.allclose(statistics.sigma, np.cov(features, rowvar=False), rtol=1e-12, atol=1e-13)

    def test_a_large_common_offset_costs_no_precision(self):
        # Sums of squares, the shorter way, would lose all digits here: 1e16 beside a variance of 1.
        features = np.random.default_rng(1).normal(size=(500, 3))
        statistics = FeatureStatistics()
        for part in np.array_split(features + 1e8, 25):
            statistics.update(part)
        assert np.allclose(statistics.sigma, np.cov(features, rowvar=False), atol=1e-6)

    def test_tensors_of_any_precision(self):
        features = torch.randn(50, 4, requires_grad=True)
        statistics = FeatureStatistics().update(features)
        assert statistics.mu.dtype == np.float64
        assert np.allclose(statistics.sigma, np.cov(features.detach().double().numpy(), rowvar=False), atol=1e-12)
        assert np.allclose(FeatureStatistics().update(features.bfloat16()).mu, statistics.mu, atol=0.02)

    def test_merge(self):
        features = np.random.default_rng(2).normal(size=(60, 5))
        parts = [FeatureStatistics().update(part) for part in np.split(features, [13, 13, 40])]  # one saw nothing
        merged = FeatureStatistics()
        for part in parts:
            merged.merge(part)
        whole = FeatureStatistics().update(features)
        assert merged.count == 60
        assert np.allclose(merged.mu, whole.mu) and np.allclose(merged.sigma, whole.sigma)
        assert parts[0].count == 13  # and is not shared with the sum
        assert np.allclose(parts[0].sigma, np.cov(features[:13], rowvar=False))

    def test_save_and_load(self, tmp_path):
        features = np.random.default_rng(3).normal(size=(80, 6))
        statistics = FeatureStatistics().update(features[:50])
        statistics.save(tmp_path / "reference.npz")
        loaded = FeatureStatistics.load(tmp_path / "reference.npz")
        assert np.array_equal(loaded.mu, statistics.mu) and loaded.count == 50
        assert np.allclose(loaded.sigma, statistics.sigma, rtol=1e-15)
        loaded.update(features[50:])
        assert np.allclose(loaded.sigma, np.cov(features, rowvar=False))
        with np.load(tmp_path / "reference.npz") as file:  # the names other tools read
            assert file["mu"].shape == (6,) and file["sigma"].shape == (6, 6)

    def test_a_file_without_count_can_be_compared_only(self, tmp_path):
        path = tmp_path / "other_tool.npz"
        np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
        loaded = FeatureStatistics.load(path)
        assert frechet_distance(loaded.mu, loaded.sigma, np.ones(3), np.eye(3)) == pytest.approx(3)
        with pytest.raises(ValueError, match="without a count cannot be extended"):
            loaded.update(np.zeros((2, 3)))
        with pytest.raises(ValueError, match="other must know its number of samples"):
            FeatureStatistics().merge(loaded)
        loaded.save(tmp_path / "again.npz")
        assert np.array_equal(FeatureStatistics.load(tmp_path / "again.npz").sigma, np.eye(3))

    def test_bad_files_are_refused(self, tmp_path):
        text, pickled, incomplete = tmp_path / "text.npz", tmp_path / "pickled.npz", tmp_path / "incomplete.npz"
        text.write_text("no statistics")
        np.savez(pickled, mu=np.array([{}], dtype=object), sigma=np.eye(1))
        np.savez(incomplete, mu=np.zeros(2))
        for path in (text, pickled, incomplete):
            with pytest.raises(ValueError, match=r"path must be an \.npz file with arrays mu and sigma"):
                FeatureStatistics.load(path)
        np.savez(incomplete, mu=np.zeros(2), sigma=np.eye(3))
        with pytest.raises(ValueError, match="mu and sigma must have shapes"):
            FeatureStatistics.load(incomplete)
        with pytest.raises(FileNotFoundError):
            FeatureStatistics.load(tmp_path / "nowhere.npz")

    def test_too_few_samples(self, tmp_path):
        statistics = FeatureStatistics()
        with pytest.raises(ValueError, match="mu needs at least 1 sample"):
            _ = statistics.mu
        statistics.update(np.ones((1, 3)))
        assert statistics.mu.tolist() == [1, 1, 1]
        with pytest.raises(ValueError, match="sigma needs at least 2 samples, got 1"):
            _ = statistics.sigma
        with pytest.raises(ValueError, match="at least 2 samples"):
            statistics.save(tmp_path / "too_few.npz")
        assert not (tmp_path / "too_few.npz").exists()

    def test_bad_features_change_nothing(self):
        statistics = FeatureStatistics().update(np.eye(3))
        for features, message in (
            (np.zeros(3), r"features must have shape \(samples, features\), got \(3,\)"),
            (np.zeros((2, 4)), "features must have 3 columns, got 4"),
            ([[0, 1, np.nan]], "features must hold finite values"),
        ):
            with pytest.raises(ValueError, match=message):
                statistics.update(features)
        assert statistics.count == 3 and np.allclose(statistics.mu, 1 / 3)

    def test_what_is_handed_out_is_a_copy(self):
        statistics = FeatureStatistics().update(np.eye(3))
        statistics.mu[:] = 7
        statistics.sigma[:] = 7
        assert np.allclose(statistics.mu, 1 / 3) and statistics.sigma.max() < 1


class TestInceptionScore:
    def test_extremes(self):
        certain = np.eye(5)[np.arange(200) % 5]
        assert inception_score(certain, splits=1).mean == pytest.approx(5)
        assert inception_score(np.full((200, 5), 0.2), splits=4).mean == pytest.approx(1)
        assert inception_score(np.eye(5)[np.zeros(50, int)], splits=1).mean == pytest.approx(1)

    def test_the_definition(self):
        rng = np.random.default_rng(0)
        probabilities = rng.dirichlet(np.full(6, 0.3), size=90)
        order = np.random.default_rng(5).permutation(90)
        scores = []
        for part in probabilities[order].reshape(3, 30, 6):
            marginal = part.mean(axis=0)
            scores.append(np.exp(np.mean([np.sum(row * np.log(row / marginal)) for row in part])))
        result = inception_score(torch.from_numpy(probabilities), splits=3, seed=5)
        assert result.mean == pytest.approx(np.mean(scores), rel=1e-10)
        assert result.std == pytest.approx(np.std(scores), rel=1e-8)

    def test_sorted_classes_are_shuffled(self):
        # Without the shuffle each split would hold one class, and the score be 1.
        by_class = np.eye(10)[np.repeat(np.arange(10), 100)]
        result = inception_score(by_class, splits=10, seed=0)
        assert result.mean > 9
        assert inception_score(by_class, splits=10, seed=0) == result
        assert inception_score(by_class, splits=10, seed=1) != result

    def test_uneven_splits_use_every_sample(self):
        result = inception_score(np.eye(2)[[0, 0, 0, 0, 0, 0, 1]], splits=3, seed=0)
        assert result.mean > 1  # the one odd sample counts, in whichever split it falls

    @pytest.mark.parametrize(
        ("probabilities", "splits", "message"),
        [
            (np.full((5, 4), 0.25), 10, "probabilities must hold at least 10 samples, got 5"),
            (np.full((20, 4), 0.5), 2, "sum to 1 in each row, got a row that sums to 2"),
            (np.tile([1.5, -0.5], (20, 1)), 2, r"must not be negative, got -0.5 \(logits need a softmax\)"),
            (np.full((20, 4), np.nan), 2, "finite"),
            (np.zeros(20), 2, r"must have shape \(samples, features\)"),
            (np.full((20, 4), 0.25), 0, "splits must be a positive integer, got 0"),
        ],
    )
    def test_bad_input_is_named(self, probabilities, splits, message):
        with pytest.raises(ValueError, match=message):
            inception_score(probabilities, splits=splits)


def brute_force_share(samples: np.ndarray, centers: np.ndarray, k: int) -> float:
    inside = 0
    for sample in samples:
        for position, center in enumerate(centers):
            others = sorted(np.linalg.norm(center - other) for i, other in enumerate(centers) if i != position)
            if np.linalg.norm(sample - center) <= others[k - 1]:
                inside += 1
                break
    return inside / len(samples)


class TestPrecisionRecall:
    @pytest.mark.parametrize("k", [1, 3, 5])
    @pytest.mark.parametrize("chunk_size", [7, 1024])
    def test_brute_force(self, k, chunk_size):
        rng = np.random.default_rng(k)
        real, generated = rng.normal(size=(40, 4)), rng.normal(loc=0.8, scale=0.7, size=(30, 4))
        result = precision_recall(real, generated, k=k, chunk_size=chunk_size)
        assert result.precision == brute_force_share(generated, real, k)
        assert result.recall == brute_force_share(real, generated, k)
        assert 0 < result.recall < result.precision < 1  # a narrower set: more precise than varied

    def test_a_large_common_offset(self):
        rng = np.random.default_rng(0)
        real, generated = rng.normal(size=(2, 60, 3))
        assert precision_recall(real + 1e6, generated + 1e6) == precision_recall(real, generated)

    def test_extremes(self):
        rng = np.random.default_rng(0)
        real = rng.normal(size=(50, 4))
        same = precision_recall(real, real)
        assert (same.precision, same.recall) == (1, 1)
        apart = precision_recall(real, real + 100)
        assert (apart.precision, apart.recall) == (0, 0)

    def test_one_image_over_and_over(self):
        # All radii of the generated set are 0: it covers the one real image it copies and no other.
        real = np.random.default_rng(0).normal(size=(50, 4)) * 1e3
        result = precision_recall(real, np.repeat(real[:1], 50, axis=0))
        assert (result.precision, result.recall) == (1, 1 / 50)

    @pytest.mark.parametrize(
        ("real", "generated", "k", "message"),
        [
            (np.zeros((3, 2)), np.zeros((9, 2)), 3, "real must hold at least 4 samples, got 3"),
            (np.zeros((9, 2)), np.zeros((3, 2)), 3, "generated must hold at least 4 samples, got 3"),
            (np.zeros((9, 2)), np.zeros((9, 3)), 3, "same number of features, got 2 and 3"),
            (np.zeros((9, 2)), np.full((9, 2), np.inf), 3, "generated must hold finite values"),
            (np.zeros((9, 2)), np.zeros(9), 3, "generated must have shape"),
            (np.zeros((9, 2)), np.zeros((9, 2)), 0, "k must be a positive integer, got 0"),
        ],
    )
    def test_bad_input_is_named(self, real, generated, k, message):
        with pytest.raises(ValueError, match=message):
            precision_recall(real, generated, k=k)

    @pytest.mark.gpu
    def test_cuda(self):
        real, generated = torch.randn(2, 500, 16, dtype=torch.float64)
        assert precision_recall(real.cuda(), generated.cuda(), chunk_size=128) == precision_recall(real, generated)


@pytest.mark.slow
def test_real_images_against_recorded_distances(shared_dir):
    """Two halves of CIFAR-10's test images on a given network: within 1 % of the distance that SciPy's sqrtm gave."""
    folder = shared_dir / "data" / "cifar10-net"
    if not (folder / "calibration.json").is_file():
        pytest.skip(f"no calibration in {folder}")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForImageClassification

    calibration = json.loads((folder / "calibration.json").read_text())
    preprocessing = json.loads((folder / "preprocessor_config.json").read_text())
    network = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = datasets.load_dataset(str(shared_dir / "data" / "cifar10"), split="test")
    mean, std = (torch.tensor(preprocessing[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    halves, probabilities = [FeatureStatistics(), FeatureStatistics()], []
    for start in range(0, 10_000, 500):
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images[start : start + 500]["img"]])
        pixels = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        with torch.inference_mode():
            features = network.base_model(pixels).pooler_output
            probabilities.append(network.classifier(features).softmax(dim=-1))
        halves[start // 5000].update(features.flatten(1))
    first, last = halves
    distance = frechet_distance(first.mu, first.sigma, last.mu, last.sigma)
    assert distance == pytest.approx(calibration["fd_test_halves_scipy_sqrtm"], rel=0.01)
    whole = first.merge(last)
    assert np.trace(whole.sigma) == pytest.approx(calibration["feature_cov_trace"], rel=0.01)
    assert np.linalg.norm(whole.mu) == pytest.approx(calibration["feature_mean_norm"], rel=0.01)
    assert 5 < inception_score(torch.cat(probabilities)).mean <= 10  # ten balanced classes, read with 88 % accuracy


class TestPsnr:
    def test_known_values_per_image(self):
        original = torch.zeros(3, 3, 8, 8)
        reconstruction = original.clone()
        reconstruction[1] += 0.2
        reconstruction[2, :, :4] += 0.2  # half the pixels: 3.01 dB better
        values = psnr(original, reconstruction, quantize=False)
        assert values.dtype == torch.float64
        assert values.tolist() == pytest.approx([math.inf, 20.0, 20 + 10 * math.log10(2)])

    def test_quantised_by_default(self):
        levels = torch.arange(256.0).view(1, 1, 16, 16) / 127.5 - 1
        shifted = (torch.arange(256.0).view(1, 1, 16, 16) + 0.4) / 127.5 - 1  # saved as the very same picture
        assert psnr(levels, shifted).item() == math.inf
        assert psnr(levels, shifted, quantize=False).isfinite().all()
        one_off = ((levels + 1) * 127.5 + 1).clamp(max=255) / 127.5 - 1
        error = 255 / 256  # every level but the highest is one off
        assert psnr(levels, one_off).item() == pytest.approx(10 * math.log10(255**2 / error))

    def test_overshoot_is_clamped(self):
        original = torch.ones(1, 3, 4, 4)
        for quantize in (True, False):
            assert psnr(original, original * 5, quantize=quantize).item() == math.inf

    def test_half_precision(self):
        original = torch.rand(2, 3, 16, 16) * 2 - 1
        reconstruction = (original + torch.randn_like(original) * 0.1).clamp(-1, 1)
        exact = psnr(original, reconstruction)
        assert (psnr(original, reconstruction.bfloat16()) - exact).abs().max() < 0.05

    @pytest.mark.parametrize(
        ("original", "reconstruction", "message"),
        [
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5), r"same shape .*\(1, 3, 4, 4\) and \(1, 3, 4, 5\)"),
            (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), r"same shape \(B, C, H, W\)"),
            (torch.full((1, 3, 4, 4), 200.0), torch.zeros(1, 3, 4, 4), r"original must lie in \[-1, 1\], got .*200"),
            (torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), torch.nan), "reconstruction must hold finite values"),
            (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4), "original must hold floats"),
        ],
    )
    def test_bad_input_is_named(self, original, reconstruction, message):
        with pytest.raises(ValueError, match=message):
            psnr(original, reconstruction)
