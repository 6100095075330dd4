# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FAR trained on captions and maps: it learns what they determine, and what does not fit is refused at once."""

import json
import shutil

import pytest
import tiny
import torch
from PIL import Image
from transformers import AutoTokenizer

from fqgan_hf import FARForImageGeneration, FARPipeline, FQGANImageProcessor
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.configuration_generator import CONDITIONS
from fqgan_hf.pipelines.prompts import encode_prompts
from fqgan_hf.training.far import condition_options
from fqgan_hf.training.far.conditions import GeneratorConditions
from fqgan_hf.training.far.text_tokenizer import build_text_tokenizer
from fqgan_hf.training.train_far import TrainFARArguments, check
from fqgan_hf.training.train_far import main as train_far

from ..condition_data import (
    CAPTIONS,
    codes_of_captions,
    codes_of_maps,
    draw_maps,
    make_tokenizer,
    write_captioned,
    write_mapped,
)


OWN_ENCODER = ["--conditions", "text", "--train_text_encoder"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Folders of a tokenizer of images and of one of label maps, with the models."""
    folder = tmp_path_factory.mktemp("tokenizers")
    settings = {"images": {}, "maps": {"num_labels": 3, "num_codebooks": 1}}
    return {name: (folder / name, make_tokenizer(folder / name, **settings[name])) for name in settings}


@pytest.fixture(scope="module")
def captioned(tokenizers, tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"), tokenizers["images"][1])


@pytest.fixture(scope="module")
def mapped(tokenizers, tmp_path_factory):
    return write_mapped(tmp_path_factory.mktemp("mapped"), *(model for _, model in tokenizers.values()))


@pytest.fixture
def train(generator_config, cache_dir, to_command, tmp_path):
    """Trains a FAR in a folder under `tmp_path`, which it gives back."""

    def run(codes_dir, words, name="out", **changes):
        options = {
            "codes_dir": codes_dir, "output_dir": tmp_path / name, "cache_dir": cache_dir, "train_batch_size": 16,
            "model_config_name_or_path": generator_config, "learning_rate": 3e-3, "logging_steps": 10,
            "validation_fraction": 0.25, "validation_steps": 1000, **changes,
        }  # fmt: skip
        train_far([*to_command(options), *words])
        return tmp_path / name

    return run


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    """A folder with a frozen text encoder and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    tiny.text_encoder("clip").save_pretrained(folder)
    tiny.text_tokenizer().save_pretrained(folder)
    return folder


# ---- What is learned ------------------------------------------------------------------------------------------------


def test_captions_are_learned(train, captioned, tokenizers, read_metrics):
    """The codes of each caption, by the likeliest code everywhere, through a pipeline of what was saved."""
    folder = train(captioned, [*OWN_ENCODER, "--num_text_tokens", "7"], max_train_steps=70)
    losses = [record["loss/total"] for record in read_metrics(folder) if "loss/total" in record]
    assert losses[0] > 1.5 and losses[-1] < 0.4
    generator, tokenizer = (
        FARForImageGeneration.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
    )
    config = generator.config
    assert (config.conditions, config.num_text_tokens, config.text_vocab_size) == (("text",), 7, len(tokenizer))
    pipe = FARPipeline(tokenizers["images"][1], generator, FQGANImageProcessor(), tokenizer=tokenizer)
    pipe.set_progress_bar_config(disable=True)
    prompts = [f"{caption}." for caption in CAPTIONS]
    found = pipe(prompt=prompts, guidance_scale=1.0, do_sample=False, output_type="codes")
    assert torch.equal(found.images, codes_of_captions())


def test_maps_are_learned(train, mapped, read_metrics):
    """Cell by cell, whether or not a map was in the data."""
    folder = train(mapped, ["--conditions", "map"], max_train_steps=120, train_batch_size=32)
    losses = [record["loss/total"] for record in read_metrics(folder) if "loss/total" in record]
    assert losses[0] > 1.5 and losses[-1] < 0.5
    assert read_metrics(folder)[-1]["validation/loss"] < 0.2
    generator, maps = FARForImageGeneration.from_pretrained(folder).eval(), draw_maps(8, seed=1)
    found = generator.generate(map_codes=grid_to_sequence(maps), do_sample=False)
    assert (found == grid_to_sequence(codes_of_maps(maps))).float().mean() > 0.95


def test_all_conditions_at_once_with_pictures(train, mapped, tokenizers, read_metrics, capsys):
    """In the order that is asked for; the pictures show held-out images' captions, beside their maps."""
    (images, _), (maps, _) = tokenizers.values()
    words = ["--conditions", "map", "class", "text", "--train_text_encoder", "--num_text_tokens", "5"]
    options = {"tokenizer": images, "map_tokenizer": maps, "sample_steps": 2, "max_train_steps": 2, "ema_decay": 0.5}
    folder = train(mapped, [*words, "--use_ema"], **options)
    assert "maps of 4 positions x 1 codes of 8, 2 classes, captions of 5 tokens of a vocabulary of 6 ->" in (
        capsys.readouterr().out
    )
    picture = Image.open(folder / "samples" / "step-00000002.png")
    assert picture.width > 5 * 96, "four images, and the map before them"
    config = json.loads((folder / "config.json").read_text())
    assert config["conditions"] == ["map", "class", "text"]
    assert config["map_tokenizer_fingerprint"] == tokenizers["maps"][1].fingerprint()
    assert (config["map_num_codebooks"], config["map_codebook_size"], config["map_grid_height"]) == (1, 8, 2)


# ---- Text encoders --------------------------------------------------------------------------------------------------


def test_a_frozen_text_encoder(train, captioned, text_encoder, tokenizers, capsys, tmp_path):
    """Its states come in, it is not trained, and a run goes on with the same one only."""
    words = ["--conditions", "text", "--num_text_tokens", "8", "--text_encoder"]
    options = {"checkpointing_steps": 1, "sample_steps": 1, "tokenizer": tokenizers["images"][0]}
    folder = train(captioned, [*words, str(text_encoder)], max_train_steps=1, **options)
    assert "parameters of the text encoder" in capsys.readouterr().out
    config = FARForImageGeneration.from_pretrained(folder).config
    assert (config.text_hidden_size, config.text_vocab_size) == (16, None)
    assert not (folder / "tokenizer").exists(), "the text encoder has it"

    shutil.copytree(text_encoder, tmp_path / "moved")
    options |= {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    train(captioned, [*words, str(tmp_path / "moved")], **options)
    tiny.text_encoder("clip").save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match="text_encoder was '.*' and is now '"):
        train(captioned, [*words, str(tmp_path / "moved")], **options)
    with pytest.raises(ValueError, match="num_text_tokens must be at most 16, the longest prompt"):
        train(captioned, [*words, str(text_encoder), "--num_text_tokens", "17"], "other")


@pytest.mark.slow
def test_a_pretrained_generator_keeps_its_words(train, captioned, mapped, text_encoder):
    """Going on with other captions: the same vocabulary, and the same conditions."""
    first = train(captioned, [*OWN_ENCODER, "--num_text_tokens", "7"], "first", max_train_steps=1)
    options = {
        "model_config_name_or_path": None, "pretrained_model_name_or_path": first, "max_train_steps": 1,
        "learning_rate": 1e-9,
    }  # fmt: skip
    second = train(mapped, [], "second", **options)
    vocabularies = [AutoTokenizer.from_pretrained(folder / "tokenizer").get_vocab() for folder in (first, second)]
    assert vocabularies[0] == vocabularies[1] and "pear" in vocabularies[0]
    for words, message in (
        (["--conditions", "class"], "conditions must be that of the pretrained model"),
        (["--num_text_tokens", "9"], "num_text_tokens must be that of the pretrained model, 7, got 9"),
        (["--text_encoder", str(text_encoder)], "the pretrained model has a text encoder of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            train(mapped, words, "third", **options)


def test_words_of_captions():
    captions = ["A red Apple: ripe", "a red house", "ﬁne"]
    tokenizer = build_text_tokenizer(captions, 8)
    assert tokenizer.get_vocab() == build_text_tokenizer(reversed(captions), 8).get_vocab()
    assert tokenizer.convert_ids_to_tokens(range(6)) == ["<pad>", "<unk>", "<bos>", "<eos>", "a", "red"]
    assert len(tokenizer) == 4 + len({"a", "red", "apple", ":", "ripe", "house", "fine"})
    text, mask = encode_prompts(["RED pear", "a red fine house: ripe apple"], tokenizer, None, 8)
    assert tokenizer.convert_ids_to_tokens(text[0]) == ["<pad>"] * 4 + ["<bos>", "red", "<unk>", "<eos>"]
    assert mask.sum(1).tolist() == [4, 8]


def test_some_words_become_unknown_in_training():
    """Words alone, about a tenth of them, and never in validation; those of a frozen text encoder stay."""
    tokenizer = build_text_tokenizer(["one two three four five six"], 8)
    batch = {"caption": ["one two three four five six"] * 500}
    conditions = GeneratorConditions(("text",), tokenizer, None, 8)
    (plain,), shown = conditions.inputs({"caption": batch["caption"][:1]}, "cpu")["text"], []
    for training in (False, True):
        text = conditions.inputs(batch, "cpu", training)["text"]
        hidden = text == tokenizer.unk_token_id
        assert torch.equal(text.where(~hidden, plain), plain.expand_as(text))
        assert not hidden[:, [0, 7]].any(), "no special token"
        shown.append(hidden[:, 1:7].float().mean().item())
    assert shown[0] == 0 and shown[1] == pytest.approx(0.1, abs=0.02)
    frozen = GeneratorConditions(("text",), tiny.text_tokenizer(), tiny.text_encoder(), 8)
    captions = {"caption": ["a red apple"] * 2}
    assert torch.equal(*(frozen.inputs(captions, "cpu", training)["text"] for training in (False, True)))


# ---- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": ["colour"]}, "conditions must be some of class, text, map, each once, got \\['colour'\\]"),
        ({"conditions": ["text", "text"]}, "conditions must be some of class, text, map, each once"),
        ({"text_encoder": "a/b", "train_text_encoder": True}, "at most one of --text_encoder and --train_text_enc"),
        ({"conditions": ["text"]}, "the condition text needs --text_encoder or --train_text_encoder"),
        ({"train_text_encoder": True}, "train_text_encoder needs the condition text: this .* trained for 'class'"),
        ({"num_text_tokens": 5}, "num_text_tokens needs the condition text"),
        ({"map_tokenizer": "a/b"}, "map_tokenizer needs the condition map"),
        ({"conditions": ["text"], "text_encoder": "/nowhere"}, "text_encoder must be a folder or the name of a Hub"),
        (
            {"conditions": ["map"], "sample_steps": 1, "tokenizer": "a/b"},
            "sample_steps shows the condition map of held-out images: it needs --validation_fraction",
        ),
        ({"conditions": ["map"], "sample_classes": [0]}, "sample_classes needs the condition class alone"),
        (
            {"conditions": ["map"], "on_the_fly": True, "tokenizer": "a/b", "dataset_name": "a/b"},
            "on_the_fly has no captions and no maps, which the condition map needs",
        ),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(changes, message, captioned, tmp_path):
    codes = {} if "on_the_fly" in changes else {"codes_dir": str(captioned)}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check(TrainFARArguments(output_dir=str(tmp_path), **codes, **changes))


def test_codes_without_what_is_asked_for(captioned, mapped, tokenizers, train, tmp_path):
    without = write_captioned(tmp_path / "without")
    manifest = json.loads((without / "manifest.json").read_text())
    for name, message in (("captions", "has no captions: extract_codes"), ("map", "has no maps: extract_codes")):
        content = {key: value for key, value in manifest.items() if key != name}
        (without / "manifest.json").write_text(json.dumps(content))
        words = OWN_ENCODER if name == "captions" else ["--conditions", "map"]
        with pytest.raises(ValueError, match=message):
            train(without, words)
    with pytest.raises(ValueError, match="captioned.* has no maps"):
        train(mapped, ["--conditions", "map", "--validation_codes_dir", str(captioned)], validation_fraction=0)
    with pytest.raises(ValueError, match="map_tokenizer must be the one that encoded the maps, 'm' with fingerprint"):
        train(mapped, ["--conditions", "map", "--map_tokenizer", str(tokenizers["images"][0])])
    other = write_mapped(tmp_path / "other", tokenizers["images"][1], number=4)
    with pytest.raises(ValueError, match="validation_codes_dir .* holds map codes of another map tokenizer: 'm'"):
        train(mapped, ["--conditions", "map", "--validation_codes_dir", str(other)], validation_fraction=0)


def test_conditions_are_those_of_the_models():
    """Written out a second time, in a file that can be imported at once."""
    assert condition_options.CONDITIONS == CONDITIONS
