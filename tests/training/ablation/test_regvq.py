# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The ablation `regvq`: its arms, the order of its runs, what is never made twice, and the report."""

import json
import shutil

import pytest
from PIL import Image

from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.ablation.ablate import RegVQArguments
from fqgan_hf.training.ablation.ablate import main as ablate
from fqgan_hf.training.ablation.regvq_arms import REGVQ, TABLES, in_order
from fqgan_hf.training.ablation.report import NOTES, Context, rewrite
from fqgan_hf.training.ablation.report_regvq import MORE_QUESTIONS, STEPS, report_regvq
from fqgan_hf.training.common.arguments import load_model_config, parse_arguments
from fqgan_hf.training.fqgan.loss_terms import loss_weights
from fqgan_hf.training.train_fqgan import TrainFQGANArguments


SETTINGS = {
    "data": "shades", "max_train_samples": 14000, "preset": "tokenizer", "max_train_steps": 700,
    "train_batch_size": 64, "learning_rate": 0.002, "feature_extractor": "net", "num_test_images": 2000,
    "tokenizer": {"codebook_size": 1024}, "contrastive_weight": 0.02, "prior_weight": 0.01,
    "perceptual_model": "net", "perceptual_layers": ["embedder"], "perceptual_weight": 0.2,
    "generator_preset": "far", "generator_steps": 450, "generator_batch_size": 64, "num_generated_images": 2000,
    "guidance_scale": 1.75,
}  # fmt: skip


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Options that all runs share: two steps of the smallest networks."""
    folder = tmp_path_factory.mktemp("presets")
    tokenizer = {
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "latent_channels": 8,
        "norm_num_groups": 4,
        "sample_size": 16,
        "num_codebooks": 1,
        "codebook_size": 1024,
        "codebook_dim": 4,
        "adapter_num_layers": 0,
        "adapter_num_heads": 2,
    }
    generator = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "generator.json").write_text(json.dumps({**generator, "num_head_layers": 1}))
    shared = "train_batch_size: 4\nmax_train_steps: 2\ncheckpointing_steps: 1\nlearning_rate: 1e-3\nlogging_steps: 1\n"
    more = "resolution: 16\ndisc_weight: 0\nperceptual_layers: [embedder]\nmax_resize_ratio: 1\n"
    (folder / "tokenizer.yaml").write_text(f"model_config_name_or_path: tokenizer.json\n{shared}{more}")
    (folder / "generator.yaml").write_text(f"model_config_name_or_path: generator.json\n{shared}")
    return folder


@pytest.fixture
def words(words, presets) -> list[str]:
    more = ["--tokenizer_config", str(presets / "tokenizer.yaml"), "--generator_config"]
    return ["regvq", *words, *more, str(presets / "generator.yaml"), "--num_generated_images", "4"]


def records(arms, seeds, **changes):
    """Results made up for the report: a run of each arm and seed, figures that differ by arm and seed."""
    results = []
    for i, arm in enumerate(arms):
        for seed in seeds:
            books = REGVQ[arm].config.get("num_codebooks", 1)
            metrics = {
                "frechet_distance": 50.0 - i + seed / 10,
                "psnr": 20.0 + i / 10,
                "usage": [0.08 if arm == "deterministic" else 1.0] * books,
                "perplexity": [40.0] * books,
                "classifier_accuracy_of_real_images": 0.9,
            }
            if REGVQ[arm].generates:
                metrics |= {"generation_frechet_distance": 90.0 - i, "class_consistency": 0.5}
            seconds = {"training": 60.0, "judging": 6.0}
            run = {"arm": arm, "seed": seed, "date": "2026-01-02", "metrics": metrics, "seconds": seconds}
            results.append({**run, **changes})
    return results


def context(**settings) -> Context:
    return Context({**SETTINGS, **settings}, "train", "test", "a machine", "2026-01-02", "the command")


def table(text: str, heading: str) -> dict[str, list[str]]:
    """Rows of the first table below a heading, by their first cell."""
    lines = text.partition(heading)[2].strip().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name] = cells
    return rows


# ---- Arms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGVQ)
def test_arms_are_what_they_claim(name):
    """A tokenizer and weights that exist, under the published preset; the terms that its name says."""
    arm = REGVQ[name]
    words = ["--output_dir", "o", "--dataset_name", "d", "--config", "cifar10-ablation-regvq", "--teachers", "none"]
    words += [f"--{term}_weight={weight}" for term, weight in arm.weights.items()]
    args = parse_arguments(TrainFQGANArguments, words)
    model = FQGANModel.from_config({**load_model_config(args.model_config_name_or_path), **arm.config})
    weights = loss_weights(args, model.config)
    kind = arm.config.get("quantizer_type", "nearest")
    assert model.downsample_factor == 4 and model.config.sample_size == 32, "8x8 positions"
    assert model.config.num_codebooks * {32: 5, 256: 8, 1024: 10, 4096: 12}[model.config.codebook_size] == (
        {"size-256": 8, "size-4096": 12}.get(name.removesuffix("-prior"), 10)
    )
    assert (model.config.adapter_num_layers == 1) == (model.config.num_codebooks == 2)
    assert (weights.get("prior", 0) > 0) == (kind == "regularized" and "prior" not in arm.weights)
    assert (weights.get("entropy", 0) > 0) == (name in ("nearest-entropy", "dual"))
    assert (args.contrastive_weight > 0, args.pcl_weight > 0) == (name == "contrastive", "pcl" in name)
    assert args.perceptual_weight > 0 and args.disc_weight == 0
    if kind == "regularized":
        assert model.config.token_logits == "linear"
        ratios = {"deterministic": 0, "prior": 0, "mask-0.2": 0.2, "mask-0.6": 0.6, "mask-1.0": 1}
        assert model.config.mask_ratio == (0 if name.startswith("size") else ratios.get(name, 0.4))


def test_the_papers_figures():
    """Zhang et al. 2023, ADE20K: reconstruction FID, PSNR, generation FID; they stand at the steps alone."""
    figures = {name: tuple(arm.paper.values()) for name, arm in REGVQ.items() if arm.paper}
    assert figures == {
        "deterministic": (28.17, 18.89, 38.53),
        "prior": (25.92, 18.98, 36.57),
        "mask": (25.11, 18.56, 35.03),
        "contrastive": (24.21, 18.49, 34.91),
        "pcl": (23.69, 18.44, 34.47),
    }


def test_every_arm_stands_in_a_table():
    assert {name for names in TABLES.values() for name in names} == set(REGVQ)
    for part, names in TABLES.items():
        assert {name for name, arm in REGVQ.items() if arm.part == part} <= set(names)
    asked = [question[:2] for questions in (STEPS, *MORE_QUESTIONS.values()) for question in questions]
    assert {arm for pair in asked for arm in pair} <= set(REGVQ)


def test_order_of_the_runs():
    """Part 1 twice before anything else, one seed of the others before the third one of the claims."""
    runs = in_order(list(REGVQ), [5, 6, 7])
    steps = [name for name, arm in REGVQ.items() if arm.part == 1]
    others = [name for name, arm in REGVQ.items() if arm.part != 1]
    claims = ["deterministic", "prior", "mask", "pcl"]
    expected = [(steps, 5), (steps, 6), (others, 5), (claims, 7), (others, 6)]
    assert runs == [(arm, seed) for arms, seed in expected for arm in arms]
    assert len(set(runs)) == len(runs) == 2 * len(REGVQ) + len(claims)
    assert in_order(["dual", "mask"], [3]) == [("mask", 3), ("dual", 3)]


# ---- The command ------------------------------------------------------------------------------------------------


def test_from_end_to_end(in_this_process, words, tmp_path):
    """A run with a generator and one without; lost outputs are no loss once the report has their figures."""
    ablate([*words, "--arms", "pcl", "size-256", "--seeds", "0"])
    assert [call[0] for call in in_this_process] == ["train_fqgan", "extract_codes", "train_far", "train_fqgan"]
    trained = in_this_process[0]
    assert trained[trained.index("--pcl_weight") + 1] == "0.02"
    assert trained[trained.index("--perceptual_model") + 1].endswith("tiny-net"), "by default the judge"

    content = json.loads((tmp_path / "results" / "regvq.json").read_text())
    runs = {run["arm"]: run["metrics"] for run in content["runs"]}
    assert list(runs) == ["pcl", "size-256"]
    assert runs["pcl"]["codebook_size"] == 1024 and runs["size-256"]["codebook_size"] == 256
    assert runs["pcl"]["generation_frechet_distance"] > 0 and "generation_frechet_distance" not in runs["size-256"]
    assert runs["pcl"]["grid"] == [4, 4]
    text = (tmp_path / "results" / "regvq.md").read_text()
    assert str(tmp_path) not in text + json.dumps(content), "a local path"

    in_this_process.clear()
    shutil.rmtree(tmp_path / "runs")
    ablate([*words, "--arms", "pcl", "size-256", "--seeds", "0"])
    assert in_this_process == []
    ablate([*words, "--arms", "size-256", "--seeds", "1"])
    assert [call[0] for call in in_this_process] == ["train_fqgan"]
    again = json.loads((tmp_path / "results" / "regvq.json").read_text())
    assert [(run["arm"], run["seed"]) for run in again["runs"]] == [("pcl", 0), ("size-256", 0), ("size-256", 1)]
    assert again["runs"][:2] == content["runs"]
    with pytest.raises(ValueError, match=r"max_train_steps was 2 and is now 3.*Choose another --results_dir"):
        ablate([*words, "--arms", "pcl", "--max_train_steps", "3"])


def test_each_finished_run_is_reported_at_once(in_this_process, words, monkeypatch, tmp_path):
    """Nothing of it is lost with a machine that goes away in the middle of the next run."""
    from fqgan_hf.processes import ScriptRunner

    train = ScriptRunner.run

    def run(self, script, words, log):
        if any("size-4096" in word for word in words):
            content = json.loads((tmp_path / "results" / "regvq.json").read_text())
            assert [run["arm"] for run in content["runs"]] == ["size-256"]
        train(self, script, words, log)

    monkeypatch.setattr(ScriptRunner, "run", run)
    ablate([*words, "--arms", "size-256", "size-4096", "--seeds", "0"])
    content = json.loads((tmp_path / "results" / "regvq.json").read_text())
    assert [run["arm"] for run in content["runs"]] == ["size-256", "size-4096"]


def test_options(words):
    defaults = RegVQArguments(dataset="d", output_dir="o", feature_extractor="n")
    assert defaults.parts == [1, 2, 3, 4] and set(defaults.all_arms()) == set(REGVQ)
    for more, message in (
        (["--arms", "both"], r"arms must be among .* got \['both'\]"),
        (["--parts", "1", "5"], r"parts must be among 1, 2, 3 and 4, got \[1, 5\]"),
        (["--num_generated_images", "0"], "num_generated_images must be at least 1, got 0"),
        (["--generator_steps", "0"], "generator_steps must be at least 1, got 0"),
        (["--guidance_scale", "-1"], "guidance_scale must be at least 0, got -1"),
        (["--perceptual_model", "nowhere/at/all"], "perceptual_model"),
        (["--arms", "dual", "--parts", "1", "2"], r"none of the arms \['dual'\] is in parts \[1, 2\]"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            ablate([*words, *more])


@pytest.mark.parametrize("content", ["{}", '{"settings": {}, "runs": 1}', '{"settings": 1, "runs": []}'])
def test_a_damaged_report_is_named(words, content, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "regvq.json").write_text(content)
    with pytest.raises(ValueError, match=r"regvq\.json is damaged: it holds no results of an ablation"):
        ablate([*words, "--arms", "pcl"])


# ---- The report -------------------------------------------------------------------------------------------------


def test_report_of_everything(tmp_path):
    seeds = [0, 1, 2]
    text = "\n".join(report_regvq(tmp_path, context(), records(REGVQ, seeds)))
    steps = table(text, "# Reg-VQ step by step")
    assert set(TABLES[1].values()) < set(steps)
    assert steps["+ prior"] == [
        "49.10 ± 0.10", "20.10 ± 0.00", "100.0 ± 0.0", "40 ± 0", "89.00 ± 0.00", "50.0 ± 0.0",
        "*25.92 / 18.98 / 36.57*", "3",
    ]  # fmt: skip
    assert "8.0 % without and 100.0 % with the prior (seed 0); 8.0 % without" in text
    for part, title in ((2, "Mask ratio"), (3, "Codebook size"), (4, "Two codebooks")):
        assert set(TABLES[part].values()) < set(table(text, f"## {title}"))
    assert table(text, "## Codebook size")["N = 4,096"][4:6] == ["-", "-"], "no generator"
    assert table(text, "## Two codebooks")["Reg-FQ, 2 x 32"][2] == "100.0 ± 0.0 / 100.0 ± 0.0"
    questions = table(text, "**The collapse and its cure.**")
    assert questions["does the prior help?"][:2] == ["**better** by 1.00 ± 0.00 in all 3 seeds", "*better by 2.25*"]
    assert questions["does the mask help, with the prior?"][3] == "*worse by 0.42*", "the paper's PSNR falls"
    assert "The perceptual network is the judge itself" in text and "2303.06424" in text
    with Image.open(tmp_path / "regvq.png") as picture:
        assert picture.width > 500


def test_report_leaves_out_what_is_missing(tmp_path):
    text = "\n".join(report_regvq(tmp_path, context(perceptual_model="other"), records(["prior"], [0])))
    steps = table(text, "# Reg-VQ step by step")
    assert set(steps) == {"tokenizer", "---", "+ prior"} and "±" not in steps["+ prior"][0]
    assert "collapse" not in text and "| question |" not in text
    assert "\n## Setting" in text and text.count("\n## ") == 1
    assert "The perceptual network is the judge itself" not in text


def test_rewriting_keeps_the_notes(tmp_path):
    report_regvq(tmp_path, context(), records(["deterministic", "prior"], [0, 1]))
    path = tmp_path / "regvq.md"
    path.write_text(path.read_text() + "\n## Reading\n")
    before = {suffix: (tmp_path / f"regvq{suffix}").read_bytes() for suffix in (".md", ".json")}
    rewrite(tmp_path / "regvq.json")
    assert {suffix: (tmp_path / f"regvq{suffix}").read_bytes() for suffix in before} == before
    assert path.read_text().endswith(f"{NOTES}\n\n## Reading\n")
