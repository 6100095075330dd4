# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""`fqgan push-space`: the Space is whole, its variable is set, and a failure leaves things as they were."""

import ast
import sys

import pytest
from fresh import run_python
from huggingface_hub import RepoCard

from fqgan_hf.hub.space import write_space


PUSH = ["push-space", "org/space", "--model", "org/digits"]


def put_model(fake, name, files):
    fake.create({"organization": "org", "name": name})
    repository = fake.repositories[f"org/{name}"]
    repository.trees[repository.branches["main"]] = files


@pytest.fixture
def hub_with_models(fake):
    put_model(fake, "digits", {"model_index.json": b'{"_class_name": "FARPipeline"}'})
    put_model(fake, "tokenizer", {"config.json": b'{"_class_name": "FQGANModel"}'})
    put_model(fake, "generator", {"config.json": b'{"model_type": "far"}'})
    put_model(fake, "bert", {"config.json": b'{"model_type": "bert"}'})
    return fake


def test_the_space_is_whole(hub_with_models, done, repository, tmp_path):
    fake = hub_with_models
    listed, pushed = done([*PUSH, "--dry_run"], [*PUSH, "--private"])
    space, (commit,) = fake.spaces["org/space"], fake.commits
    assert space.sdk == "gradio" and space.private and space.variables == {"FQGAN_PIPELINE": "org/digits"}
    files = space.tree("main")[1]
    assert commit.summary == "Upload the Space" and set(commit.added) == set(files)
    assert (
        pushed
        == f"pushed the Space with FQGAN_PIPELINE=org/digits: {fake.url}/org/space/commit/"
        + space.branches["main"]
        + "\n"
    )
    assert all(f"  {name}\n" in listed for name in files) and f"{len(files)} files" in listed
    assert "variable: FQGAN_PIPELINE=org/digits" in listed

    own = {path.name for path in (repository / "spaces_demo").iterdir() if path.is_file()}
    assert own <= set(files) and {"app.py", "page.py", "requirements.txt", "README.md"} <= own
    assert {"fqgan_hf/__init__.py", "fqgan_hf/modeling/modeling_far.py", "fqgan_hf/py.typed"} <= set(files)
    for name in files:
        assert not name.startswith(("fqgan_hf/training/", "fqgan_hf/spaces_demo/")) and "__pycache__" not in name
    data = RepoCard(files["README.md"].decode()).data
    assert (data.models, data.sdk, data.python_version) == (["org/digits"], "gradio", "3.12")
    for name, content in files.items():
        assert name == "README.md" or content == source_of(name, repository).read_bytes()


def test_without_a_model_the_one_of_this_package_goes_along(hub_with_models, done, fqgan, repository):
    fake = hub_with_models
    done(PUSH)
    listed, pushed = done(["push-space", "org/space", "--dry_run"], ["push-space", "org/space"])
    space, embedded = fake.spaces["org/space"], repository / "spaces_demo" / "pipeline"
    files = {f"pipeline/{path.relative_to(embedded)}" for path in embedded.rglob("*") if path.is_file()}
    assert {"pipeline/model_index.json", "pipeline/README.md"} <= files <= set(space.tree("main")[1])
    assert space.variables == {} and "variable: no FQGAN_PIPELINE" in listed and "with no FQGAN_PIPELINE" in pushed
    done(PUSH)
    fake.refuses_commits = True
    assert fqgan(["push-space", "org/space"])[0][0] == 1
    assert space.variables == {"FQGAN_PIPELINE": "org/digits"} and not files & set(space.tree("main")[1])


def source_of(name, repository):
    if name.startswith("fqgan_hf/modeling/"):
        return repository / name.removeprefix("fqgan_hf/")
    return repository / name if name.startswith("fqgan_hf/") else repository / "spaces_demo" / name


def test_the_app_runs_on_what_was_uploaded(repository, tmp_path):
    """From a folder of its own: with the package's source there, and every module that it imports."""
    write_space(tmp_path, "org/digits")
    script = "import sys; sys.path.insert(0, ''); import app, fqgan_hf, fqgan_hf.modeling.modeling_fqgan\n"
    script += "print(fqgan_hf.__file__, fqgan_hf.modeling.__file__); app.main(['--help'])"
    out = run_python(
        script.replace("app.main", "sys.argv[:] = ['app.py']; app.build_parser().parse_args"), {}, tmp_path
    )
    assert out.startswith(f"{tmp_path}/fqgan_hf/__init__.py {tmp_path}/fqgan_hf/modeling/__init__.py")
    assert "FQGAN_PIPELINE" in out
    for path in tmp_path.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            if module and module.startswith("fqgan_hf."):
                place = tmp_path / module.replace(".", "/")
                assert place.with_suffix(".py").is_file() or place.is_dir(), f"{path.name}: {module}"
    assert "fqgan_hf" not in sys.modules or sys.modules["fqgan_hf"].__file__ != str(tmp_path / "fqgan_hf/__init__.py")


def test_a_push_that_fails_leaves_everything_as_it_was(hub_with_models, fqgan, done):
    fake = hub_with_models
    for fault in ("refuses_uploads", "refuses_commits"):
        setattr(fake, fault, True)
        ((status, _, err),) = fqgan(PUSH)
        assert status == 1
        assert err.splitlines()[-1].startswith("fqgan push-space: error: org/space was not changed, the upload failed")
        assert fake.spaces == {}
        setattr(fake, fault, False)
    done(PUSH)
    before = dict(fake.spaces["org/space"].tree("main")[1])
    fake.spaces["org/space"].tree("main")[1]["fqgan_hf/gone.py"] = b""
    fake.spaces["org/space"].tree("main")[1]["notes.txt"] = b"mine"
    fake.refuses_commits = True
    assert fqgan([*PUSH[:-1], "org/tokenizer"])[0][0] == 1
    assert fake.spaces["org/space"].variables == {"FQGAN_PIPELINE": "org/digits"}
    fake.refuses_commits = False
    done([*PUSH[:-1], "org/tokenizer"])
    assert fake.spaces["org/space"].variables == {"FQGAN_PIPELINE": "org/tokenizer"}
    assert fake.commits[-1].deleted == ["fqgan_hf/gone.py"]
    assert set(fake.spaces["org/space"].tree("main")[1]) == {*before, "notes.txt"}


def test_mistakes(hub_with_models, fqgan):
    fake = hub_with_models
    fake.create({"type": "space", "organization": "org", "name": "other", "sdk": "gradio"})
    other = fake.spaces["org/other"]
    other.trees[other.branches["main"]] = {"app.py": b"mine"}
    cases = {
        "model must be a pipeline or a tokenizer on the Hub, of the form user/name, got 'digits'": ["org/s", "digits"],
        "org/generator is FARForImageGeneration": ["org/s", "org/generator"],
        "org/bert is something else": ["org/s", "org/bert"],
        "model: org/nowhere is out of reach": ["org/s", "org/nowhere"],
        "org/other holds app.py": ["org/other", "org/digits"],
        "repo_id must be a name": ["no good", "org/digits"],
        "repo_id must be of tester or org": ["elsewhere/s", "org/digits"],
    }
    answers = fqgan(*(["push-space", space, "--model", model] for space, model in cases.values()))
    for message, (status, out, err) in zip(cases, answers, strict=True):
        assert status == 1 and out == "" and message in err and err.count("\n") == 1, (message, err)
    assert set(fake.spaces) == {"org/other"} and other.variables == {}
