# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan demo`: its processes and folders, a quick run from end to end, and (slow) the claims of the full one."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fqgan_hf import FARForImageGeneration, FARPipeline, FQGANModel


pytest.importorskip("sklearn")
pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytest.importorskip("yaml")

from fqgan_hf.demo import run as demo
from fqgan_hf.demo.digit_maps import MAP_LABELS
from fqgan_hf.demo.digits import load_digits
from fqgan_hf.demo.report import copied_share, rounded
from fqgan_hf.evaluation.features import FeatureNetwork


MAP_OUTPUTS = {"map_tokenizer", "map.png"}  # which other demos do not have


def run_demo(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fqgan_hf.cli", "demo", "--output_dir", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("num_views", [1, 2])
def test_copies_of_training_codes_are_counted(num_views, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = torch.arange(32).reshape(4, 2, 2, 2)
    images = known.reshape(-1, num_views * 8).tolist()  # the views of an image are one row
    rows = pa.array(images, pa.list_(pa.uint16(), num_views * 8))
    pq.write_table(pa.table({"codes": rows}), tmp_path / "shard-00000.parquet")
    (tmp_path / "manifest.json").write_text("{}")
    generated = torch.cat([known, known + 1])
    assert copied_share(generated, tmp_path) == 0.5


def test_figures_are_rounded_wherever_they_are():
    assert rounded({"a": [0.123456, {"b": 1.00004}], "c": 7, "d": None}) == {
        "a": [0.1235, {"b": 1.0}],
        "c": 7,
        "d": None,
    }


# ---- Processes and folders ----


def test_a_failed_stage_says_which_and_where_its_log_is(tmp_path, capsys):
    run = demo.Run(tmp_path, seed=0, quick=True)
    log = tmp_path / "logs" / "no_such_script.log"
    with pytest.raises(ChildProcessError) as error:
        run.train("no_such_script")  # the quickest way to fail
    assert str(error.value).startswith(f"no_such_script failed with exit status 1, its log is {log}: ")
    assert str(error.value).endswith("No module named fqgan_hf.training.no_such_script")
    assert "No module named" in log.read_text()


def test_a_failing_demo_exits_with_one_line(tmp_path, monkeypatch, capsys):
    from fqgan_hf.cli import main

    monkeypatch.setattr(demo, "QUICK_TOKENIZER", ["--max_train_steps", "-1"])
    assert main(["demo", "--output_dir", str(tmp_path / "demo"), "--quick"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("fqgan demo: error: train_fqgan failed with exit status 1, ")
    assert str(tmp_path / "demo" / "logs" / "train_fqgan.log") in last
    assert not (tmp_path / "demo" / "report.json").exists()


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(FileExistsError, match="not empty, and not from an earlier demo"):
        demo.prepare_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="must be a folder"):
        demo.prepare_folder(tmp_path / "file")
    assert (tmp_path / "data").is_dir()


def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "new"
    demo.prepare_folder(folder)
    (folder / "report.json").touch()
    (folder / "training").mkdir()
    (folder / "notes.txt").touch()
    demo.prepare_folder(folder)
    assert sorted(os.listdir(folder)) == [demo.MARKER, "notes.txt"]


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else True)
    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install 'fqgan-hf\[train\]'"):
        demo.run(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_an_unknown_condition(tmp_path):
    with pytest.raises(ValueError, match="--condition must be one of class, text, map, got 'depth'"):
        demo.run(tmp_path / "demo", condition="depth")
    assert not (tmp_path / "demo").exists()


def test_the_command_offers_the_conditions_that_there_are():
    from fqgan_hf.cli import build_parser

    for name in demo.CONDITIONS:
        assert build_parser().parse_args(["demo", "--condition", name]).condition == name
    assert build_parser().parse_args(["demo"]).condition == "class"


def test_negative_seed(tmp_path):
    with pytest.raises(ValueError, match="--seed must be at least 0, got -1"):
        demo.run(tmp_path / "demo", seed=-1)


# ---- Stages ----


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """From the name of a condition to the scripts of its demo, with their options; nothing is trained."""

    def record(name):
        found = []
        monkeypatch.setattr(
            demo.Run,
            "train",
            lambda self, script, *options, log_name=None: found.append((log_name or script, options)),
        )
        run = demo.Run(tmp_path, seed=5, quick=False)
        demo._train(run, demo.CONDITIONS[name](load_digits()))
        return found, list(run.seconds)

    return record


@pytest.mark.parametrize("name", ["class", "text", "map"])
def test_scripts_take_the_options_that_the_demo_gives_them(name, trainings, tmp_path):
    from fqgan_hf.training import extract_codes, train_far, train_fqgan
    from fqgan_hf.training.common.arguments import parse_arguments
    from fqgan_hf.training.far.condition_options import asked_conditions

    for folder in ("data/train", "training/codes"):
        (tmp_path / folder).mkdir(parents=True)
    found, stages = trainings(name)
    maps = name == "map"
    assert stages == ["tokenizer", *(["map_tokenizer"] if maps else []), "codes", "generator"]
    logs = ["train_fqgan", *([demo.MAP_LOG] if maps else []), "extract_codes", "train_far"]
    assert [log for log, _ in found] == logs  # each of its own
    classes = {
        "train_fqgan": train_fqgan.TrainFQGANArguments,
        demo.MAP_LOG: train_fqgan.TrainFQGANArguments,
        "extract_codes": extract_codes.ExtractCodesArguments,
        "train_far": train_far.TrainFARArguments,
    }
    parsed = {log: parse_arguments(classes[log], list(options)) for log, options in found}
    assert parsed["extract_codes"].caption_column == (["caption"] if name == "text" else None)
    assert parsed["extract_codes"].map_column == ("map" if maps else None)
    assert asked_conditions(parsed["train_far"]) == (name,)
    assert {arguments.seed for log, arguments in parsed.items() if log != "extract_codes"} == {5}
    if maps:
        assert parsed[demo.MAP_LOG].output_dir == parsed["extract_codes"].map_tokenizer
        assert parsed[demo.MAP_LOG].num_labels == len(MAP_LABELS)


# ---- From end to end ----


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick") / "demo"
    result = run_demo(folder, "--quick", "--seed", "3")
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.mark.slow
def test_quick_run_writes_everything(quick):
    folder, result = quick
    assert {path.name for path in folder.iterdir()} == {demo.MARKER, *demo.OUTPUTS} - MAP_OUTPUTS
    report = json.loads((folder / "report.json").read_text())
    assert report["seed"] == 3
    assert report["quick"] is True
    assert report["generator"]["num_images"] == 100
    assert 0 <= report["generator"]["class_consistency"] <= 1
    assert report["tokenizer"]["codes_used"].keys() == {"visual", "semantic"}  # the second one has a teacher
    alone = report["tokenizer"]["each_codebook_alone"]
    assert alone.keys() == {"visual", "semantic"}
    for figures in alone.values():
        assert figures.keys() == {"psnr", "classifier_accuracy", "linear_probe_accuracy"}
        assert figures["linear_probe_accuracy"] > 0.3  # chance is 0.1
    assert "seconds" not in json.dumps(report)
    assert json.loads((folder / "timings.json").read_text())["seconds"].keys() >= {"tokenizer", "generator", "total"}
    for number in range(1, 7):
        assert f"[{number}/6] " in result.stderr
    assert "Traceback" not in result.stderr
    assert "are classified as the class asked for" in result.stdout
    for name in ("reconstruction.png", "samples.png", "losses.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 200


@pytest.mark.slow
def test_quick_models_load_in_hub_form(quick):
    folder, _ = quick
    pipe = FARPipeline.from_pretrained(str(folder / "pipeline"))
    pipe.set_progress_bar_config(disable=True)
    assert pipe(["seven"], generator=torch.Generator().manual_seed(0)).images[0].size == (32, 32)
    tokenizer = FQGANModel.from_pretrained(str(folder / "tokenizer"))
    generator = FARForImageGeneration.from_pretrained(str(folder / "generator"))
    assert tokenizer.fingerprint() == generator.config.tokenizer_fingerprint == pipe.vqmodel.fingerprint()
    for name in ("tokenizer", "generator", "pipeline"):
        assert (folder / name / "README.md").is_file()
        assert list((folder / name).glob("modeling_*.py"))
    assert (folder / "tokenizer" / "preprocessor_config.json").is_file()
    assert tokenizer.config.feature_dims[0] is None
    assert tokenizer.config.feature_dims[1] == FeatureNetwork(folder / "teacher").model.config.hidden_sizes[-1]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report_and_pictures(quick, tmp_path):
    folder, _ = quick
    assert run_demo(tmp_path / "again", "--quick", "--seed", "3").returncode == 0
    for name in ("report.json", "samples.png", "reconstruction.png", "losses.png"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert run_demo(tmp_path / "again", "--quick", "--seed", "4").returncode == 0
    assert (folder / "report.json").read_bytes() != (tmp_path / "again" / "report.json").read_bytes()


@pytest.mark.slow
def test_the_full_demo_keeps_its_promises(tmp_path):
    result = run_demo(tmp_path / "demo")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    tokenizer, generator = report["tokenizer"], report["generator"]
    assert report["quick"] is False
    assert generator["class_consistency"] >= 0.95
    assert report["judge"]["accuracy_on_held_out_digits"] >= 0.98
    assert generator["num_images"] == 500
    assert tokenizer["psnr"] >= 24
    assert all(used >= 128 for used in tokenizer["codes_used"].values())
    assert generator["copies_of_a_training_digit"] <= 0.05


@pytest.fixture(scope="module", params=["text", "map"])
def quick_condition(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "demo"
    result = run_demo(folder, "--quick", "--seed", "3", "--condition", request.param)
    assert result.returncode == 0, result.stderr
    return request.param, folder, result


@pytest.mark.slow
def test_quick_runs_by_caption_and_map_write_everything(quick_condition):
    name, folder, result = quick_condition
    others = set() if name == "map" else MAP_OUTPUTS
    assert {path.name for path in folder.iterdir()} == {demo.MARKER, *demo.OUTPUTS} - others
    report = json.loads((folder / "report.json").read_text())
    figures = report["generator"]
    assert figures["condition"] == name and figures["num_images"] == 100
    assert figures["real_digits"]["class_consistency"] == report["judge"]["accuracy_on_held_out_digits"]
    assert ("map_tokenizer" in report) == (name == "map")
    measures = ["mean_iou"] if name == "map" else ["thickness_consistency", "slant_consistency"]
    for measure in measures:
        assert figures["real_digits"][measure] == 1
        assert 0 <= figures["reconstructions"][measure] < 1
    assert f"[{6 if name == 'text' else 7}/" in result.stderr and "Traceback" not in result.stderr
    pipe = FARPipeline.from_pretrained(str(folder / "pipeline"))
    given = {"prompt": "a bold seven"} if name == "text" else {"map_image": Image.open(folder / "map.png")}
    pipe.set_progress_bar_config(disable=True)
    assert pipe(**given, generator=torch.Generator().manual_seed(0)).images[0].size == (32, 32)
    command = result.stdout.strip().splitlines()[-1].removeprefix("next: fqgan ")
    words = [sys.executable, "-m", "fqgan_hf.cli", *shlex.split(command), "--out", str(folder / "next.png")]
    assert subprocess.run(words, capture_output=True).returncode == 0
    (folder / "next.png").unlink()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report_by_caption_and_map(quick_condition, tmp_path):
    name, folder, _ = quick_condition
    assert run_demo(tmp_path / "again", "--quick", "--seed", "3", "--condition", name).returncode == 0
    for file in ("report.json", "samples.png", "reconstruction.png", "losses.png"):
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
