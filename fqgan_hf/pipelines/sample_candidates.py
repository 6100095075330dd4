# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The candidates of rejection sampling: drawn and scored by all processes, and the best of them decoded again.

    samples/.candidates/part-00000.npz      score (N,) float32, codes (N, K, h, w): until the manifest is there

The best of a class are known once all candidates are. Until then not their pictures wait on disk but their codes, a
hundredth of the size (256 positions of 2 codebooks take 1 kB, a million candidates 1 GB): the image that is kept is
decoded from the very codes whose image was scored, rather than drawn a second time, which costs more and may round
differently.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image

from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.files import atomic_path
from fqgan_hf.hub.resolve import resolve_folder
from fqgan_hf.pipelines.inference import generate_batches
from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline
from fqgan_hf.pipelines.rejection import best_candidates
from fqgan_hf.pipelines.sample_folder import CANDIDATES
from fqgan_hf.pipelines.sample_parts import Parts, fill_parts, full_batches, split_range
from fqgan_hf.pipelines.sample_run import SamplingRun


def draw_candidates(
    pipe: GeneratorPipeline, run: SamplingRun, folder: Path, batch_size: int, state: PartialState
) -> "BestCandidates":
    """
    Draw and score what is missing of the candidates, together with the other processes, and choose the best.

    Args:
        pipe ([`GeneratorPipeline`]): The pipeline that `run` describes, on its device.
        run (`SamplingRun`): With its `rejection`.
        folder (`Path`): Of the run.
        batch_size (`int`): Images at a time.
        state (`PartialState`): Of this process; all of them call this.

    Raises:
        ValueError: The classifier cannot be loaded, it gives no finite score, or a file is damaged.
    """
    parts = Parts(
        split_range(run.rejection.num_candidates, run.shard_size),
        is_there=lambda number: _part_file(folder, number).exists(),
        write=lambda number, candidates: _write_part(_part_file(folder, number), candidates),
    )
    missing = parts.missing
    state.wait_for_everyone()  # nobody begins before all know what is missing
    mine = missing[state.process_index :: state.num_processes]
    if missing:
        batch_size = min(batch_size, run.rejection.num_candidates)
        classifier = FeatureNetwork(resolve_folder(run.rejection.classifier), pipe.device, "classifier")
        batches = full_batches(
            lambda indices: _candidates(pipe, run, classifier, indices, batch_size), parts.images(mine), batch_size
        )
        fill_parts(parts, mine, missing, batches, "drawing candidates", state.is_main_process)
    best = BestCandidates(run, folder, parts.ranges)
    state.wait_for_everyone()  # a process without a shard to write must not find the candidates gone
    return best


class BestCandidates:
    """
    The candidates that are kept, by the numbers of the images that they become.

    Args:
        run (`SamplingRun`), folder (`Path`): As given to `draw_candidates`.
        ranges (`Sequence[range]`): Candidates of each part; all are there.
    """

    def __init__(self, run: SamplingRun, folder: Path, ranges: Sequence[range]):
        self.run, self.folder = run, folder
        scores = np.concatenate([_read(folder, number, "score") for number in range(len(ranges))])
        self.chosen = best_candidates(scores, run.labels(len(scores)), run.labels(run.num))
        self.scores = scores[self.chosen]

    def columns(self, indices: range) -> dict[str, np.ndarray]:
        """What stands beside the images of a shard, besides what always does."""
        rows = slice(indices.start, indices.stop)
        return {"candidate": self.chosen[rows], "score": self.scores[rows]}

    def codes(self, indices: Sequence[int]) -> torch.Tensor:
        """Codes `(B, K, h, w)` of images."""
        candidates = self.chosen[list(indices)]
        places = candidates // self.run.shard_size
        parts = {number: _read(self.folder, number, "codes") for number in np.unique(places)}
        codes = [parts[n][i % self.run.shard_size] for n, i in zip(places, candidates, strict=True)]
        return torch.from_numpy(np.stack(codes).astype(np.int64))

    def decode(self, pipe: GeneratorPipeline, indices: Sequence[int], batch_size: int) -> Iterator[list[Image.Image]]:
        """The images of these numbers in batches."""
        for batch in split_range(len(indices), batch_size):
            yield _decode(pipe, self.codes(indices[batch.start : batch.stop]).to(pipe.device))


def _candidates(
    pipe: GeneratorPipeline, run: SamplingRun, classifier: FeatureNetwork, indices: list[int], batch_size: int
) -> Iterator[list[tuple[np.ndarray, float]]]:
    """Codes `(K, h, w)` and score of each candidate, in batches."""
    labels = [run.label(i) for i in indices]
    batches = generate_batches(
        pipe, run.given(indices), seed=run.seed, batch_size=batch_size, settings=run.sampling, indices=indices,
        output_type="codes", arguments=run.arguments,
    )  # fmt: skip
    dtype = np.uint16 if pipe.vqmodel.config.codebook_size <= 2**16 else np.int32
    for number, codes in enumerate(batches):
        asked = labels[number * batch_size : (number + 1) * batch_size]
        scores = class_scores(classifier, _decode(pipe, codes), asked)
        yield list(zip(codes.cpu().numpy().astype(dtype), scores, strict=True))


def class_scores(classifier: FeatureNetwork, images: Sequence[Image.Image], labels: Sequence[int]) -> np.ndarray:
    """
    The classifier's probability of the class that each image was asked to be.

    Returns:
        `np.ndarray` float32 of shape `(images,)`.

    Raises:
        ValueError: It is not finite.
    """
    probabilities = classifier(images).probabilities
    scores = probabilities[torch.arange(len(labels)), torch.as_tensor(labels)].float().numpy()
    if not np.isfinite(scores).all():
        raise ValueError("classifier must give probabilities, got NaN or infinity for an image")
    return scores


@torch.no_grad()
def _decode(pipe: GeneratorPipeline, codes: torch.Tensor) -> list[Image.Image]:
    """Codes `(B, K, h, w)` -> the pictures that the pipeline makes of them."""
    return pipe.image_processor.postprocess(pipe.vqmodel.decode_codes(codes).sample, output_type="pil")


def _part_file(folder: Path, number: int) -> Path:
    return folder / CANDIDATES / f"part-{number:05d}.npz"


def _write_part(path: Path, candidates: list[tuple[np.ndarray, float]]) -> None:
    codes, scores = zip(*candidates, strict=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, score=np.array(scores, dtype=np.float32), codes=np.stack(codes))


def _read(folder: Path, number: int, name: str) -> np.ndarray:
    path = _part_file(folder, number)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except Exception as error:  # a zip file can be damaged in many ways
        raise ValueError(f"{path} is damaged: {error}; remove it to have it made again") from error
