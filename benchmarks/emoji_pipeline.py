# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `emoji.py` trained as one small pipeline, with card and licences: the one that comes with the Space.

    python benchmarks/emoji_pipeline.py --experiment outputs/emoji --results docs/results/emoji.json \\
        --licences path/to/emoji --output_dir spaces_demo/pipeline

Weights in bfloat16 under the variant's name, so that they load in float32, which computes faster on a CPU.
"""

import argparse
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from emoji_report import CREDIT
from PIL import Image

from fqgan_hf import CardInfo, SamplingSettings
from fqgan_hf.evaluation.pictures import image_grid, save_image
from fqgan_hf.files import read_json, staged_folder, write_json
from fqgan_hf.hub.cards import render_card
from fqgan_hf.pipelines.inference import generate_images, join_pipeline


if TYPE_CHECKING:
    from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline


LICENCES = "LICENSE-*.txt"
VARIANT = "bf16"
SAMPLES = "images/samples.png"  # where `fqgan push` finds pictures
NUM_EACH = 5
TITLES = {"far": "FAR", "diffusion": "Discrete diffusion"}
FIGURES = {
    "group": "group read as asked",
    "tone": "skin tone read as asked",
    "frechet_distance": "Frechet distance on the judge's features",
}
PROMPTS = (
    "grinning face",
    "woman astronaut: medium skin tone",
    "man police officer: dark skin tone",
    "smiling cat",
    "green book",
)
LIMITATIONS = (
    "Pictures of 64 pixels, and only what its 3,074 training drawings show: faces, people, animals, food, things, "
    "signs and flags, by the words of their Unicode names. Other words are unknown to it. Skin tones and genders are "
    "those of the drawings. A small model made to try this package, and for nothing else."
)


def card_of(generator: str, figures: dict) -> CardInfo:
    """The card's facts, from the results page's figures."""
    arm = {"far": "far", "diffusion": "diffusion-50"}[generator]
    row, minutes = figures["rows"][arm], figures["training_seconds"]
    parts = ", ".join(f"{name} {minutes[name] / 60:.0f} minutes" for name in ("tokenizer", generator))
    return CardInfo(
        title=f"{TITLES[generator]} on emoji drawings, from words",
        training=(
            "By `python benchmarks/emoji.py`, presets `emoji-fqgan` and "
            f"`{'emoji-far' if generator == 'far' else 'emoji-code-diffusion'}`, on 3,074 drawings of 64x64 pixels "
            f"with their names and keywords. {CREDIT} Their licences lie beside this card: `LICENSE-noto-emoji.txt`, "
            "`LICENSE-unicode.txt`."
        ),
        cost=f"{parts}, on one and on two CPU cores.",
        metrics={title: row[name] for name, title in FIGURES.items()} | {"PSNR": figures["psnr"]},
        evaluation_dataset="581 drawings that it has not seen, by their captions",
        images=[SAMPLES],
        prompts=list(PROMPTS),
        limitations=LIMITATIONS,
    )


def samples_of(pipe: "GeneratorPipeline") -> Image.Image:
    """A row for each prompt of the card, seed 0, none chosen."""
    given = {"prompt": [prompt for prompt in PROMPTS for _ in range(NUM_EACH)]}
    images = generate_images(pipe, given, seed=0, settings=SamplingSettings(guidance_scale=3.0))
    rows = [images[start : start + NUM_EACH] for start in range(0, len(images), NUM_EACH)]
    return image_grid(rows, row_captions=PROMPTS, min_cell_size=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, required=True, help="output folder of emoji.py")
    parser.add_argument("--results", type=Path, required=True, help="emoji.json")
    parser.add_argument("--licences", type=Path, required=True, help=f"folder with the drawings' {LICENCES}")
    parser.add_argument("--generator", choices=TITLES, default="far", help="default: %(default)s")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    pipe = join_pipeline(args.experiment / "tokenizer", args.experiment / args.generator)
    card = card_of(args.generator, read_json(args.results))
    pipe.vqmodel.to(torch.bfloat16)
    pipe.transformer.to(torch.bfloat16)
    with staged_folder(args.output_dir) as staging:
        pipe.save_pretrained(str(staging), variant=VARIANT)
        for path in args.licences.glob(LICENCES):
            shutil.copyfile(path, staging / path.name)
        for path in staging.glob("*/config.json"):
            config = read_json(path)
            write_json(path, {name: value for name, value in config.items() if name not in ("_name_or_path", "dtype")})
        (staging / SAMPLES).parent.mkdir()
        save_image(samples_of(pipe.to(dtype=torch.float32)), staging / SAMPLES)
        text = render_card(pipe, "spaces_demo/pipeline", card, VARIANT)
        text = re.sub(r"The generator alone.*?(?=## Training)", "", text, flags=re.DOTALL)  # there are no code files
        (staging / "README.md").write_text(text, encoding="utf-8")
        card.write(staging)
    size = sum(path.stat().st_size for path in args.output_dir.rglob("*") if path.is_file())
    print(f"wrote {args.output_dir}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
