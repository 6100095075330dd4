# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Hostile command lines and damaged files, drawn by a fixed seed: each ends in a mistake that is named, or in none."""

import copy
import json
import random
import shutil
import time

import pytest
import torch
import yaml

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import finish, is_written, load_rows, shard_name, write_shard
from fqgan_hf.failures import MISTAKES, first_line
from fqgan_hf.files import read_metrics
from fqgan_hf.training import extract_codes, train_code_diffusion, train_far, train_fqgan
from fqgan_hf.training.common.arguments import load_model_config, parse_arguments
from fqgan_hf.training.common.model_config import check_model_config
from fqgan_hf.training.common.resuming import check_resumable, read_checkpoint, recorded_options, tell_changes

from .conftest import GENERATOR, TOKENIZER


NUM_CASES = 120  # of each kind
TEXTS = [
    "", " ", "0", "none", "latest", "nan", "1e999", "\0", "\n", "é☃", "..", "/", "/dev/null", "~", "a" * 5000,
    "/proc/self/mem", "--seed", "-1", "%s%n", "{}", "$HOME", "hf://a/b", "a::b", "[x]", "*", "images", "file", "a/b/c",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2.5, -0.0, 10**30, 10**400, 2**32, float("nan"), float("inf")]
VALUES = [
    None, True, False, *NUMBERS, *TEXTS, "\ud800", [], {}, [1], [None], [[1]], {"a": 1}, {"a": {"b": []}}, ["x", 2],
]  # fmt: skip


@pytest.fixture
def draw() -> random.Random:
    return random.Random(20261124)


@pytest.fixture(autouse=True)
def untouched(tmp_path, monkeypatch):
    """Nothing outside the folder of each case is written or removed, and no case takes long."""
    outside = tmp_path / "outside"
    (outside / "images").mkdir(parents=True)
    (outside / "images" / "a.png").write_bytes(b"?")
    (outside / "file").write_text("mine")
    monkeypatch.chdir(outside)

    def snapshot():
        return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(outside.rglob("*"))}

    before, started = snapshot(), time.process_time()  # not that of its neighbours
    yield
    assert snapshot() == before
    assert time.process_time() - started < 20


def mutate(value, draw: random.Random):
    """A copy with one part removed, replaced, or added."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        action = draw.random()
        if action < 0.2:
            del value[key]
        elif action < 0.35:
            value[key + draw.choice(["", "s", "_"])] = draw.choice(VALUES)
        else:
            value[key] = mutate(value[key], draw) if draw.random() < 0.5 else draw.choice(VALUES)
        return value
    if isinstance(value, list) and value and draw.random() < 0.7:
        value[draw.randrange(len(value))] = mutate(draw.choice(value), draw)
        return value
    return draw.choice(VALUES)


def damage(content: bytes, draw: random.Random) -> bytes:
    """The content of a file after a crash or a careless hand."""
    position = draw.randrange(len(content) + 1)
    return draw.choice([
        content[:position],
        content[:position] + bytes([draw.randrange(256)]) + content[position + 1 :],
        content[:position] + b"\0" * 100 + content[position + 100 :],
        content[position:] + content[:position],
        draw.randbytes(200),
        b"[" * 100_000,
        b"",
    ])  # fmt: skip


def outcome(function, *names: str) -> Exception | None:
    """What a call ends in: nothing, or a mistake in one line that holds one of `names`."""
    try:
        function()
    except MISTAKES as error:
        line = first_line(error)
        assert "\n" not in line and any(name in line for name in names), f"{type(error).__name__}: {line}"
        return error
    return None


def as_json(value) -> bytes:
    return json.dumps(value).encode(errors="surrogatepass")


SCRIPTS = [
    (train_fqgan, train_fqgan.TrainFQGANArguments, ["--train_data_dir", "images", "--output_dir", "out"]),
    (train_far, train_far.TrainFARArguments, ["--codes_dir", "codes", "--output_dir", "out"]),
    (
        train_code_diffusion,
        train_code_diffusion.TrainCodeDiffusionArguments,
        ["--codes_dir", "codes", "--output_dir", "out"],
    ),
    (extract_codes, extract_codes.ExtractCodesArguments, ["--train_data_dir", "images", "--output_dir", "out"]),
]


def test_command_lines(draw, capsys):
    ends = {"usage": 0, "mistake": 0}
    for _ in range(NUM_CASES):
        script, arguments_class, words = draw.choice(SCRIPTS)
        names = draw.sample(list(arguments_class.__dataclass_fields__), 2)
        words = list(words)
        for name in names:
            is_text = "str" in str(arguments_class.__dataclass_fields__[name].type)
            value = draw.choice(TEXTS if is_text or draw.random() < 0.1 else NUMBERS)
            words += [f"--{name}", str(value)] if draw.random() < 0.6 else [f"--{name}={value}"]
        if draw.random() < 0.1:
            words.insert(draw.randrange(len(words)), draw.choice(["--bad", "x", "--", "-x", ""]))

        def run(script=script, arguments_class=arguments_class, words=words):
            script.check(parse_arguments(arguments_class, words))

        try:
            named = [*names, "tokenizer", "codes_dir", "teachers", "resume", "streaming", "hub", "train_data_dir"]
            ends["mistake"] += (
                outcome(run, *named, "dataset_name", "config", "images", "output_dir", "aaa") is not None
            )
        except SystemExit as ending:
            errors = capsys.readouterr().err
            assert ending.code == 2 and errors.count("\n") == 1 and "error: " in errors, (words, errors)
            ends["usage"] += 1
    assert min(ends.values()) > NUM_CASES // 8, ends


def test_yaml_files(draw, tmp_path):
    path = tmp_path / "run.yaml"
    options = {
        "learning_rate": 1e-4,
        "teachers": ["none", "a/b"],
        "use_ema": True,
        "seed": 3,
        "lr_scheduler": "cosine",
    }
    refused = 0
    for _ in range(NUM_CASES):
        content = mutate({**options, draw.choice(["disc_type", "crop", "config"]): draw.choice(VALUES)}, draw)
        text = yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass")
        path.write_bytes(damage(text, draw) if draw.random() < 0.4 else text)
        words = ["--train_data_dir", "images", "--output_dir", "out", "--config", str(path)]

        def run(words=words):
            parse_arguments(train_fqgan.TrainFQGANArguments, words)

        refused += outcome(run, "run.yaml", *train_fqgan.TrainFQGANArguments.__dataclass_fields__) is not None
    assert refused > NUM_CASES // 2


@pytest.mark.parametrize(("config", "kind"), [(TOKENIZER, "FQGANModel"), (GENERATOR, "FARForImageGeneration")])
def test_model_configurations(config, kind, draw, tmp_path):
    path = tmp_path / "config.json"
    refused = 0
    for _ in range(NUM_CASES):
        path.write_bytes(damage(as_json(config), draw) if draw.random() < 0.3 else as_json(mutate(config, draw)))

        def run():
            check_model_config(load_model_config(str(path)), kind)

        refused += outcome(run, "config.json", "model_config_name_or_path") is not None
    assert refused > NUM_CASES // 2


def test_manifests_of_codes(draw, manifest, tmp_path, cache_dir):
    folder = tmp_path / "codes"
    write_store(folder, manifest)
    whole = (folder / "manifest.json").read_bytes()
    loaded = 0
    for _ in range(NUM_CASES):
        content = as_json(mutate(json.loads(whole), draw)) if draw.random() < 0.7 else damage(whole, draw)
        (folder / "manifest.json").write_bytes(content)

        def run():
            nonlocal loaded
            load_rows(folder, CodesManifest.load(folder), str(cache_dir))
            loaded += 1

        outcome(run, "manifest.json", "shard-0000")
    assert loaded < NUM_CASES // 3, "what is loaded differs from the whole in what does not matter"


def write_store(folder, manifest) -> None:
    folder.mkdir()
    for number, rows in enumerate((4, 4, 2)):
        codes = torch.randint(0, 65536, (rows, *manifest.shape))
        write_shard(folder / shard_name(number), manifest, [str(i) for i in range(rows)], [0] * rows, codes)
    finish(folder, manifest)


def test_shards_of_codes(draw, manifest, tmp_path, cache_dir):
    write_store(tmp_path / "whole", manifest)
    for i in range(NUM_CASES):
        folder = tmp_path / f"codes-{i}"
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / shard_name(draw.randrange(3))
        before = path.read_bytes()
        path.write_bytes(damage(before, draw))
        if path.read_bytes() != before:
            error = outcome(lambda f=folder: load_rows(f, CodesManifest.load(f), str(cache_dir)), path.name)
            assert error is not None
        outcome(lambda p=path: is_written(p, manifest, 4), path.name)
        shutil.rmtree(folder)


def test_manifests_of_checkpoints(draw, tmp_path):
    args = train_fqgan.TrainFQGANArguments(train_data_dir="images", output_dir="out")
    state = {
        "data": {"source": "images", "fingerprint": "f"}, "options": recorded_options(args), "seed": 0,
        "num_samples": 24, "samples_per_step": 4, "precision": "no", "model": {"codebook_size": 32},
    }  # fmt: skip
    files = {"model.safetensors": {"sha256": "0" * 64, "bytes": 10}}
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    refused = 0
    for _ in range(2 * NUM_CASES):
        saved = {"step": 2, "state": {**state, "ema_optimization_step": 2}, "files": files}
        content = as_json(mutate(saved, draw)) if draw.random() < 0.7 else damage(as_json(saved), draw)
        (folder / "manifest.json").write_bytes(content)

        def run():
            content = read_checkpoint(folder)
            check_resumable(folder, content, state)
            tell_changes(content, args)

        refused += outcome(run, "checkpoint-2") is not None
    assert refused > NUM_CASES // 2


def test_metrics(draw, tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [{"step": step, "epoch": step / 6, "loss/total": 1 / step} for step in range(1, 20)]
    for _ in range(2 * NUM_CASES):
        lines = [as_json(mutate(record, draw) if draw.random() < 0.2 else record) for record in records]
        content = b"\n".join(lines) + b"\n"
        path.write_bytes(damage(content, draw) if draw.random() < 0.7 else content)
        for record in read_metrics(path):
            assert all(isinstance(float(value), float) for value in record.values()) and "step" in record
