# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Both ablation tables from end to end on generated images: figures, table, what is kept and what is refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.processes import ScriptRunner
from fqgan_hf.training.ablation.ablate import Table3Arguments
from fqgan_hf.training.ablation.ablate import main as ablate
from fqgan_hf.training.ablation.report import NOTES, TABLE3, TABLE4, compare, compare_paper, rewrite, spread
from fqgan_hf.training.ablation.runs import Table, check_same_settings, shown_command


RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.fixture(scope="module")
def presets(tmp_path_factory) -> Path:
    """Options that all runs of a table share."""
    folder = tmp_path_factory.mktemp("presets")
    tokenizer = {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "latent_channels": 8,
        "norm_num_groups": 4,
        "sample_size": 16,
        "codebook_size": 16,
        "codebook_dim": 4,
        "adapter_num_layers": 1,
        "adapter_num_heads": 2,
        "feature_num_layers": 1,
        "feature_num_heads": 2,
    }
    generator = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "generator.json").write_text(json.dumps({**generator, "num_head_layers": 1}))
    shared = "train_batch_size: 4\nmax_train_steps: 2\ncheckpointing_steps: 1\nlearning_rate: 1e-3\nlogging_steps: 1\n"
    more = "resolution: 16\ndisc_weight: 0\nperceptual_weight: 0\nmax_resize_ratio: 1\n"
    (folder / "tokenizer.yaml").write_text(f"model_config_name_or_path: tokenizer.json\n{shared}{more}")
    (folder / "generator.yaml").write_text(f"model_config_name_or_path: generator.json\n{shared}")
    return folder


def test_table3(in_this_process, words, presets, network, tmp_path):
    words = ["table3", *words, "--tokenizer_config", str(presets / "tokenizer.yaml")]
    handler = signal.getsignal(signal.SIGTERM)
    ablate([*words, "--seeds", "0"])
    assert len(in_this_process) == len(TABLE3) and signal.getsignal(signal.SIGTERM) is handler
    markdown = tmp_path / "results" / "table3.md"
    markdown.write_text(markdown.read_text() + "\nA remark of mine.\n")
    ablate([*words, "--seeds", "0", "1", "--arms", "one-n", "factorized"])  # adds a seed to two arms

    trained = [Path(call[call.index("--output_dir") + 1]).parent.name for call in in_this_process]
    assert trained == [f"{arm}-seed0" for arm in TABLE3] + ["one-n-seed1", "factorized-seed1"]
    assert all("--teachers" in call and "--disentanglement_weight" in call for call in in_this_process)

    content = json.loads((tmp_path / "results" / "table3.json").read_text())
    runs = {(run["arm"], run["seed"]): run["metrics"] for run in content["runs"]}
    assert len(runs) == 8
    assert content["settings"]["max_train_steps"] == 2 and content["settings"]["feature_extractor"] == "tiny-net"
    bits = {arm: runs[arm, 0]["bits_per_position"] for arm in TABLE3}
    assert list(bits.values()) == [4, 5, 8, 8, 8, 8]
    for arm, description in TABLE3.items():
        metrics = runs[arm, 0]
        assert metrics["num_images"] == 10
        assert metrics["frechet_distance"] > 0 and metrics["psnr"] > 0
        assert len(metrics["usage"]) == len(metrics["perplexity"]) == description.num_codebooks
        assert (metrics["overlap"] is None) == (description.num_codebooks == 1)
        assert (metrics["training_only_parameters"] > 0) == description.representation
        assert 0 <= metrics["classifier_accuracy"] <= 1
    # Same trunk, decoder and size: the terms of the loss alone tell these from each other.
    assert runs["factorized", 0]["parameters"] == runs["both", 0]["parameters"] > runs["one-n", 0]["parameters"]
    assert runs["factorized", 0]["psnr"] != runs["disentanglement", 0]["psnr"] != runs["both", 0]["psnr"]

    text = markdown.read_text()
    for description in TABLE3.values():
        assert f"| {description.title} |" in text
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "±" in rows[TABLE3["factorized"].title] and "±" not in rows[TABLE3["both"].title]
    verdict = rows["two codebooks of N better than one of N?"]
    assert "(2 seeds: no verdict)" in verdict
    assert "(1 seed: no verdict)" in rows["do both together help?"]
    assert "| *worse by 0.60* |" in rows["does representation learning help?"], "the paper's own difference"
    assert "not the paper's setting" in text and "The teacher of the representation arms is the judge itself" in text
    assert text.endswith(f"{NOTES}\n\nA remark of mine.\n")
    assert str(tmp_path) not in text + json.dumps(content), "a local path"
    with Image.open(tmp_path / "results" / "table3.png") as picture:
        assert picture.width > 500

    with pytest.raises(ValueError, match="max_train_steps was 2 and is now 3"):
        ablate([*words, "--seeds", "0", "--max_train_steps", "3"])


@pytest.mark.slow
def test_table4(in_this_process, words, presets, dataset, network, cache_dir, tmp_path):
    common = ["--dataset_name", str(dataset), "--cache_dir", str(cache_dir)]
    tokenizer = tmp_path / "tokenizer"
    options = [*common, "--config", str(presets / "tokenizer.yaml"), "--output_dir", str(tokenizer)]
    ScriptRunner(1).run("train_fqgan", options, tmp_path / "log")
    in_this_process.clear()
    words = ["table4", *words, "--tokenizer", str(tokenizer), "--generator_config", str(presets / "generator.yaml")]
    words += ["--num_generated_images", "10", "--top_k", "8", "--max_train_samples", "20"]
    ablate([*words, "--seeds", "0"])
    ablate([*words, "--seeds", "0", "1", "--arms", "ar", "linear"])
    scripts = [call[0] for call in in_this_process]
    assert scripts == ["extract_codes"] * 2 + ["train_far"] * 5, "codes once, and each run once"

    content = json.loads((tmp_path / "results" / "table4.json").read_text())
    runs = {(run["arm"], run["seed"]): run["metrics"] for run in content["runs"]}
    assert list(runs) == [("linear", 0), ("linear", 1), ("mlp", 0), ("ar", 0), ("ar", 1)]
    for metrics in runs.values():
        assert metrics["num_images"] == 10 and metrics["frechet_distance"] > 0
        assert set(metrics["class_consistency_by_class"]) == {"bright", "dark"}
        assert len(metrics["validation_loss"]) == 2
        assert metrics["validation_loss_sum"] == pytest.approx(2 * np.log(16), rel=0.2), "two codes of 16, untrained"
    assert runs["linear", 0]["parameters"] < runs["mlp", 0]["parameters"]
    assert content["tokenizer"]["psnr"] > 0
    text = (tmp_path / "results" / "table4.md").read_text()
    for arm in TABLE4.values():
        assert f"| {arm.title} |" in text
    assert "*reconstructions of the test images*" in text and "top-k 8" in text
    assert "the first 20 images of `train`" in text and "10 class-balanced samples" in text
    assert str(tmp_path) not in text + json.dumps(content), "a local path"


def test_a_failed_run_stops_the_ablation_and_is_made_up_for(in_this_process, words, presets, monkeypatch, tmp_path):
    words = ["table3", *words, "--tokenizer_config", str(presets / "tokenizer.yaml"), "--seeds", "0"]
    words += ["--arms", "one-n", "factorized"]
    succeed = ScriptRunner.run

    def fail(self, script, words, log):
        if any("factorized" in word for word in words):
            raise ChildProcessError("the disk is full")
        succeed(self, script, words, log)

    monkeypatch.setattr(ScriptRunner, "run", fail)
    with pytest.raises(ChildProcessError, match="the disk is full"):
        ablate(words)
    text = (tmp_path / "results" / "table3.md").read_text()
    assert TABLE3["one-n"].title in text and f"| {TABLE3['factorized'].title} |" not in text
    monkeypatch.setattr(ScriptRunner, "run", succeed)
    in_this_process.clear()
    ablate(words)
    assert len(in_this_process) == 1
    assert f"| {TABLE3['factorized'].title} |" in (tmp_path / "results" / "table3.md").read_text()


@pytest.mark.parametrize(("name", "date"), [("table3", "2026-11-21"), ("table4", "2026-11-27")])
def test_published_tables_are_what_the_report_writes(name, date, tmp_path):
    """From the JSON beside them, with the date on which they were measured and the notes of a person."""
    published = {suffix: (RESULTS / f"{name}{suffix}").read_bytes() for suffix in (".md", ".json")}
    for suffix, content in published.items():
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    rewrite(tmp_path / f"{name}.json")
    for suffix, content in published.items():
        assert (tmp_path / f"{name}{suffix}").read_bytes() == content, suffix
    table, _, notes = published[".md"].decode().partition(NOTES)
    assert f", {date}; " in table and "## Reading" in notes


@pytest.mark.parametrize("content", ["{}", '{"settings": {}, "runs": []}'])
def test_a_table_of_an_earlier_version_is_refused(content, tmp_path):
    (tmp_path / "table3.json").write_text(content)
    with pytest.raises(ValueError, match=r"table3\.json holds no results of an ablation, or those of an earlier"):
        rewrite(tmp_path / "table3.json")


def test_a_table_has_the_date_of_its_runs():
    args = Table3Arguments(dataset="d", output_dir="o", feature_extractor="n", machine="m")
    for days, when in ((["2026-11-21"], "2026-11-21"), (["2026-11-23", "2026-11-21"], "2026-11-21 to 2026-11-23")):
        table = Table(args, ScriptRunner(1), "c", Path("o"), [], {})
        assert table.context([{"date": day} for day in days]).date == when


def test_the_papers_differences():
    """arXiv 2411.16681, Table 3: rFID 2.00 and 22.21 dB with nothing, 1.73 and 21.61 with representation learning."""
    nothing, representation = TABLE3["factorized"], TABLE3["representation"]
    assert compare_paper(representation, nothing, "rfid") == "better by 0.27"
    assert compare_paper(representation, nothing, "psnr") == "worse by 0.60"
    assert compare_paper(TABLE3["one-2n"], TABLE3["one-n"], "psnr") == "equal"
    assert compare_paper(TABLE4["ar"], TABLE4["linear"], "8192") == "better by 3.16"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"settings": 1, "metrics": {}}', '{"settings": {}, "metrics": {}}']
)
def test_a_damaged_result_is_named(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json (is damaged|must hold|is of an earlier version)"):
        check_same_settings(tmp_path / "result.json", {})


@pytest.mark.slow
def test_a_terminated_ablation_goes_on_where_it_was(words, presets, read_metrics, tmp_path):
    """With real processes: the training ends with the ablation and resumes from its checkpoint."""
    words = ["table3", *words, "--tokenizer_config", str(presets / "tokenizer.yaml")]
    words += ["--seeds", "0", "--arms", "both", "--max_train_steps", "100"]
    command = [sys.executable, "-m", "fqgan_hf.training.ablation.ablate", *words]
    model = tmp_path / "runs" / "table3" / "both-seed0" / "model"
    process = subprocess.Popen(command)
    while not list(model.glob("checkpoint-*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    assert not (model / "config.json").is_file()
    done = len(read_metrics(model))
    time.sleep(1.0)
    assert len(read_metrics(model)) == done, "the training outlived the ablation"
    subprocess.run(command, check=True)
    steps = [record["step"] for record in read_metrics(model) if "loss/total" in record]
    assert steps == list(range(1, 101))
    assert (tmp_path / "results" / "table3.md").is_file()


def test_options(words, capsys):
    assert set(Table3Arguments(dataset="d", output_dir="o", feature_extractor="n").all_arms()) == set(TABLE3)
    for more, message in (
        (["--arms", "two"], r"arms must be among .* got \['two'\]"),
        (["--seeds", "0", "4294967296"], r"seeds must be in \[0, 4294967295\], got 4294967296"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ablate(["table3", *words, *more])
    with pytest.raises(SystemExit, match="2"):
        ablate(["table5"])
    error = "ablate: error: the first word must be one of table3, table4, regvq, got 'table5'\n"
    assert capsys.readouterr().err == error


def test_the_command_shows_no_local_path(tmp_path):
    shown = shown_command(["table3", "--dataset", str(tmp_path / "cifar10"), "--cache_dir", "x", "--seeds", "0", "1"])
    assert shown == "python -m fqgan_hf.training.ablation.ablate table3 --dataset path/to/cifar10 --seeds 0 1"


def test_verdicts_go_by_seed():
    def results(a, b):
        pairs = [("a", seed, value) for seed, value in enumerate(a)] + [("b", seed, v) for seed, v in enumerate(b)]
        return [{"arm": arm, "seed": seed, "metrics": {"m": value}} for arm, seed, value in pairs]

    assert spread([1.0]) == "1.00" and spread([1.0, 3.0], 1) == "2.0 ± 1.4" and spread([]) == "-"
    low, high = [1, 2, 3], [3, 5, 7]
    assert compare(results(low, high), "a", "b", "m", False) == "**better** by 3.00 ± 1.00 in all 3 seeds"
    assert compare(results(low, high), "a", "b", "m", True) == "**worse** by 3.00 ± 1.00 in all 3 seeds"
    assert "**undecided**" in compare(results([1, 2, 9], high), "a", "b", "m", True)
    assert "(2 seeds: no verdict)" in compare(results([1, 2], high), "a", "b", "m", True)
    assert "(1 seed: no verdict)" in compare(results([1], high), "a", "b", "m", True)
    assert compare(results([], [3]), "a", "b", "m", True) == "no common seed"


def test_a_network_that_is_no_classifier_reads_nothing(network, tmp_path):
    from transformers import AutoModel

    classifier = FeatureNetwork(str(network))
    AutoModel.from_pretrained(network).save_pretrained(tmp_path / "base")
    ViTImageProcessor.from_pretrained(network).save_pretrained(tmp_path / "base")
    base = FeatureNetwork(str(tmp_path / "base"))
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "white", "black")]
    found = classifier(images)
    assert (
        found.pooled.shape == (3, 16)
        and found.predictions.shape == (3,)
        and classifier.label_names == ["bright", "dark"]
    )
    without = base(images)
    assert without.predictions is None and base.label_names is None
    torch.testing.assert_close(found.pooled, without.pooled)
