# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the demo's generator is given, a class, a caption or a map: one class for each, with all that differs.

    condition = CONDITIONS["text"](digits)
    write_dataset(digits, folder, condition.columns)
    figures, codes, picture = condition.evaluate(examination)

The stages, in `fqgan_hf.demo.run`, are the same for all, but for one in which a map tokenizer is trained.

Shapes: N images, K codebooks, h w grid.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from fqgan_hf.demo.digit_captions import DigitBoundaries, DigitCaption, describe_digits, judge_captions
from fqgan_hf.demo.digit_maps import MAP_LABELS, digit_maps, judge_maps
from fqgan_hf.demo.digits import DIGIT_NAMES, NUM_HELD_OUT, Digits, enlarge, stored_picture
from fqgan_hf.demo.pictures import caption_picture, map_picture, sample_picture


if TYPE_CHECKING:
    import torch

    from fqgan_hf.demo.examination import Examination
    from fqgan_hf.pipelines.pipeline_far import FARPipeline


NUM_SHOWN = 10  # generated digits of each class in the picture
SHOWN_PER_CAPTION = 5
SHOWN_PER_MAP = 4

EXAMPLE_MAP = "map.png"


class Generated(NamedTuple):
    """
    Digits that were generated and judged.

    Args:
        figures (`dict`): For the report.
        codes (`torch.LongTensor` of shape `(N, K, h, w)`): Theirs.
        picture (`PIL.Image.Image`): Some of them, without selection.
    """

    figures: dict[str, Any]
    codes: "torch.Tensor"
    picture: Image.Image


class Condition(ABC):
    """
    What digits are generated for.

    Args:
        digits ([`Digits`]): Of the demo.

    Attributes:
        name (`str`): As `--condition` has it.
        words (`str`): The generator, in a few words.
        title (`str`): What the titles of model cards say of it.
        crop (`str`): The views of each digit that the generator learns from, as `extract_codes` has them.
        preset (`str`): Of the generator's training.
        map_preset (`str`, *optional*): Of the training of a map tokenizer, which then is one more stage.
        num_images (`int`): Generated in a full run.
        guidance_scale (`float`): With which they are.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    title: ClassVar[str] = ""
    crop: ClassVar[str] = "plain"
    preset: ClassVar[str]
    map_preset: ClassVar[str | None] = None
    num_images: ClassVar[int] = 500
    guidance_scale: ClassVar[float] = 2.0

    def __init__(self, digits: Digits):
        self.digits = digits

    def columns(self, pictures: list[Image.Image], labels: np.ndarray) -> dict[str, tuple[Any, list[Any]]]:
        """What the data set says of N pictures besides their labels `(N,)`: see `Columns`."""
        return {}

    def extraction_options(self, map_tokenizer: Path) -> list[str]:
        """Options of `extract_codes`; `map_tokenizer` is where that is, if there is one."""
        return []

    @abstractmethod
    def evaluate(self, examination: "Examination") -> Generated:
        """Generate and judge."""

    def map_tokenizer_figures(self, pipe: "FARPipeline") -> dict[str, Any]:
        """Of the pipeline's map tokenizer, where there is one."""
        return {}

    def metrics(self, figures: dict[str, Any]) -> dict[str, float]:
        """What model cards say besides what is known of all generators; `figures` are those of `evaluate`."""
        return {}

    @abstractmethod
    def summary(self, figures: dict[str, Any]) -> list[str]:
        """What the terminal says of the generated digits."""

    @abstractmethod
    def example(self, folder: Path) -> str:
        """Options of `fqgan generate`, to go on with."""

    def example_files(self) -> dict[str, Image.Image]:
        """Pictures that `example` names, by their names in the demo's folder."""
        return {}


class ClassCondition(Condition):
    """One of ten classes."""

    name = "class"
    words = "one class-conditional transformer"
    preset = "digits-far"

    def evaluate(self, examination: "Examination") -> Generated:
        """As any generator of classes is judged; see `evaluate_generator`."""
        figures, shown = examination.of_classes(NUM_SHOWN)
        labels = list(range(len(DIGIT_NAMES))) * (examination.num_images // len(DIGIT_NAMES))
        codes = examination.generate({"class_labels": labels})  # those of the images that were judged
        return Generated(figures, codes, sample_picture(shown))

    def summary(self, figures: dict[str, Any]) -> list[str]:
        return [f"generated digits:  {figures['class_consistency']:.1%} are classified as the class asked for"]

    def example(self, folder: Path) -> str:
        return "--class_labels 7 three --num_images_per_label 4"


class TextCondition(Condition):
    """A caption, computed from the picture, that says digit, thickness and slant, or some of it."""

    name = "text"
    words = "one transformer with a text encoder that is trained along"
    title = ", by captions"
    crop = "shift"
    preset = "digits-text-far"
    guidance_scale = 3.0

    def __init__(self, digits: Digits):
        super().__init__(digits)
        self.boundaries = DigitBoundaries.measure([enlarge(digit) for digit in digits.train], digits.train_labels)

    def columns(self, pictures: list[Image.Image], labels: np.ndarray) -> dict[str, tuple[Any, list[Any]]]:
        import datasets

        captions = describe_digits(pictures, labels, self.boundaries)
        return {"caption": (datasets.List(datasets.Value("string")), captions)}

    def extraction_options(self, map_tokenizer: Path) -> list[str]:
        return ["--caption_column", "caption"]

    def evaluate(self, examination: "Examination") -> Generated:
        """
        Digits for captions that together say each thing equally often.

        Beside them are real held-out digits with their own captions, of which all but the class is true by
        construction; what the tokenizer leaves of these, a ceiling; and chance, for a generator that reads no words.
        """
        captions = balanced_captions(examination.num_images, examination.seed)
        prompts = [caption.text() for caption in captions]
        codes = examination.generate({"prompt": prompts})
        images = examination.decode(codes)
        real = [enlarge(digit) for digit in self.digits.held_out]
        true = [said[0] for said in describe_digits(real, self.digits.held_out_labels, self.boundaries)]
        judged = {
            name: judge_captions(pictures, said, self.boundaries, examination.judge)
            for name, pictures, said in (
                ("generated", images, prompts),
                ("reconstructions", examination.reconstruct(real), true),
                ("real_digits", real, true),
            )
        }
        recognized = examination.recognize(images, [caption.digit for caption in captions])
        figures = {"condition": self.name, **recognized, **judged.pop("generated"), **judged, "chance": CHANCE}
        return Generated(figures, codes, caption_picture(prompts, images, shown_captions(), SHOWN_PER_CAPTION))

    def metrics(self, figures: dict[str, Any]) -> dict[str, float]:
        return {
            "thickness as in the caption": figures["thickness_consistency"],
            "slant as in the caption": figures["slant_consistency"],
        }

    def summary(self, figures: dict[str, Any]) -> list[str]:
        generated, reconstructed, chance = (
            [f"{found[name]:.1%}" for name in CHANCE]
            for found in (figures, figures["reconstructions"], figures["chance"])
        )
        return [
            "generated digits:  {} are the digit of their caption, {} as thick, {} as slanted".format(*generated),
            f"                   reconstructions of real ones: {', '.join(reconstructed)}; "
            f"chance: {', '.join(chance)}",
        ]

    def example(self, folder: Path) -> str:
        return '--prompt "a bold seven, slanted left"'


CHANCE = {"class_consistency": 1 / 10, "thickness_consistency": 1 / 3, "slant_consistency": 1 / 3}


def balanced_captions(number: int, seed: int) -> list[DigitCaption]:
    """
    Captions of digits of every thickness and slant, each of the 90 as often as another, but for one more of some.

    Args:
        number (`int`): Of all captions.
        seed (`int`): Says which are there once more, where `number` is no multiple of 90.
    """
    every = [DigitCaption(digit, *thirds) for thirds in np.ndindex(3, 3) for digit in range(len(DIGIT_NAMES))]
    times, rest = divmod(number, len(every))
    more = np.random.default_rng(seed).choice(len(every), rest, replace=False)
    return every * times + [every[index] for index in more]


def shown_captions() -> list[str]:
    """Two captions of each digit that contradict each other in everything else: thin and bold, left and right."""
    captions = []
    for digit in range(len(DIGIT_NAMES)):
        first, second = (0, 2) if digit % 2 == 0 else (2, 0)
        captions += [DigitCaption(digit, 0, first), DigitCaption(digit, 2, second)]
    return [caption.text() for caption in captions]


class MapCondition(Condition):
    """A map, computed from the picture, that says what is background, stroke and enclosed hole."""

    name = "map"
    words = "one transformer that is given the codes of a map"
    title = ", by maps"
    crop = "shift"
    preset = "digits-map-far"
    map_preset = "digits-map-fqgan"
    num_images = NUM_HELD_OUT

    def columns(self, pictures: list[Image.Image], labels: np.ndarray) -> dict[str, tuple[Any, list[Any]]]:
        import datasets

        return {"map": (datasets.Image(), [stored_picture(Image.fromarray(one)) for one in digit_maps(pictures)])}

    def extraction_options(self, map_tokenizer: Path) -> list[str]:
        return ["--map_column", "map", "--map_tokenizer", str(map_tokenizer)]

    def evaluate(self, examination: "Examination") -> Generated:
        """
        A digit for the map of each held-out one.

        Beside them are the real digits, of which maps are true by construction; what the tokenizer leaves of these, a
        ceiling; and the generated digits with the map of another one, a floor.
        """
        number = examination.num_images
        real = [enlarge(digit) for digit in self.digits.held_out[:number]]
        labels = self.digits.held_out_labels[:number].tolist()
        maps = digit_maps(real)
        shown = [labels.index(digit) for digit in range(len(DIGIT_NAMES))]
        asked = [*range(number), *(index for index in shown for _ in range(SHOWN_PER_MAP))]
        codes = examination.generate({"map_image": [Image.fromarray(maps[index]) for index in asked]})
        images, more = (examination.decode(part) for part in (codes[:number], codes[number:]))
        beside = {
            name: {"class_consistency": examination.class_consistency(pictures, labels), **judge_maps(pictures, maps)}
            for name, pictures in (("reconstructions", examination.reconstruct(real)), ("real_digits", real))
        }
        figures = {
            "condition": self.name,
            **examination.recognize(images, labels),
            **judge_maps(images, maps),
            **beside,
            "maps_of_other_digits": judge_maps(images, np.roll(maps, 1, axis=0)),
        }
        rows = [more[start : start + SHOWN_PER_MAP] for start in range(0, len(more), SHOWN_PER_MAP)]
        return Generated(figures, codes[:number], map_picture(maps[shown], rows, [real[index] for index in shown]))

    def map_tokenizer_figures(self, pipe: "FARPipeline") -> dict[str, Any]:
        """How well the maps of held-out digits come back from their codes."""
        import torch

        from fqgan_hf.evaluation.label_maps import confusion_counts, label_iou

        model = pipe.map_vqmodel
        maps = torch.from_numpy(digit_maps([enlarge(digit) for digit in self.digits.held_out])).long()
        with torch.no_grad():
            codes = model.encode_labels(maps).codes
            counts = confusion_counts(maps, model.decode_labels(codes), len(MAP_LABELS))
        iou = label_iou(counts)
        return {
            "num_images": len(maps),
            "num_codebooks": model.config.num_codebooks,
            "codebook_size": model.config.codebook_size,
            "grid": list(codes.shape[2:]),
            "parameters": model.num_parameters(),
            "pixel_accuracy": (counts.trace() / counts.sum()).item(),
            "mean_iou": iou.mean().item(),
            "iou": dict(zip(MAP_LABELS, iou.tolist(), strict=True)),
            "codes_used": len(codes.unique()),
        }

    def metrics(self, figures: dict[str, Any]) -> dict[str, float]:
        return {"mean IoU with the map": figures["mean_iou"]}

    def summary(self, figures: dict[str, Any]) -> list[str]:
        reconstructed, others = figures["reconstructions"], figures["maps_of_other_digits"]
        return [
            f"generated digits:  mean IoU {figures['mean_iou']:.3f} of their maps with those given, "
            f"{figures['class_consistency']:.1%} are the digit of the map",
            f"                   reconstructions of real ones: {reconstructed['mean_iou']:.3f} and "
            f"{reconstructed['class_consistency']:.1%}; maps of other digits: {others['mean_iou']:.3f}",
        ]

    def example(self, folder: Path) -> str:
        return f"--map {folder / EXAMPLE_MAP}"

    def example_files(self) -> dict[str, Image.Image]:
        """The map of a held-out digit: its values are labels, not colours."""
        return {EXAMPLE_MAP: Image.fromarray(digit_maps(enlarge(self.digits.held_out[0]))[0])}


CONDITIONS: dict[str, type[Condition]] = {
    condition.name: condition for condition in (ClassCondition, TextCondition, MapCondition)
}
