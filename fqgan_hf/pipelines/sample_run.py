# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`SamplingRun`: everything that the files of `fqgan sample` follow from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256 as new_sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fqgan_hf.files import sha256
from fqgan_hf.hub.facts import folder_kind, tokenizer_facts, weight_files
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.modeling.configuration_generator import GeneratorConfig
from fqgan_hf.pipelines.generation_files import MapFile
from fqgan_hf.pipelines.labels import class_names, resolve_labels
from fqgan_hf.pipelines.prompts import check_prompts
from fqgan_hf.pipelines.rejection import Rejection, find_classifier
from fqgan_hf.pipelines.sample_formats import FORMATS, Rows
from fqgan_hf.pipelines.sample_maps import SamplingMaps
from fqgan_hf.pipelines.sample_parts import split_range


MAX_IMAGES = 2**32  # beyond it two images would share their random numbers
MAX_SHARDS = 100_000  # as many as their names can count
UNLABELLED = ["unlabelled"]  # what readers of images call the class of those that have none


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """
    What the files of a run follow from; two runs with the same values write the same images.

    Args:
        model (`str`): Name or path of the pipeline; may change, since `weights_sha256` says what it is.
        weights_sha256 (`str`): `digest` of the pipeline's weights.
        tokenizer_fingerprint (`str`): Of its tokenizer.
        num (`int`): Images, at least 1. May be raised later: an image does not depend on how many there are, but with
            `rejection`, when it does.
        class_labels (`list[int]`): Class ids, taken in turn: for `num` divisible by their number each as often. None
            where the model knows no classes.
        label_names (`list[str]`): Name of every class of the model, by id; else `["unlabelled"]`, the class of all.
        seed (`int`): At least 0.
        sampling ([`SamplingSettings`]): How codes are drawn.
        dtype (`str`): `"float32"`, `"bfloat16"` or `"float16"`, of all weights and activations.
        quantization (`str`, *optional*): See [`~fqgan_hf.kernels.optimization.optimize`].
        format (`str`): `"png"`, `"npz"` or `"parquet"`.
        shard_size (`int`): Images per shard, at least 1; also what a process loses at most when it is stopped.
        rejection ([`~fqgan_hf.pipelines.rejection.Rejection`], *optional*): Keep the best of more images.
        prompts (`list[str]`, *optional*): Of a generator that reads them, taken in turn.
        maps ([`~fqgan_hf.pipelines.sample_maps.SamplingMaps`], *optional*): Likewise.
        negative_prompt (`str`, *optional*): What guidance leads away from.
        num_inference_steps (`int`, *optional*): Of a generator by diffusion.

    Raises:
        ValueError: A number or the format is out of range.
        ImportError: The format needs a library that is not installed.
    """

    model: str
    weights_sha256: str
    tokenizer_fingerprint: str
    num: int
    class_labels: list[int]
    label_names: list[str]
    seed: int
    sampling: SamplingSettings
    dtype: str
    quantization: str | None
    format: str
    shard_size: int
    rejection: Rejection | None = None
    prompts: list[str] | None = None
    maps: SamplingMaps | None = None
    negative_prompt: str | None = None
    num_inference_steps: int | None = None

    def __post_init__(self):
        for name, least in (("num", 1), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.num > MAX_IMAGES:
            raise ValueError(f"num must be at most {MAX_IMAGES:,}, got {self.num}")
        if self.rejection is not None and self.rejection.num_candidates > MAX_IMAGES:
            drawn, share = self.rejection.num_candidates, self.rejection.keep_best
            raise ValueError(f"num / keep_best must be at most {MAX_IMAGES:,}, got {drawn} for keep_best {share}")
        if self.num_shards > MAX_SHARDS:
            raise ValueError(
                f"shard_size must be at least {-(-self.num // MAX_SHARDS)} for {self.num:,} images, which would fill "
                f"{self.num_shards:,} shards, got {self.shard_size}"
            )
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.format == "parquet" and not (find_spec("datasets") and find_spec("pyarrow")):
            raise ImportError("format parquet needs datasets and pyarrow: pip install datasets")

    @classmethod
    def describe(
        cls,
        folder: Path,
        *,
        num: int,
        class_labels: Sequence[int | str] | None = None,
        seed: int = 0,
        settings: SamplingSettings | None = None,
        dtype: str = "float32",
        quantization: str | None = None,
        format: str = "png",
        shard_size: int = 1024,
        model_name: str | None = None,
        keep_best: float | None = None,
        classifier: str | Path | None = None,
        prompts: Sequence[str] | None = None,
        maps: Sequence[Image.Image | MapFile] | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
    ) -> "SamplingRun":
        """
        The run of a pipeline's folder; reads its configurations and hashes its weights, but loads no model.

        Args:
            folder (`Path`): A saved [`FARPipeline`] or [`CodeDiffusionPipeline`].
            num, seed, dtype, quantization, format, shard_size, prompts, negative_prompt, num_inference_steps: See
                [`SamplingRun`].
            class_labels (`Sequence[int | str]`, *optional*): Ids or names, taken in turn; all classes without it.
            settings ([`SamplingSettings`], *optional*): How codes are drawn; by default as the pipeline does.
            model_name (`str`, *optional*): What the manifest calls the pipeline; by default its folder.
            keep_best (`float`, *optional*): Draw `num / keep_best` images and keep the best `num`, class by class; see
                [`~fqgan_hf.pipelines.rejection.Rejection`].
            classifier (`str` or `Path`, *optional*): Says which are best: folder or Hub id of an image classifier with
                the classes of the pipeline.
            maps (`Sequence[PIL.Image.Image | MapFile]`, *optional*): Of a generator that reads them, taken in turn;
                label maps are pictures whose values are labels. They have the size that it was trained for.

        Raises:
            ValueError: For an unknown label, settings for another number of codebooks, a classifier of other classes,
                conditions that the generator does not know or lacks, a map that does not fit, and as [`SamplingRun`]
                does.
            FileNotFoundError: The folder, or the classifier's, lacks weights.
        """
        rejection = Rejection.describe(keep_best, classifier, num)
        config = folder_kind(folder / "transformer").load_class().config_class.from_pretrained(folder / "transformer")
        _check_given(config, class_labels, prompts, maps, negative_prompt, rejection)
        _check_steps(config, num_inference_steps)
        settings = SamplingSettings() if settings is None else settings
        settings.per_codebook(config.num_codebooks)  # raises where their numbers differ
        labels, names, label_names = [], {}, UNLABELLED
        if "class" in config.conditions:
            names = class_names(config.id2label)
            labels = range(config.num_classes) if class_labels is None else class_labels
            labels = resolve_labels(labels, config.num_classes, names)
            label_names = [names.get(i, str(i)) for i in range(config.num_classes)]
        run = cls(
            model=str(folder) if model_name is None else model_name,
            weights_sha256="",
            tokenizer_fingerprint=tokenizer_facts(folder / "vqmodel")["fingerprint"],
            num=num,
            class_labels=labels,
            label_names=label_names,
            seed=seed,
            sampling=settings,
            dtype=dtype,
            quantization=quantization,
            format=format,
            shard_size=shard_size,
            rejection=rejection,
            prompts=None if prompts is None else check_prompts(list(prompts), "prompts"),
            maps=None if maps is None else SamplingMaps.describe(folder, config, maps),
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
        )
        if rejection is not None:
            place, files = find_classifier(rejection.classifier, config.num_classes, names)
            run = replace(run, rejection=replace(rejection, classifier_sha256=digest(files, place)))
        return replace(run, weights_sha256=digest(_decisive_files(folder), folder))  # last, since it reads gigabytes

    @property
    def num_shards(self) -> int:
        return -(-self.num // self.shard_size)

    @property
    def shards(self) -> list[range]:
        """The images of each shard."""
        return split_range(self.num, self.shard_size)

    def shard_name(self, number: int) -> str:
        """Name of a shard's file or folder."""
        return f"shard-{number:05d}{FORMATS[self.format].suffix}"

    def label(self, index: int) -> int:
        """Class id of an image, 0 where there are no classes."""
        return self.class_labels[index % len(self.class_labels)] if self.class_labels else 0

    def labels(self, num: int) -> np.ndarray:
        """Class ids of the first `num` images, or candidates, `(num,)`."""
        return np.resize(np.array(self.class_labels, dtype=np.int64), num)

    def given(self, indices: Iterable[int]) -> dict[str, Sequence]:
        """What images are generated for, as `generate_batches` takes it."""
        indices, given = list(indices), {}
        if self.class_labels:
            given["class_labels"] = [self.label(i) for i in indices]
        if self.prompts is not None:
            given["prompt"] = [self.prompts[i % len(self.prompts)] for i in indices]
        if self.maps is not None:
            given["map_image"] = self.maps.in_turn(indices)
        return given

    @property
    def arguments(self) -> dict[str, Any]:
        """What else the pipeline is called with."""
        given = {"negative_prompt": self.negative_prompt, "num_inference_steps": self.num_inference_steps}
        return {name: value for name, value in given.items() if value is not None}

    def rows(self, indices: range, columns: Mapping[str, np.ndarray] | None = None) -> Rows:
        """What stands beside images in their shard; more of it in `columns`."""
        columns, told = columns or {}, {}
        drawn = columns.get("candidate", indices)  # the numbers under which the images were generated
        if self.prompts is not None:
            told["prompt"] = np.array([self.prompts[i % len(self.prompts)] for i in drawn])
        if self.maps is not None:
            told["map"] = np.array([i % len(self.maps) for i in drawn], dtype=np.int64)
        return Rows(indices, [self.label(i) for i in indices], self.label_names, {**told, **columns})

    def as_json(self) -> dict[str, Any]:
        """
        As it is read back from a file: lists for tuples, nothing of what there is not, and of prompts and maps their
        number and hash.
        """
        content = asdict(replace(self, maps=None))  # which would copy them
        if self.prompts is not None:  # they stand beside their images
            hashed = new_sha256("\n".join(self.prompts).encode()).hexdigest()
            content["prompts"] = {"number": len(self.prompts), "sha256": hashed}
        if self.maps is not None:
            content["maps"] = self.maps.described
        content = {name: value for name, value in content.items() if name not in OPTIONAL or value is not None}
        return json.loads(json.dumps(content))


OPTIONAL = ("rejection", "prompts", "maps", "negative_prompt", "num_inference_steps")


def _check_given(
    config: GeneratorConfig,
    class_labels: Sequence[int | str] | None,
    prompts: Sequence[str] | None,
    maps: Sequence[Image.Image | MapFile] | None,
    negative_prompt: str | None,
    rejection: Rejection | None,
) -> None:
    """Raise `ValueError` for conditions that the generator does not know, or lacks."""
    trained_for = f"this generator was trained for {', '.join(config.conditions)}"
    for name, value, condition in (
        ("class_labels", class_labels, "class"), ("prompts", prompts, "text"), ("maps", maps, "map"),
        ("negative_prompt", negative_prompt, "text"), ("keep_best", rejection, "class"),
    ):  # fmt: skip
        if value is not None and condition not in config.conditions:
            raise ValueError(f"{name} cannot be given: {trained_for}")
    for name, value, condition in (("prompts", prompts, "text"), ("maps", maps, "map")):
        if value is None and condition in config.conditions:
            raise ValueError(f"{name} must be given: {trained_for}")


def _check_steps(config: GeneratorConfig, num_inference_steps: int | None) -> None:
    """Raise `ValueError` for more steps than the generator has."""
    most = getattr(config, "num_train_timesteps", None)
    if num_inference_steps is not None and (most is None or not 1 <= num_inference_steps <= most):
        accepted = "None: this generator has no steps" if most is None else f"in [1, {most}]"
        raise ValueError(f"num_inference_steps must be {accepted}, got {num_inference_steps}")


def _decisive_files(folder: Path) -> list[Path]:
    """The files of a pipeline that decide about its images: weights, and of diffusion and texts a little more."""
    parts = [folder / part for part in ("vqmodel", "transformer", "map_vqmodel")]
    files = [path for part in parts if part.is_dir() for path in weight_files(part)]
    for part, pattern in (("scheduler", "*.json"), ("tokenizer", "*"), ("text_encoder", "*.safetensors")):
        files += [path for path in (folder / part).glob(pattern) if path.is_file()]
    return files


def digest(files: Iterable[Path], folder: Path) -> str:
    """SHA-256 of the listing that `sha256sum` prints of files, named by their paths in `folder` and sorted by them."""
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return new_sha256("".join(f"{sha256(folder / name)}  {name}\n" for name in names).encode()).hexdigest()
