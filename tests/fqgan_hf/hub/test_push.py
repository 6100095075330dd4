# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan push` and `fqgan pull` against a Hub on this machine: one commit or nothing, and the way back."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny
import torch
from fresh import run_python
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open

from fqgan_hf import CardInfo, FARPipeline, FQGANModel, export
from fqgan_hf.cli import main
from fqgan_hf.hub.publish import find_publication, push_folder
from fqgan_hf.hub.push import check_names
from fqgan_hf.hub.resolve import embedded_pipeline
from fqgan_hf.hub.variants import variant_of


RESULT = {
    "format_version": 1,
    "kind": "reconstruction",
    "figures": {"frechet_distance": 1.5, "psnr": 24.5, "usage": [0.9, 0.8]},
    "protocol": {
        "network": {"name": "judge"},
        "reference": {"source": "digits", "resolution": 16, "num_images": 30},
        "num_images": 30,
    },
    "subject": {},
    "environment": {},
}


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dtypes_of(path):
    with safe_open(path, "pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What `fqgan demo` leaves, of a model that learnt nothing."""
    folder = tmp_path_factory.mktemp("push") / "demo"
    torch.manual_seed(0)
    pipe = tiny.pipeline(2)
    info = CardInfo(title="Digits", training="By hand.", metrics={"PSNR": 20.0}, evaluation_dataset="held-out digits")
    export(pipe, folder / "pipeline", card=info)
    export(pipe.vqmodel, folder / "tokenizer")
    for name in ("samples.png", "reconstruction.png", "losses.png"):
        Image.new("RGB", (16, 16), "red").save(folder / name)
    (folder / "report.json").write_text('{"seed": 0}')
    (folder / "timings.json").write_text('{"seconds": {"total": 164.2}, "cpu_seconds": 185.0}')
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "logs").mkdir()
    return folder


# ---- Push -----------------------------------------------------------------------------------------------------------


def test_a_run_goes_there_in_one_commit_and_comes_back(fake, done, run_folder, tmp_path):
    before = files_of(run_folder)
    push = ["push", run_folder, "org/digits", "--evaluation", run_folder / "result.json", "--license", "mit"]
    listed, _, pulled, again = done([*push, "--dry_run"],
            [*push, "--private", "--message", "Digits"],
            ["pull", "org/digits", "pulled"],
            ["push", "pulled", "org/copy"],
        )  # fmt: skip
    assert files_of(run_folder) == before, "the folder is read only"
    assert [(c.repo_id, c.summary, c.deleted) for c in fake.commits] == [
        ("org/digits", "Digits", []), ("org/copy", "Upload FARPipeline", []),
    ]  # fmt: skip
    files = fake.files("org/digits")
    assert fake.repositories["org/digits"].private and set(fake.commits[0].added) == set(files)
    assert {
        "README.md", "card.json", "model_index.json", "modeling_far.py", "vqmodel/config.json",
        "vqmodel/diffusion_pytorch_model.safetensors", "transformer/model.safetensors", "evaluation/result.json",
        "evaluation/report.json", "images/samples.png", "images/reconstruction.png",
        "image_processor/preprocessor_config.json",
    } <= set(files)  # fmt: skip
    assert not any("losses" in name or "logs" in name for name in files)

    card = files["README.md"].decode()
    assert listed.endswith(f"README.md:\n\n{card}"), "a dry run shows the card that comes"
    shown = dict(line.split()[::-1] for line in listed.split("\n\n")[0].splitlines())
    assert {name: int(size.replace(",", "")) for name, size in shown.items()} == {
        name: len(content) for name, content in files.items()
    }
    assert f"{len(files)} files, " in listed and "would go to org/digits in one commit" in listed
    data = ModelCard(card).data
    assert data.license == "mit"
    assert {(r.metric_name, r.metric_value) for r in data.eval_results} == {
        ("PSNR", 20.0), ("Frechet distance", 1.5), ("PSNR, dB", 24.5), ("codebook usage (0)", 0.9),
        ("codebook usage (1)", 0.8),
    }  # fmt: skip
    for part in (
        "# Digits", "By hand.", "Cost: 164 seconds, training and evaluation together; 185 seconds of processor time.",
        "![samples](images/samples.png)", "![reconstruction](images/reconstruction.png)",
        "([protocol and all figures](evaluation/result.json))", 'FARPipeline.from_pretrained("org/digits")',
    ):  # fmt: skip
        assert part in card

    assert pulled.startswith("pulled holds org/digits at ") and f": {len(files)} files, " in pulled
    here = files_of(tmp_path / "pulled")
    record = json.loads(here.pop(".fqgan-pull.json"))
    assert here == files and record["files"] == sorted(files)
    FARPipeline.from_pretrained(str(tmp_path / "pulled"))
    copied = fake.files("org/copy")
    assert set(copied) == set(files), "what the card shows goes along"
    assert copied["README.md"].decode() == card.replace("org/digits", "org/copy")
    assert {n: c for n, c in copied.items() if n != "README.md"} == {
        n: c for n, c in files.items() if n != "README.md"
    }


@pytest.mark.parametrize("kind", ["far", "diffusion", "pipeline"])
def test_every_kind_of_folder(kind, tmp_path):
    """What a training leaves beside a generator goes along; the weights are what they were."""
    torch.manual_seed(0)
    pipe = tiny.conditional_pipeline("text", "map", kind="far" if kind == "far" else "diffusion", text=None)
    pipe.transformer.to(torch.bfloat16)
    if kind == "pipeline":
        pipe.save_pretrained(str(tmp_path))
    else:
        pipe.transformer.save_pretrained(tmp_path)
        pipe.tokenizer.save_pretrained(tmp_path / "tokenizer")
        if kind == "diffusion":
            pipe.scheduler.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "notes.txt").write_text("mine")
    plan = push_folder(tmp_path, "org/name", dry_run=True)
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} - {"notes.txt"}
    assert there <= set(plan.files) and "notes.txt" not in plan.files
    for name in there:
        if name.endswith(".safetensors"):
            assert plan.files[name] == pytest.approx((tmp_path / name).stat().st_size, abs=64), "no cast"
    assert ("modeling_code_diffusion.py" in plan.files) == (kind != "far")
    assert "text-to-image" in plan.card


def test_variants(fake, fqgan, run_folder, tmp_path):
    """Weights of each type under their names; what loads without a name stays as it was."""
    folder = run_folder / "pipeline"
    answers = fqgan(
        ["push", folder, "org/alone", "--variant", "bf16"],
        ["push", folder, "org/both"],
        ["push", folder, "org/both", "--variant", "bf16", "--max_shard_size", "100KB"],
        ["push", folder, "org/both", "--variant", "bf16"],
        ["pull", "org/both", "both"],
        ["pull", "org/both", "bf16", "--variant", "bf16"],
        ["info", "bf16"],
        ["generate", "--model", "bf16", "--class_labels", "1", "--seed", "0"],
        ["push", "bf16", "org/again"],
        ["pull", "org/alone", "alone"],
        ["pull", "org/both", "both", "--variant", "fp16"],
    )  # fmt: skip
    assert [status for status, _, _ in answers] == [0] * 9 + [1] * 2, answers
    assert "org/alone has no weights without a variant, it has the variant bf16" in answers[-2][2]
    assert (
        "org/both has no weights of the variant fp16, it has those without a variant and the variant" in answers[-1][2]
    )
    assert not (tmp_path / "alone").exists()
    card = fake.files("org/alone")["README.md"].decode()
    assert 'FARPipeline.from_pretrained("org/alone", variant="bf16")' in card
    card = fake.files("org/both")["README.md"].decode()
    assert 'FARPipeline.from_pretrained("org/both")' in card and "also weights in bfloat16" in card
    shards = [name for name in fake.commits[2].added if "bf16-0000" in name]
    assert len(shards) >= 2 and set(shards) <= set(fake.commits[3].deleted)
    weights = {name for name in fake.files("org/both") if name.endswith(".safetensors")}
    assert {variant_of(name) for name in weights} == {"", "bf16"} and len(weights) == 4

    for name, dtype in (("both", {"F32"}), ("bf16", {"BF16"})):
        found = list((tmp_path / name).rglob("*.safetensors"))
        assert len(found) == 2 and set().union(*map(dtypes_of, found)) == dtype
    # The variant's `config.json` must not turn the other weights into bfloat16.
    script = (
        "import transformers, sys\nfor variant in (None, 'bf16'):\n    print(transformers.AutoModel.from_pretrained("
    )
    script += "'org/both', subfolder='transformer', trust_remote_code=True, variant=variant).dtype)"
    found = run_python(script, fake.environment(tmp_path / "loader"), tmp_path)
    assert found.split() == ["torch.float32", "torch.bfloat16"]
    again = {name: len(content) for name, content in fake.files("org/again").items() if "safetensors" in name}
    assert set(again) == {"vqmodel/diffusion_pytorch_model.safetensors", "transformer/model.safetensors"}


def test_branches_and_pull_requests(fake, done, run_folder):
    push = ["push", run_folder / "tokenizer", "org/name"]
    outputs = done(push,
            [*push, "--revision", "release/v2"],
            [*push, "--variant", "bf16", "--create_pr"],
            ["pull", "org/name", "v2", "--revision", "release/v2"],
        )  # fmt: skip
    assert [commit.branch for commit in fake.commits] == ["main", "release/v2", "refs/pr/1"]
    assert outputs[2].strip().endswith("/org/name/discussions/1")
    assert not any("bf16" in name for name in fake.files("org/name"))
    assert any("bf16" in name for name in fake.files("org/name", "refs/pr/1"))


def test_a_push_that_fails_leaves_nothing_and_the_next_succeeds(fake, fqgan, done, run_folder):
    push = ["push", run_folder, "org/name", "--revision", "v2"]
    for fault in ("refuses_uploads", "refuses_commits"):
        setattr(fake, fault, True)
        ((status, _, err),) = fqgan(push)
        assert status == 1
        assert err.splitlines()[-1].startswith("fqgan push: error: org/name was not changed, the upload failed: ")
        assert fake.repositories == {} and fake.commits == []
        setattr(fake, fault, False)
    done(push[:3])
    before = fake.files("org/name")
    fake.refuses_commits = True
    assert fqgan(push)[0][0] == 1
    assert fake.files("org/name") == before and set(fake.repositories["org/name"].branches) == {"main"}
    fake.refuses_commits = False
    done(push)
    assert fake.files("org/name", "v2").keys() == before.keys()


def test_nothing_is_asked_and_sent_by_a_dry_run(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run_folder), "name", "--dry_run", "--variant", "bf16"]) == 0
    out = capsys.readouterr().out
    assert 'FARPipeline.from_pretrained("name", variant="bf16")' in out
    assert "transformer/model.bf16.safetensors" in out and "transformer/model.safetensors" not in out


def test_a_card_of_ones_own_stays(run_folder, tmp_path):
    export(FQGANModel.from_pretrained(run_folder / "tokenizer"), tmp_path)
    (tmp_path / "README.md").write_text("my own words")
    assert "my own words" not in push_folder(tmp_path, "org/name", dry_run=True).card, "card.json says it is generated"
    (tmp_path / "card.json").unlink()
    plan = push_folder(tmp_path, "org/name", dry_run=True)
    assert plan.card == "my own words" and "card.json" not in plan.files
    with pytest.raises(ValueError, match="was not written by this package and would be published as it is"):
        find_publication(tmp_path, license="mit")


def test_mistakes_are_found_before_anything_is_loaded(fake, fqgan, run_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "samples.png").write_bytes((run_folder / "samples.png").read_bytes())
    other = {**RESULT, "subject": {"fingerprint": "0" * 64}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    folder = run_folder / "pipeline"
    cases = {
        "there is no folder": ["nowhere", "org/name"],
        "empty holds neither model_index.json nor config.json": ["empty", "org/name"],
        "repo_id must be a name of the form user/name, got 'no good name'": [folder, "no good name"],
        "revision must be the name of a branch, got 'a..b'": [folder, "org/name", "--revision", "a..b"],
        "invalid choice: 'bf17'": [folder, "org/name", "--variant", "bf17"],
        "dtype must be bfloat16 for the variant bf16": [folder, "o/n", "--variant", "bf16", "--dtype", "float16"],
        "license must be a name as the Hub spells it": [folder, "org/name", "--license", "My Own"],
        "images: there is no file nowhere.png": [folder, "org/name", "--images", "nowhere.png"],
        "images must be PNG files that can be read, got text.png": [folder, "org/name", "--images", "text.png"],
        "images must have different names, got samples.png twice": [run_folder, "o/n", "--images", "samples.png"],
        "must be a result of `fqgan evaluate`": [folder, "o/n", "--evaluation", run_folder / "report.json"],
        "other.json is a result of another tokenizer, with the fingerprint 0000": [
            folder, "org/name", "--evaluation", "other.json",
        ],
        "repo_id must be of tester or org, as the token is": [folder, "elsewhere/name"],
    }  # fmt: skip
    answers = fqgan(*(["push", *words] for words in cases.values()))
    for message, (status, out, err) in zip(cases, answers, strict=True):
        assert status in (1, 2) and out == "" and message in err and err.count("\n") == 1, (message, err)
    fake.token_role = "read"
    assert "token must have write access" in fqgan(["push", folder, "org/name"])[0][2]
    assert fake.repositories == {}


@pytest.mark.parametrize("name", ["main", "v1.0", "feature/a_b-c", "refs/pr/3"])
def test_names_of_branches(name):
    check_names("org/name", name)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a..b", "/a", "a/", "a//b", "a.lock", ".a", "a~1", "0" * 40, "a."])
def test_what_is_no_branch(name):
    with pytest.raises(ValueError, match="revision must be the name of a branch"):
        check_names("org/name", name)


def test_narrow_types_are_refused_where_they_overflow(tmp_path):
    model = tiny.tokenizer()
    with torch.no_grad():
        model.decoder.conv_in.weight[0] = 1e6
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="dtype float16 is too narrow for decoder.conv_in.weight of FQGANModel"):
        push_folder(tmp_path, "org/name", variant="fp16", dry_run=True)


# ---- Pull -----------------------------------------------------------------------------------------------------------


def test_pull_brings_up_to_date_and_keeps_what_is_not_its_own(fake, done, run_folder, tmp_path):
    push = ["push", run_folder / "pipeline", "org/name"]
    done([*push, "--max_shard_size", "100KB"], ["pull", "org/name", "here"])
    assert len(list((tmp_path / "here").rglob("*-of-*"))) >= 4
    (tmp_path / "here" / "notes.txt").write_text("mine")
    first = fake.commits and json.loads((tmp_path / "here" / ".fqgan-pull.json").read_text())["revision"]
    done(push, ["pull", "org/name", "here"])
    here = files_of(tmp_path / "here")
    assert here.pop("notes.txt") == b"mine" and json.loads(here.pop(".fqgan-pull.json"))["revision"] != first
    assert here == fake.files("org/name")
    FARPipeline.from_pretrained(str(tmp_path / "here"))
    done(["pull", "org/name", "here", "--revision", first])
    assert len(list((tmp_path / "here").rglob("*-of-*"))) >= 4, "a commit is pinned"


def test_pull_refuses_what_is_not_ours(fake, fqgan, done, run_folder, tmp_path):
    done(["push", run_folder / "tokenizer", "org/name"])
    files = fake.files("org/name")
    for name, config in (("other", {"config.json": b'{"model_type": "bert"}'}), ("none", {"README.md": b""})):
        fake.create({"organization": "org", "name": name})
        repository = fake.repositories[f"org/{name}"]
        repository.trees[repository.branches["main"]] = {**config, "model.safetensors": b""}
    fake.create({"organization": "org", "name": "evil"})
    repository = fake.repositories["org/evil"]
    repository.trees[repository.branches["main"]] = {**files, "../evil.txt": b""}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    cases = {
        "holds a model that this package does not know, by its config.json": ["org/other", "new"],
        "org/none holds neither model_index.json nor config.json": ["org/none", "new"],
        "org/nowhere": ["org/nowhere", "new"],
        "has files that would not lie in the folder: '../evil.txt'": ["org/evil", "new"],
        "full is not empty, and not from an earlier pull": ["org/name", "full"],
        "directory must be a folder, got the file full/a": ["org/name", "full/a"],
        "repo_id must be of the form user/name, got 'name'": ["name", "new"],
    }
    answers = fqgan(*(["pull", *words] for words in cases.values()))
    for message, (status, out, err) in zip(cases, answers, strict=True):
        assert status == 1 and out == "" and message in err and err.count("\n") == 1, (message, err)
    assert not (tmp_path / "new").exists()
    answers = fqgan(["pull", "org/name", "new"], ["pull", "org/other", "new"])
    assert "new holds 'org/name', not org/other" in answers[1][2]


def test_a_pull_that_fails_leaves_nothing_and_the_next_succeeds(fake, fqgan, done, run_folder, tmp_path, monkeypatch):
    done(["push", run_folder / "pipeline", "org/name"])
    copies = []

    def fail_later(source, target, copy=shutil.copyfile):
        copies.append(source)
        if len(copies) == 5:
            raise OSError(28, "No space left on device")
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("fqgan_hf.hub.pull.shutil.copyfile", fail_later)
        ((status, _, err),) = fqgan(["pull", "org/name", "here"])
    assert status == 1 and "No space left on device" in err
    assert not (tmp_path / "here").exists() and list(tmp_path.glob("*.tmp")) == []
    done(["pull", "org/name", "here"])
    assert set(fake.files("org/name")) < set(files_of(tmp_path / "here"))


PUSH_THAT_IS_KILLED = """
import pathlib, sys, tempfile
from fqgan_hf import FQGANModel, push_to_hub

model = FQGANModel.from_pretrained("tokenizer")
if sys.argv[1:] == ["killed"]:
    import os, signal, huggingface_hub
    huggingface_hub.HfApi.upload_folder = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
push_to_hub(model, "org/name")
print(sorted(path.name for path in pathlib.Path(tempfile.gettempdir()).glob("fqgan-hf-*")))
"""


def test_what_a_killed_push_left_is_tidied_up_by_the_next(fake, tmp_path):
    """The export of a killed push stayed in the temporary folder."""
    tiny.tokenizer().save_pretrained(str(tmp_path / "tokenizer"))
    (tmp_path / "tmp").mkdir()
    environment = {**fake.environment(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", PUSH_THAT_IS_KILLED, "killed"]
    killed = subprocess.run(command, env={**os.environ, **environment}, cwd=tmp_path, capture_output=True)
    assert killed.returncode == -9
    assert len(list((tmp_path / "tmp").glob("fqgan-hf-push-*/content/*.safetensors"))) == 1
    assert run_python(PUSH_THAT_IS_KILLED, environment, tmp_path).split() == ["[]"]
    assert "config.json" in fake.files("org/name")


def test_the_pipeline_of_this_package_goes_with_its_pictures_and_licences():
    publication = find_publication(embedded_pipeline())
    assert set(publication.files) == {"images/samples.png", "LICENSE-noto-emoji.txt", "LICENSE-unicode.txt"}
    assert publication.card.images == ["images/samples.png"] and publication.own_card is None
