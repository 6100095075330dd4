# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Gradio Space to the Hub: `fqgan push-space` from Python.

    push_space("org/digits-demo", "org/digits")
    push_space("org/emoji-demo")                     with the pipeline that comes with this package

The Space's repository holds the app, its requirements and the source of this package; which model it shows is its
variable FQGAN_PIPELINE.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fqgan_hf.failures import first_line
from fqgan_hf.files import read_json, scratch_folder
from fqgan_hf.hub.kinds import kind_in_config
from fqgan_hf.hub.push import PushPlan, check_access, check_names, plan_of, repository, upload_errors
from fqgan_hf.hub.resolve import EMBEDDED_PIPELINE, space_folder


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

VARIABLE = "FQGAN_PIPELINE"  # which spaces_demo/app.py reads
SPACE = {"repo_type": "space"}
OURS = "fqgan_hf/__init__.py"  # by which a Space is known as one of this package
# Of the package, what no Space uses; the app itself lies in the Space's root.
LEFT_OUT = ("training", "demo", "model_cards", "spaces_demo", "modeling")


def push_space(
    repo_id: str,
    model: str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> "CommitInfo | PushPlan":
    """
    Publish the Space, or bring it up to date, in one commit.

    A push that fails leaves no empty Space behind, and the variable as it was. The model of a private repository
    needs a secret `HF_TOKEN` in the Space's settings.

    Args:
        repo_id (`str`): "org/name" of the Space, or "name" for the namespace of the token's owner.
        model (`str`, *optional*):
            "org/name" of what it shows: a pipeline or a tokenizer on the Hub. Default: the pipeline that comes with
            this package goes along.
        private (`bool`, *optional*): For a new Space; None follows the owner's default.
        token (`str` or `bool`, *optional*): Default: the token stored by `hf auth login`.
        commit_message (`str`, *optional*): Default: "Upload the Space".
        dry_run (`bool`): Send nothing, and ask the Hub nothing.

    Returns:
        `huggingface_hub.CommitInfo`: With the commit's address. With `dry_run` a [`PushPlan`], whose card is the
        Space's README.md.

    Raises:
        ValueError: The names are wrong, the model is none that the Space can show, or there is another Space of that
            name.
        OSError: The Hub does not answer.
    """
    from huggingface_hub import HfApi

    check_names(repo_id)
    if model is not None and (not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or Path(model).is_dir()):
        raise ValueError(f"model must be a pipeline or a tokenizer on the Hub, of the form user/name, got {model!r}")
    api = HfApi(token=token)
    if not dry_run:
        check_access(repo_id, token)
        repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        if model is not None:
            _check_model(api, model)
        _check_space(api, repo_id)
    with scratch_folder("push") as folder:
        write_space(folder, model)
        if dry_run:
            return plan_of(folder, repo_id)
        new = repository(api, repo_id, private, space_sdk="gradio", **SPACE)
        with new, _variable(api, repo_id, model), upload_errors(repo_id):
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload the Space",
                delete_patterns=["fqgan_hf/*", "modeling/*", f"{EMBEDDED_PIPELINE}/*"],  # what is gone
                **SPACE,
            )


def write_space(folder: Path, model: str | None = None) -> None:
    """
    Write the files of a Space: the app, its requirements, and this package beside it.

    Args:
        folder (`Path`): Empty.
        model (`str`, *optional*): Hub id of what it shows. Without it, the pipeline that comes with it goes along.
    """
    from huggingface_hub import RepoCard

    import fqgan_hf.modeling

    package = Path(fqgan_hf.__file__).parent
    _copy(space_folder(), folder, () if model is None else (EMBEDDED_PIPELINE,))
    _copy(package, folder / "fqgan_hf", LEFT_OUT)
    _copy(Path(fqgan_hf.modeling.__file__).parent, folder / "fqgan_hf" / "modeling")
    card = RepoCard.load(folder / "README.md")
    if model is not None:
        card.data.models = [model]
        (folder / "README.md").write_text(str(card), encoding="utf-8")


def _copy(source: Path, target: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy the files of a folder, but for what is hidden or compiled and for some of its subfolders."""
    for path in sorted(source.rglob("*")):
        parts = path.relative_to(source).parts
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not is_hidden and parts[0] not in left_out:
            (target / Path(*parts)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / Path(*parts))


def _check_model(api: "HfApi", model: str) -> None:
    """Raise `ValueError` for what the Space could not show."""
    try:
        info = api.model_info(model)
        names = [file.rfilename for file in info.siblings or ()]
        config = next((name for name in ("model_index.json", "config.json") if name in names), None)
        content = read_json(Path(api.hf_hub_download(model, config, revision=info.sha))) if config else {}
    except (OSError, ValueError) as error:
        raise OSError(f"model: {model} is out of reach: {first_line(error)}") from error
    kind = kind_in_config(content)
    if kind is None or kind.role not in ("pipeline", "tokenizer"):
        raise ValueError(
            f"model must be a pipeline or a tokenizer of this package, {model} is {kind or 'something else'}"
        )


def _check_space(api: "HfApi", repo_id: str) -> None:
    """Raise `ValueError` for a Space of that name whose files are somebody's own."""
    if api.repo_exists(repo_id, **SPACE):
        files = set(api.list_repo_files(repo_id, **SPACE)) - {".gitattributes", "README.md"}
        if files and OURS not in files:
            raise ValueError(f"repo_id must be a new Space or one of this package, {repo_id} holds {sorted(files)[0]}")


@contextmanager
def _variable(api: "HfApi", repo_id: str, model: str | None) -> Iterator[None]:
    """Set before the commit, so that the app starts with it; after a failure it is what it was."""
    earlier = api.get_space_variables(repo_id).get(VARIABLE)
    if model is not None:
        description = "The pipeline or tokenizer that the Space shows."
        api.add_space_variable(repo_id, VARIABLE, model, description=description)
    elif earlier is not None:
        api.delete_space_variable(repo_id, VARIABLE)
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what went wrong is to be seen, not that this did, too
            if earlier is not None:
                api.add_space_variable(repo_id, VARIABLE, earlier.value, description=earlier.description)
            elif model is not None:
                api.delete_space_variable(repo_id, VARIABLE)
        raise
