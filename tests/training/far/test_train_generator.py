# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""One loop for every generator: a second one, which has nothing of FAR, trains, is shown, resumes and loads."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

import fqgan_hf.training.far
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.inference import image_generator
from fqgan_hf.training.common.launch import run_training
from fqgan_hf.training.common.resuming import ON_RESUME, OnResume
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.far.arguments import GeneratorArguments
from fqgan_hf.training.far.generator_data import GeneratorData
from fqgan_hf.training.far.loop import train_generator
from fqgan_hf.training.far.sampling import SAMPLES_PER_ROW
from fqgan_hf.training.far.trainable import TrainableGenerator, TrainingLoss

from ..conftest import TOKENIZER


@dataclass(kw_only=True)
class BagArguments(GeneratorArguments):
    """Options of the second generator: those of all, and one of its own."""

    num_words: int = 3
    spelling: str = "plain"


class BagConfig(PreTrainedConfig):
    model_type = "bag-of-codes"

    num_classes: int = 2
    num_positions: int = 1
    num_codebooks: int = 1
    codebook_size: int = 2
    num_words: int = 1


@dataclass
class BagOutput(ModelOutput):
    loss: torch.Tensor | None = None
    codebook_losses: torch.Tensor | None = None


class BagOfCodes(PreTrainedModel):
    """How often each code occurs in images of a class, wherever it stands."""

    config_class = BagConfig
    base_model_prefix = "bag"

    def __init__(self, config: BagConfig):
        super().__init__(config)
        self.table = nn.Parameter(torch.zeros(config.num_classes, config.num_codebooks, config.codebook_size))
        self.post_init()

    def losses(self, class_labels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of codes `(B, T, K)`, `(B, K)`."""
        scores = self.table[class_labels].log_softmax(-1)[:, None].expand(-1, codes.shape[1], -1, -1)
        return -scores.gather(-1, codes[..., None])[..., 0].mean(1)

    def forward(self, class_labels: torch.Tensor, codes: torch.Tensor):
        losses = self.losses(class_labels, codes).mean(0)
        return BagOutput(loss=losses.mean(), codebook_losses=losses)


SHOWN: list[list[int]] = []
DRAWN: list[list[int]] = []


class BagPipeline:
    """Makes a picture of the first number of each image's own generator."""

    def __init__(self, tokenizer: FQGANModel, model: BagOfCodes, parts: dict):
        assert isinstance(tokenizer, FQGANModel) and isinstance(model, BagOfCodes) and not model.training
        assert parts == {}, "a class needs none"

    def set_progress_bar_config(self, **kwargs) -> None:
        pass

    def __call__(self, class_labels, *, generator, guidance_scale):
        assert guidance_scale == 1.5
        SHOWN.append(list(class_labels))
        DRAWN.append([int(torch.randint(256, (), generator=one)) for one in generator])
        return SimpleNamespace(images=[Image.new("RGB", (16, 16), (grey,) * 3) for grey in DRAWN[-1]])


class Tally:
    """What a generator keeps besides its weights: how many images it has seen."""

    def __init__(self):
        self.number = torch.zeros((), dtype=torch.long)

    def state_dict(self) -> dict:
        return {"number": self.number}

    def load_state_dict(self, state: dict) -> None:
        self.number = state["number"]


class Words(dict):
    """What is saved beside a generator."""

    def save_pretrained(self, folder: str) -> None:
        Path(folder).mkdir()
        Path(folder, "words.json").write_text(json.dumps(self))


TALLIES: list[Tally] = []


def build_bag(args: BagArguments, data: GeneratorData) -> TrainableGenerator:
    manifest = data.manifest
    height, width = manifest.grid
    config = BagConfig(
        num_classes=len(manifest.id2label),
        num_positions=height * width,
        num_codebooks=manifest.num_codebooks,
        codebook_size=manifest.codebook_size,
        num_words=args.num_words,
        id2label={int(key): name for key, name in manifest.id2label.items()},
    )
    TALLIES.append(Tally())

    def training_loss(model, codes, inputs) -> TrainingLoss:
        TALLIES[-1].number += len(codes)
        output = model(codes=codes, **inputs)
        return TrainingLoss(output.loss, output.codebook_losses.detach(), {"loss/tally": TALLIES[-1].number.float()})

    return TrainableGenerator(
        BagOfCodes(config), f"bag of {args.num_words} words", training_loss,
        lambda model, codes, inputs, index: model.losses(codes=codes, **inputs), BagPipeline,
        {"class_labels": torch.zeros(1, dtype=torch.long), "codes": torch.zeros(1, height * width, 2).long()},
        saved_parts={"words": Words(number=args.num_words)}, stateful=TALLIES[-1:],
        settings={"spelling": args.spelling},
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(image_folder, cache_dir, to_command, tmp_path_factory) -> tuple[Path, Path]:
    """A tokenizer, and the codes of three classes of pictures by it."""
    torch.manual_seed(0)
    tokenizer, codes = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("codes")
    FQGANModel(**TOKENIZER, num_codebooks=2).save_pretrained(str(tokenizer))
    options = {"train_data_dir": image_folder, "cache_dir": cache_dir, "tokenizer": tokenizer, "output_dir": codes}
    extract_codes(to_command(options))
    return tokenizer, codes


@pytest.fixture
def train(store, cache_dir, monkeypatch):
    """Trains the second generator for some steps."""
    # As `head` of FAR: what it makes of the model is compared.
    monkeypatch.setitem(ON_RESUME, "num_words", OnResume.BY_CONTENT)
    monkeypatch.setitem(ON_RESUME, "spelling", OnResume.BY_CONTENT)

    def run(output_dir: Path, steps: int, **changes) -> None:
        tokenizer, codes = store
        args = BagArguments(
            output_dir=str(output_dir), codes_dir=str(codes), tokenizer=str(tokenizer), cache_dir=str(cache_dir),
            train_batch_size=4, max_train_steps=steps, logging_steps=1, validation_fraction=0.25, learning_rate=0.1,
            validation_steps=4, sample_steps=4, sample_classes=[2, 0], sample_guidance_scale=1.5,
            checkpointing_steps=4, **changes,
        )  # fmt: skip
        run_training(args, partial(train_generator, build_model=build_bag))

    return run


def test_a_second_generator_trains_without_a_loop_of_its_own(train, read_metrics, tmp_path, capsys):
    SHOWN.clear(), DRAWN.clear()
    train(tmp_path, 8)
    assert "generator  bag of 3 words; 3 classes -> 16 positions x 2 codes of 32" in capsys.readouterr().out
    records = read_metrics(tmp_path)
    losses = [record["loss/total"] for record in records if "loss/total" in record]
    assert losses[0] == pytest.approx(torch.log(torch.tensor(32.0)).item(), rel=1e-4), "all codes equally likely"
    assert losses[-1] < losses[0] - 0.1
    validated = [record for record in records if "validation/loss" in record]
    assert [record["step"] for record in validated] == [4, 8]
    assert validated[0]["validation/loss"] == pytest.approx(
        (validated[0]["validation/loss/0"] + validated[0]["validation/loss/1"]) / 2
    )

    assert [record["loss/tally"] for record in records if "loss/tally" in record] == [
        4.0 * step for step in range(1, 9)
    ]

    model = BagOfCodes.from_pretrained(tmp_path)
    assert model.config.num_words == 3 and model.table.abs().max() > 0.1
    assert json.loads((tmp_path / "words" / "words.json").read_text()) == {"number": 3}
    # The same draws each time, by the one rule of images from a seed.
    assert SHOWN == [[2] * SAMPLES_PER_ROW + [0] * SAMPLES_PER_ROW] * 2
    assert DRAWN[0] == DRAWN[1] == [int(torch.randint(256, (), generator=image_generator(0, i))) for i in range(8)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step-00000004.png",
        "step-00000008.png",
    ]


def test_a_second_generator_resumes_as_itself(train, tmp_path):
    train(tmp_path / "whole", 8)
    train(tmp_path / "parts", 4)
    train(tmp_path / "parts", 8, resume_from_checkpoint="latest")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert torch.equal(whole["table"], parts["table"])
    assert [int(tally.number) for tally in TALLIES[-3:]] == [32, 16, 32], "what it keeps goes on, too"
    with pytest.raises(ValueError, match="num_words of the model was 3 and is now 4"):
        train(tmp_path / "parts", 12, resume_from_checkpoint="latest", num_words=4)
    with pytest.raises(ValueError, match="spelling of the model was 'plain' and is now 'fancy'"):
        train(tmp_path / "parts", 12, resume_from_checkpoint="latest", spelling="fancy")


def test_only_one_file_of_the_room_knows_far():
    folder = Path(fqgan_hf.training.far.__file__).parent
    knows = Counter(
        path.name
        for path in folder.glob("*.py")
        for module in ("modeling_far", "configuration_far", "pipeline_far")
        if f"import {module}" in (source := path.read_text()) or f".{module} import" in source
    )
    assert set(knows) == {"model.py"}
