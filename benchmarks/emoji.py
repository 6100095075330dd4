# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of emoji from words, by both generators, and from colour maps: trained, sampled, judged and shown.

    python benchmarks/emoji.py --dataset path/to/emoji --perceptual_model path/to/network --output_dir outputs/emoji
    python benchmarks/emoji.py ... --results_dir docs/results --images_dir docs/images

The data set has a `train` and a `test` split of 64x64 drawings with the columns image, caption, keywords, map (label
maps: palette pictures), group, skin_tone and unseen. Every stage leaves a folder; a second call goes on with what is
missing, a training from its last checkpoint. All drawings of `test` are asked for once, by caption or by map.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from emoji_judge import Drawings, EmojiJudge, Reading, map_agreement, nearest_drawings, pixel_errors, train_judge
from emoji_report import write_report
from measure import interleaved, machine
from PIL import Image

from fqgan_hf import CodeDiffusionScheduler, optimize
from fqgan_hf.evaluation.metrics import FeatureStatistics
from fqgan_hf.files import MANIFEST, read_json, read_metrics, write_json
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.pipelines.inference import generate_batches, join_pipeline, load_pipeline, load_tokenizer
from fqgan_hf.processes import ScriptRunner


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline


TRAININGS = {
    "tokenizer": ("train_fqgan", "emoji-fqgan"),
    "map-tokenizer": ("train_fqgan", "emoji-map-fqgan"),
    "far": ("train_far", "emoji-far"),
    "diffusion": ("train_code_diffusion", "emoji-code-diffusion"),
    "map-far": ("train_far", "emoji-map-far"),
}
STAGES = ("tokenizer", "map-tokenizer", "codes", "far", "diffusion", "map-far", "judge")
SEED = 0
BATCH_SIZE = 32


@dataclass(frozen=True)
class Arm:
    """
    One way to make pictures.

    Args:
        title (`str`): What the tables call it.
        generator (`str`): The training that made it.
        steps (`int`, *optional*): Of diffusion.
        sampling (`str`, *optional*): Of its scheduler, where it is not the trained one's.
        settings (`dict`): How codes are drawn.
    """

    title: str
    generator: str
    steps: int | None = None
    sampling: str | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 3.0})


ARMS = {
    "far": Arm("FAR", "far"),
    "diffusion-100": Arm("diffusion, 100 steps", "diffusion", 100),
    "diffusion-50": Arm("diffusion, 50 steps", "diffusion", 50),
    "diffusion-25": Arm("diffusion, 25 steps", "diffusion", 25),
    "diffusion-10": Arm("diffusion, 10 steps", "diffusion", 10),
    "confidence-8": Arm("diffusion by confidence, 8 steps", "diffusion", 8, "confidence"),
    "map-far": Arm("FAR by maps", "map-far", settings={"guidance_scale": 1.5}),
}


class Experiment:
    """
    The folder of one experiment.

    Args:
        args: Of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.folder = args.output_dir
        self.scripts = ScriptRunner(args.threads)
        self.drawings = Drawings(datasets.load_dataset(str(args.dataset)))

    # ---- Training ----

    def run_stage(self, name: str) -> None:
        """Do what is missing of a stage."""
        folder = self.folder / name
        if name == "judge":
            if not (folder / "config.json").is_file():
                train_judge(self.drawings.train, folder, SEED)
        elif name == "codes":
            if not (folder / MANIFEST).is_file():
                words = ["--tokenizer", str(self.folder / "tokenizer"), "--image_column", "image"]
                words += ["--crop", "shift-flip", "--caption_column", "caption", "keywords"]
                words += ["--map_column", "map", "--map_tokenizer", str(self.folder / "map-tokenizer")]
                self._script("extract_codes", name, [*self._data_words(), *words])
        elif not (folder / "config.json").is_file():
            self._script(TRAININGS[name][0], name, self._training_words(name))

    def take(self, folder: Path) -> None:
        """The tokenizer and the FAR of a pipeline as the results of their stages, where these are not there."""
        pipe = load_pipeline(folder, "cpu")
        parts = {"tokenizer": [pipe.vqmodel, pipe.image_processor], "far": [pipe.transformer]}
        for name, models in parts.items():
            if not (self.folder / name / "config.json").is_file():
                for model in models:
                    model.save_pretrained(str(self.folder / name))
        pipe.tokenizer.save_pretrained(str(self.folder / "far" / "tokenizer"))

    def _script(self, script: str, name: str, words: list[str]) -> None:
        print(f"{name}: {script}", flush=True)
        words = [*words, "--output_dir", str(self.folder / name)]
        self.scripts.run(script, words, self.folder / "logs" / f"{name}.log")

    def _data_words(self) -> list[str]:
        return ["--dataset_name", str(self.args.dataset), "--split", "train"]

    def _training_words(self, name: str) -> list[str]:
        script, preset = TRAININGS[name]
        words = ["--config", preset, "--resume_from_checkpoint", "latest"]
        if script == "train_fqgan":
            words += [*self._data_words(), "--validation_split", "test", "--max_validation_samples", "128"]
            if name == "tokenizer":
                words += ["--teachers", "none", "--perceptual_model", str(self.args.perceptual_model)]
        else:
            words += ["--codes_dir", str(self.folder / "codes"), "--tokenizer", str(self.folder / "tokenizer")]
        if name == "map-far":
            words += ["--map_tokenizer", str(self.folder / "map-tokenizer")]
        return words

    def training_seconds(self, name: str) -> float:
        """Time in the training loop by its own record, which counts across interruptions."""
        seconds, last, records = 0.0, 0, read_metrics(self.folder / name / "metrics.jsonl")
        for record in records:
            if "images_per_second" in record:
                batch_size = 16 if "tokenizer" in name else 32
                seconds += (record["step"] - last) * batch_size / record["images_per_second"]
                last = record["step"]
        return seconds

    # ---- Pictures ----

    def pipeline(self, arm: Arm) -> "GeneratorPipeline":
        """The pipeline of an arm, on one CPU, ready to generate."""
        maps = self.folder / "map-tokenizer" if arm.generator == "map-far" else None
        pipe = join_pipeline(self.folder / "tokenizer", self.folder / arm.generator, map_tokenizer=maps)
        if arm.sampling is not None:
            pipe.scheduler = CodeDiffusionScheduler.from_config(pipe.scheduler.config, sampling=arm.sampling)
        optimize(pipe)
        return pipe

    def given(self, arm: Arm) -> dict[str, list]:
        """What an arm is asked for: every drawing of `test` once."""
        test = self.drawings.test
        return {"map_image": list(test["map"])} if arm.generator == "map-far" else {"prompt": list(test["caption"])}

    def sample(self, name: str) -> list[Image.Image]:
        """The pictures of an arm, made or as they lie in its folder."""
        arm, folder = ARMS[name], self.folder / "samples" / name
        paths = [folder / f"{i:04d}.png" for i in range(len(self.drawings.test))]
        missing = [i for i, path in enumerate(paths) if not path.is_file()]
        if missing:
            print(f"{name}: {len(missing)} pictures", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            given = {argument: [values[i] for i in missing] for argument, values in self.given(arm).items()}
            place = iter(missing)
            for images in generate_batches(
                self.pipeline(arm), given, seed=SEED, batch_size=BATCH_SIZE, indices=missing,
                settings=SamplingSettings(**arm.settings), arguments=self.steps(arm),
            ):  # fmt: skip
                for image in images:
                    image.save(paths[next(place)])
        return [Image.open(path).convert("RGB") for path in paths]

    @staticmethod
    def steps(arm: Arm) -> dict[str, Any]:
        """What the pipeline of an arm is called with besides."""
        return {} if arm.steps is None else {"num_inference_steps": arm.steps}

    def reconstructions(self) -> list[Image.Image]:
        """The drawings of `test` through the tokenizer: the best that its generators can give."""
        pipe = load_tokenizer(self.folder / "tokenizer", "cpu")
        images = list(self.drawings.test["image"])
        parts = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
        return [image for part in parts for image in pipe(part).images]

    def seconds_per_picture(self) -> dict[str, dict[str, float]]:
        """Time of a picture of each text arm, in batches of 8, in turns; processor time beside it."""
        torch.set_num_threads(self.args.threads)

        def call(name: str) -> Callable[[], Any]:
            arm, pipe = ARMS[name], self.pipeline(ARMS[name])
            given = {"prompt": list(self.drawings.test["caption"][:8])}
            settings = SamplingSettings(**arm.settings)
            return lambda: list(generate_batches(pipe, given, seed=0, settings=settings, arguments=self.steps(arm)))

        arms = [name for name in self.args.arms if name != "map-far"]
        timings = interleaved({name: call(name) for name in arms}, self.args.rounds)
        return {
            name: {clock: timing.median(clock) / 8 for clock in ("wall", "cpu")} for name, timing in timings.items()
        }


# ---- Figures --------------------------------------------------------------------------------------------------------


def statistics_of(reading: Reading) -> FeatureStatistics:
    """Mean and covariance of the features of drawings."""
    statistics = FeatureStatistics()
    statistics.update(torch.from_numpy(reading.features))
    return statistics


def caption_figures(drawings: Drawings, reading: Reading, order: np.ndarray | None = None) -> dict[str, Any]:
    """
    How often the judge reads what the caption of `test` says: the group of all, the tone of those that name one.

    Args:
        drawings ([`Drawings`]): Whose `test` was asked for.
        reading ([`Reading`]): Of what came.
        order (`np.ndarray` of shape `(N,)`, *optional*): Compare with the captions in this order: what chance gives.
    """
    order = np.arange(len(drawings.test)) if order is None else order
    groups, tones = reading.groups == drawings.groups[order], reading.tones == drawings.tones[order]
    toned, people = drawings.tones[order] > 0, drawings.groups[order] == drawings.people
    figures = {
        "group": groups.mean(),
        "group_of_things": groups[~people].mean(),
        "tone": tones[toned].mean(),
    }
    for kind in ("drawing", "combination"):
        figures[f"tone_of_unseen_{kind}"] = tones[toned & (drawings.unseen[order] == kind)].mean()
    return {name: float(value) for name, value in figures.items()}


def figures_of(experiment: Experiment) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """All figures, and all pictures."""
    drawings, judge = experiment.drawings, EmojiJudge(experiment.folder / "judge")
    real, train = list(drawings.test["image"]), list(drawings.train["image"])
    pictures = {"real": real, "reconstructions": experiment.reconstructions()}
    pictures |= {name: experiment.sample(name) for name in experiment.args.arms}
    readings = {name: judge.read(images) for name, images in pictures.items()}
    reference = statistics_of(readings["real"])
    errors = pixel_errors(pictures["reconstructions"], real)
    rows: dict[str, dict[str, Any]] = {}
    for name, images in pictures.items():
        _, distances = nearest_drawings(images, train)
        rows[name] = {
            **({} if name == "map-far" else caption_figures(drawings, readings[name])),
            "map_iou": map_agreement(drawings.maps, images, drawings.palette),
            "frechet_distance": None if name == "real" else statistics_of(readings[name]).distance(reference),
            "nearest_training_drawing": float(np.median(distances)),
            "as_near_as_a_reconstruction": float((distances < np.median(errors)).mean()),
        }
    shuffled = np.random.default_rng(SEED).permutation(len(real))
    rows["shuffled"] = caption_figures(drawings, readings["real"], shuffled)
    rows["shuffled"]["map_iou"] = map_agreement([drawings.maps[i] for i in shuffled], real, drawings.palette)
    rows["train"] = {"frechet_distance": statistics_of(judge.read(train)).distance(reference)}
    return {"rows": rows, "psnr": float(np.mean(-20 * np.log10(errors)))}, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="folder or Hub id of the drawings")
    parser.add_argument("--perceptual_model", type=Path, required=True, help="vision network in the role of LPIPS")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="trainings to do; default: all")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="of the tables; default: all")
    parser.add_argument(
        "--pipeline", type=Path, help="of this tokenizer and FAR, trained before: they need not be trained again"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing; default: %(default)s")
    parser.add_argument("--results_dir", type=Path, help="where emoji.md, .json and .png go; without it, no figures")
    parser.add_argument("--images_dir", type=Path, help="where the sheets of pictures go; default: --results_dir")
    args = parser.parse_args()
    experiment = Experiment(args)
    started = time.time()
    if args.pipeline is not None:
        experiment.take(args.pipeline)
    for name in args.stages:
        experiment.run_stage(name)
    if args.results_dir is None:
        return
    torch.set_num_threads(args.threads)
    figures, pictures = figures_of(experiment)
    times_path = args.output_dir / "times.json"
    if not times_path.is_file():
        write_json(times_path, {"machine": machine(), "seconds": experiment.seconds_per_picture()})
    figures |= read_json(times_path)
    figures["training_seconds"] = {name: round(experiment.training_seconds(name)) for name in TRAININGS}
    figures["titles"] = {name: ARMS[name].title for name in args.arms}
    figures["command"] = shlex.join(["python", "benchmarks/emoji.py", *shown_words(sys.argv[1:])])
    write_report(args.results_dir, args.images_dir or args.results_dir, figures, pictures, experiment.drawings)
    print(f"wrote {args.results_dir / 'emoji.md'} after {time.time() - started:.0f} s")


def shown_words(words: list[str]) -> list[str]:
    """A command line with paths outside the repository replaced by what they stand for."""
    outside = [Path(word).is_absolute() or word.startswith("..") for word in words]
    return [f"path/to/{Path(word).name}" if out else word for word, out in zip(words, outside, strict=True)]


if __name__ == "__main__":
    main()
