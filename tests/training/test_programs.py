# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The training programs as a user sees them: a mistake is one line, at once, and Ctrl-C ends them."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

import fqgan_hf.training.extract_codes
import fqgan_hf.training.train_far
import fqgan_hf.training.train_fqgan
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.common.arguments import run_script

from .conftest import TOKENIZER


# Runs command lines one after another and says how each ended, and which libraries were imported for it.
EARLY = """
import contextlib, importlib, io, json, sys
from fqgan_hf.training.common.arguments import run_script
for script, words in json.load(sys.stdin):
    module, errors = importlib.import_module(f"fqgan_hf.training.{script}"), io.StringIO()
    sys.argv = [script, *words]
    try:
        with contextlib.redirect_stderr(errors):
            status = run_script(module.main)
    except SystemExit as ending:
        status = ending.code
    print(json.dumps([status, errors.getvalue(), sorted({"torch", "datasets", "diffusers"} & set(sys.modules))]))
"""


def end_early(cases: list[tuple[str, list[str]]], folder: Path) -> list[tuple[int | None, str, list[str]]]:
    """Status, what is on stderr and the libraries that were imported, for each (script, words), run in `folder`."""
    result = subprocess.run(
        [sys.executable, "-c", EARLY], input=json.dumps(cases), capture_output=True, text=True, cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def place(tmp_path, image_folder) -> Path:
    """A working folder with what command lines name."""
    (tmp_path / "images").symlink_to(image_folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    files = {
        "broken.yaml": "learning_rate: [1, 2",
        "fast.yaml": "learning_rate: fast\n",
        "list.yaml": "learning_rate: [1, 2]\n",
        "nested.yaml": "learning_rate: {value: 1}\n",
        "twice.yaml": "seed: 1\nseed: 2\n",
        "number.yaml": "3: 4\n",
        "none.yaml": "teachers: [null]\n",
        "words.yaml": "just words\n",
        "typo.yaml": "train_batchsize: 4\n",
        "itself.yaml": "config: other.yaml\n",
        "broken.json": '{"codebook_size": ',
        "list.json": "[]",
        "text.json": '{"codebook_size": "16"}',
        "float.json": '{"num_hidden_layers": 2.5}',
        "typo.json": '{"hiden_size": 64}',
        "nan.json": '{"entropy_temperature": NaN}',
        "tuple.json": '{"block_out_channels": [16, "32"]}',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.yaml").write_bytes("output_dir: caf\xe9\n".encode("latin-1"))
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "manifest.json").write_text('{"tokenizer": "t"}')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "far"}')
    return tmp_path


TRAIN, FAR = ["--train_data_dir", "images", "--output_dir", "out"], ["--codes_dir", "codes", "--output_dir", "out"]
EXTRACT = ["--train_data_dir", "images", "--output_dir", "out", "--tokenizer", "a/b"]
WRONG_USAGE = [
    ("train_fqgan", ["--bad"], "unknown option '--bad'"),
    ("train_fqgan", ["--outputdir", "x"], "unknown option '--outputdir', did you mean '--output_dir'?"),
    ("train_far", [*FAR, "--learning_rat=1"], "unknown option '--learning_rat', did you mean '--learning_rate'?"),
    ("train_fqgan", [], "the following arguments are required: --output_dir"),
    ("train_fqgan", [*TRAIN, "images"], "'images' belongs to no option"),
    ("train_fqgan", [*TRAIN, "--learning_rate", "fast"], "--learning_rate.*invalid float value: 'fast'"),
    ("train_fqgan", [*TRAIN, "--seed", "1.5"], "--seed: invalid int value: '1.5'"),
    ("train_fqgan", [*TRAIN, "--lr_scheduler", "steep"], "--lr_scheduler.*invalid choice: 'steep'"),
    ("train_fqgan", [*TRAIN, "--use_ema", "maybe"], "--use_ema"),
    ("train_fqgan", [*TRAIN, "--config"], "--config: expected one argument"),
    ("train_code_diffusion", [*FAR, "--transition", "steep"], "--transition: invalid choice: 'steep'"),
    ("extract_codes", [*EXTRACT, "--crop", "eleven"], "--crop: invalid choice: 'eleven'"),
    ("ablation.ablate", [], "the first word must be one of table3, table4, regvq, got nothing"),
    ("ablation.ablate", ["table3", "--sead", "1"], "unknown option '--sead', did you mean '--seeds'?"),
]
MISTAKES = [
    ("train_fqgan", ["--output_dir", "out"], "exactly one of --train_data_dir and --dataset_name must be given"),
    (
        "train_fqgan",
        ["--train_data_dir", "nowhere", "--output_dir", "out"],
        "train_data_dir must be a folder, got 'no",
    ),
    ("train_fqgan", ["--train_data_dir", "hf://a/b", "--output_dir", "out"], "train_data_dir must be a folder, got"),
    ("train_fqgan", ["--train_data_dir", "empty", "--output_dir", "out"], "got the empty folder"),
    (
        "train_fqgan",
        ["--dataset_name", "no/such/place", "--output_dir", "out"],
        "dataset_name must be a folder or a d",
    ),
    ("train_fqgan", ["--train_data_dir", "images", "--output_dir", ""], "output_dir must be a text that is not empty"),
    (
        "train_fqgan",
        ["--train_data_dir", "images", "--output_dir", "file"],
        "output_dir must be a folder, got the fil",
    ),
    (
        "train_fqgan",
        ["--train_data_dir", "images", "--output_dir", "file/x"],
        "output_dir: file/x/metrics.jsonl cannot",
    ),
    (
        "train_fqgan",
        ["--train_data_dir", "images", "--output_dir", "/proc/x"],
        "output_dir: /proc/x/.* cannot be writ",
    ),
    ("train_fqgan", [*TRAIN, "--seed", "-1"], r"seed must be in \[0, 4294967295\], got -1"),
    ("train_fqgan", [*TRAIN, "--seed", "4294967296"], r"seed must be in \[0, 4294967295\], got 4294967296"),
    ("train_far", [*FAR, "--seed", "4294967296"], r"seed must be in \[0, 4294967295\], got 4294967296"),
    ("train_fqgan", [*TRAIN, "--learning_rate", "nan"], "learning_rate must be finite, got nan"),
    ("train_fqgan", [*TRAIN, "--entropy_weight", "inf"], "entropy_weight must be finite, got inf"),
    ("train_fqgan", [*TRAIN, "--warn_usage", "nan"], "warn_usage must be finite, got nan"),
    ("train_fqgan", [*TRAIN, "--train_batch_size", "0"], "train_batch_size must be at least 1, got 0"),
    ("train_fqgan", [*TRAIN, "--disc_num_layers", "1000000"], "disc_num_layers must be at most 16, got 1000000"),
    ("train_fqgan", [*TRAIN, "--report_to", "wandb"], "report_to='wandb' needs the package wandb|^$"),
    ("train_fqgan", [*TRAIN, "--resume_from_checkpoint", "nowhere"], "must be `latest` or a complete checkpoint"),
    ("train_fqgan", [*TRAIN, "--config", "nowhere.yaml"], "config must be a YAML file or one of the presets"),
    ("train_fqgan", [*TRAIN, "--config", "empty"], "config must be a YAML file or one of the presets"),
    ("train_fqgan", [*TRAIN, "--config", "broken.yaml"], "config broken.yaml cannot be read"),
    ("train_fqgan", [*TRAIN, "--config", "latin.yaml"], "config latin.yaml cannot be read"),
    ("train_fqgan", [*TRAIN, "--config", "twice.yaml"], "config twice.yaml cannot be read: seed is there twice"),
    ("train_fqgan", [*TRAIN, "--config", "fast.yaml"], "config fast.yaml: .*--learning_rate.*invalid float value: 'f"),
    ("train_fqgan", [*TRAIN, "--config", "list.yaml"], r"config list.yaml: learning_rate must be a single value, got"),
    (
        "train_fqgan",
        [*TRAIN, "--config", "nested.yaml"],
        "config nested.yaml: learning_rate must be a value or a list",
    ),
    ("train_fqgan", [*TRAIN, "--config", "number.yaml"], "config number.yaml: unknown option 3"),
    (
        "train_fqgan",
        [*TRAIN, "--config", "none.yaml"],
        "config none.yaml: teachers must be a value or a list of values",
    ),
    ("train_fqgan", [*TRAIN, "--config", "words.yaml"], "config words.yaml must hold a mapping of options to values"),
    ("train_fqgan", [*TRAIN, "--config", "typo.yaml"], "'train_batchsize', did you mean 'train_batch_size'?"),
    ("train_fqgan", [*TRAIN, "--config", "itself.yaml"], "config itself.yaml: unknown option 'config'"),
    (
        "train_fqgan",
        [*TRAIN, "--model_config_name_or_path", "nowhere.json"],
        "must be a JSON file, got 'nowhere.json'",
    ),
    ("train_fqgan", [*TRAIN, "--model_config_name_or_path", "empty"], "empty/config.json"),
    ("train_fqgan", [*TRAIN, "--model_config_name_or_path", "broken.json"], "broken.json is damaged"),
    (
        "train_fqgan",
        [*TRAIN, "--model_config_name_or_path", "list.json"],
        "list.json must hold a JSON object, got list",
    ),
    (
        "train_fqgan",
        [*TRAIN, "--model_config_name_or_path", "text.json"],
        "codebook_size must be of type int, got '16'",
    ),
    (
        "train_fqgan",
        [*TRAIN, "--model_config_name_or_path", "nan.json"],
        "entropy_temperature must be of type float, g",
    ),
    (
        "train_fqgan",
        [*TRAIN, "--model_config_name_or_path", "tuple.json"],
        r"block_out_channels must be of type tuple",
    ),
    (
        "train_far",
        [*FAR, "--model_config_name_or_path", "float.json"],
        "num_hidden_layers must be of type int, got 2.5",
    ),
    ("train_far", [*FAR, "--model_config_name_or_path", "typo.json"], "no 'hiden_size', did you mean 'hidden_size'?"),
    (
        "train_fqgan",
        [*TRAIN, "--pretrained_model_name_or_path", "file"],
        "pretrained_model_name_or_path must be a fold",
    ),
    (
        "train_fqgan",
        [*TRAIN, "--pretrained_model_name_or_path", "model"],
        "of a FQGANModel, 'model' holds a FARForImag",
    ),
    ("train_fqgan", [*TRAIN, "--perceptual_model", "empty"], "perceptual_model must be a folder with config.json"),
    (
        "train_fqgan",
        [*TRAIN, "--teachers", "none", "clip:/nowhere"],
        "teachers must be a folder or the name of a Hub re",
    ),
    ("train_fqgan", [*TRAIN, "--push_to_hub"], "push_to_hub needs --hub_model_id"),
    (
        "train_far",
        ["--codes_dir", "nowhere", "--output_dir", "out"],
        "codes_dir must be a folder written by extract_co",
    ),
    ("train_far", FAR, "codes/manifest.json is not a manifest of codes: see tokenizer_fingerprint"),
    ("train_far", ["--output_dir", "out"], "exactly one of --codes_dir and --on_the_fly must be given"),
    ("train_far", [*FAR, "--conditions", "text"], "the condition text needs --text_encoder or --train_text_encoder"),
    ("train_far", [*FAR, "--conditions", "map", "words"], "conditions must be some of class, text, map, each once"),
    ("train_code_diffusion", FAR, "codes/manifest.json is not a manifest of codes: see tokenizer_fingerprint"),
    ("train_code_diffusion", [*FAR, "--gamma_cum_end", "2"], r"gamma_cum_end must be in \(0, 1\), got 2.0"),
    (
        "train_code_diffusion",
        [*FAR, "--pretrained_model_name_or_path", "model"],
        "of a CodeDiffusionTransformer, 'model' holds a FARForImag",
    ),
    (
        "extract_codes",
        ["--train_data_dir", "images", "--output_dir", "out", "--tokenizer", "nowhere"],
        "tokenizer must",
    ),
    (
        "extract_codes",
        ["--train_data_dir", "images", "--output_dir", "out", "--tokenizer", "model"],
        "tokenizer must be",
    ),
    (
        "extract_codes",
        ["--train_data_dir", "images", "--output_dir", "file", "--tokenizer", "a/b"],
        "output_dir must be",
    ),
    (
        "ablation.ablate",
        ["table3", "--dataset", "/nowhere", "--feature_extractor", "a/b", "--output_dir", "out"],
        "dataset must",
    ),
    (
        "ablation.ablate",
        ["table3", "--dataset", "a/b", "--feature_extractor", "file", "--output_dir", "out"],
        "feature_extractor",
    ),
    (
        "ablation.ablate",
        ["table3", "--dataset", "a/b", "--feature_extractor", "a/b", "--output_dir", "file"],
        "output_dir must b",
    ),
]


@pytest.mark.parametrize(("cases", "status"), [(WRONG_USAGE, 2), (MISTAKES, 1)], ids=["wrong usage", "mistakes"])
def test_a_mistake_is_one_line_before_any_library(cases, status, place):
    before = sorted(place.rglob("*"))
    ends = end_early([(script, words) for script, words, _ in cases], place)
    for (script, words, message), (found, errors, libraries) in zip(cases, ends, strict=True):
        case, name = f"{script} {' '.join(words)}\n{errors}", script.rpartition(".")[2]
        assert found == status and errors.count("\n") == 1 and errors.startswith(f"{name}: error: "), case
        assert re.search(message, errors), case
        assert not libraries, case
    assert sorted(place.rglob("*")) == before, "nothing is left behind"


def test_a_program_answers_at_once(tmp_path):
    """As it is started, with everything that Python does before."""
    started = time.monotonic()
    command = [sys.executable, "-m", "fqgan_hf.training.train_fqgan", "--output_dri", "x"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert time.monotonic() - started < 6, "two seconds on an idle machine; with torch it would be eight"
    assert result.returncode == 2
    assert result.stderr == "train_fqgan: error: unknown option '--output_dri', did you mean '--output_dir'?\n"


def test_letters_that_the_terminal_cannot_show(tmp_path):
    """A line all the same, under a locale that knows ASCII only."""
    command = [sys.executable, "-m", "fqgan_hf.training.train_fqgan", "--train_data_dir", "фото", "--output_dir", "ü"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
    assert result.returncode == 1 and result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"train_fqgan: error: train_data_dir must be a folder, got '")


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "fqgan_hf.training.train_far", "--codes_dir", "c", "--output_dir", "o", "--debug"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "FileNotFoundError: codes_dir must be a folder" in result.stderr


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs a script's program in this process; gives its status and the last line on stderr."""

    def run(module, words):
        monkeypatch.setattr(sys, "argv", ["program", *words])
        status = run_script(module.main)
        return status, re.split("[\r\n]", capsys.readouterr().err.rstrip())[-1]

    return run


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    FQGANModel(**TOKENIZER, num_codebooks=2).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_named_also_by_a_worker(num_workers, program, tokenizer_options, tmp_path):
    """What a worker raises comes with its traceback in the message."""
    (tmp_path / "data").mkdir()
    for i in range(4):
        (tmp_path / "data" / f"{i}.png").write_bytes(b"no image")
    words = tokenizer_options(tmp_path / "out", train_data_dir=tmp_path / "data", dataloader_num_workers=num_workers)
    status, line = program(fqgan_hf.training.train_fqgan, words)
    assert status == 1 and re.match(r"train_fqgan: error: image '\d\.png' cannot be read: ", line), line


def test_labels_that_are_missing_are_named(program, tokenizer, cache_dir, to_command, tmp_path):
    """In a test split without labels, as `datasets` has them: -1, or nothing."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format="png")
    png = {"bytes": file.getvalue(), "path": None}
    for name, label in (("minus", -1), ("nothing", None)):
        dataset = datasets.Dataset.from_dict({"image": [png] * 8, "label": [label] * 8}, features=features)
        dataset.to_parquet(tmp_path / name / "data.parquet")
        data = {"train_data_dir": tmp_path / name, "cache_dir": cache_dir, "tokenizer": tokenizer}
        words = to_command({**data, "output_dir": tmp_path / f"codes-{name}"})
        status, line = program(fqgan_hf.training.extract_codes, words)
        assert status == 1 and "has label -1: is this a split without labels?" in line, line
        words = to_command({**data, "output_dir": tmp_path / f"far-{name}", "train_batch_size": 4})
        status, line = program(fqgan_hf.training.train_far, [*words, "--on_the_fly"])
        assert status == 1 and "has label -1: is this a split without labels?" in line, line


def test_models_that_do_not_load_are_named(program, tokenizer, image_folder, to_command, tmp_path):
    """A truncated file of weights, and none."""
    config = json.loads((tokenizer / "config.json").read_text())
    weights = (tokenizer / "diffusion_pytorch_model.safetensors").read_bytes()
    for name, content in (("truncated", weights[: len(weights) // 2]), ("missing", None), ("noise", os.urandom(100))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        if content is not None:
            (tmp_path / name / "diffusion_pytorch_model.safetensors").write_bytes(content)
        options = {"train_data_dir": image_folder, "output_dir": tmp_path / "out", "tokenizer": tmp_path / name}
        status, line = program(fqgan_hf.training.extract_codes, to_command(options))
        assert status == 1, line
        assert line.startswith(
            f"extract_codes: error: tokenizer: '{tmp_path / name}' cannot be loaded as FQGANModel: "
        )


def test_a_configuration_without_a_model_is_named(program, tokenizer_options, tmp_path):
    """Right types, and no network: 15 channels cannot be normalised in 4 groups."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TOKENIZER, "block_out_channels": [8, 15, 16]}))
    status, line = program(
        fqgan_hf.training.train_fqgan, tokenizer_options(tmp_path / "out", model_config_name_or_path=path)
    )
    assert status == 1 and "no model can be built from it" in line, line


# Where the signal meets an `exec` of text, as in the making of a dataclass, Python ends by the signal in spite of the
# exit status. A shell says 130 for both.
INTERRUPTED = (130, -signal.SIGINT)


@pytest.fixture
def interrupted(tokenizer_options, tmp_path):
    """Starts a training that would take hours and interrupts it, as a terminal does: all of its processes."""

    def run(moment, num_workers=0):
        words = tokenizer_options(tmp_path / "out", max_train_steps=10**6, dataloader_num_workers=num_workers)
        command = [sys.executable, "-m", "fqgan_hf.training.train_fqgan", *words]
        log = tmp_path / "log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        moment(tmp_path / "out", log)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(timeout=60), log.read_text()

    return run


@pytest.mark.parametrize("seconds", [0.8, 1.5, 4.0])  # its first 0.3 of a quiet machine are Python's own
def test_ctrl_c_ends_a_program_that_starts(seconds, interrupted):
    """While it parses, while it imports, and while it reads."""
    status, text = interrupted(lambda folder, log: time.sleep(seconds))
    assert status in INTERRUPTED and text.endswith("\ntrain_fqgan: interrupted\n"), text
    assert "Traceback" not in text, text


def test_ctrl_c_ends_a_program_that_trains(interrupted):
    def after_a_step(folder, log):
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").is_file() or not (folder / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    status, text = interrupted(after_a_step, num_workers=2)
    assert status in INTERRUPTED and text.endswith("\ntrain_fqgan: interrupted\n"), text
    assert "Traceback" not in text, text
