# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""To the Hub: everything in one commit, or nothing.

    push_to_hub(model, "org/name")
    push_to_hub(model, "org/name", dry_run=True).files      what would be sent

Importing this file costs nothing: torch, diffusers and the models load with the first call that needs them.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.failures import first_line
from fqgan_hf.files import scratch_folder
from fqgan_hf.hub.card_info import CardInfo
from fqgan_hf.hub.export import export, weight_files_of
from fqgan_hf.hub.kinds import kind_of
from fqgan_hf.hub.self_contained import PATTERNS, check_self_contained
from fqgan_hf.hub.variants import variants_among


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor


@dataclass(frozen=True)
class PushPlan:
    """
    What a push would send.

    Args:
        repo_id (`str`): Where to.
        files (`dict[str, int]`): Bytes of each file, by its path in the repository.
        card (`str`): The model card, "" where the repository's own stays.
    """

    repo_id: str
    files: dict[str, int]
    card: str


def push_to_hub(
    obj: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    card: CardInfo | None = None,
    write_card: bool = True,
    image_processor: "FQGANImageProcessor | None" = None,
    parts: Mapping[str, Any] | None = None,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
    self_contained: bool = False,
    files: Mapping[str, Path] | None = None,
    dry_run: bool = False,
) -> "CommitInfo | PushPlan":
    """
    Publish a model or a pipeline: save, write the card, create the repository, upload everything in one commit.

    Files that an earlier push left behind under other names are deleted in that commit: weights of the same variant
    (one file then, shards now), which loaders would prefer, and the source files of a self-contained pipeline. A push
    that fails leaves no empty repository behind, and no branch that it made.

    Args:
        obj, card, image_processor, parts, variant, max_shard_size, self_contained, files: See [`export`].
        repo_id (`str`): "org/name", or "name" for the namespace of the token's owner.
        private (`bool`, *optional*): For a new repository; None follows the owner's default.
        token (`str` or `bool`, *optional*): Default: the token stored by `hf auth login`.
        commit_message (`str`, *optional*): Default: "Upload <class>".
        revision (`str`, *optional*): Branch to commit to, created if missing.
        create_pr (`bool`): Open a pull request rather than commit.
        write_card (`bool`): False keeps the card that the repository has.
        dry_run (`bool`): Send nothing, and ask the Hub nothing.

    Returns:
        `huggingface_hub.CommitInfo`: With the commit's address. With `dry_run` a [`PushPlan`].

    Raises:
        ValueError: If `obj` can't be exported, or `repo_id` or `revision` is no valid name; nothing has been sent
            then.
        OSError: The upload failed, and nothing has changed on the Hub.
    """
    from huggingface_hub import HfApi

    kind = kind_of(obj)
    check_self_contained(kind, self_contained)
    check_names(repo_id, revision)
    api = HfApi(token=token)
    if "/" not in repo_id and not dry_run:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    there = [] if dry_run else _files_there(api, repo_id, revision)
    variants = variants_among(there)
    with scratch_folder("push") as folder:
        export(
            obj,
            folder,
            repo_id=repo_id,
            card=card,
            write_card=write_card,
            image_processor=image_processor,
            parts=parts,
            variant=variant,
            max_shard_size=max_shard_size,
            self_contained=self_contained,
            files=files,
            card_variant=None if "" in variants else variant,
            card_variants=sorted({*variants, variant or ""} - {""}),
        )
        if dry_run:
            return plan_of(folder, repo_id)
        with repository(api, repo_id, private, revision), upload_errors(repo_id):
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {kind}",
                revision=revision,
                create_pr=create_pr,
                delete_patterns=[*weight_files_of(obj, variant), *PATTERNS],
            )


def check_names(repo_id: str, revision: str | None = None) -> None:
    """
    Raise `ValueError` for what cannot be the name of a repository or of a branch.

    Args:
        repo_id (`str`): "org/name" or "name".
        revision (`str`, *optional*): A branch, or "refs/pr/1".
    """
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(
            f"repo_id must be a name of the form user/name, got {repo_id!r}: {first_line(error)}"
        ) from error
    if revision is None:
        return
    # What git takes for a branch, as `git check-ref-format` has it, in the letters that people use.
    is_branch = re.fullmatch(r"(?!-)[\w.+-]+(/[\w.+-]+)*", revision) and not re.search(
        r"\.\.|\.$|\.lock(/|$)|(^|/)\.", revision
    )
    if not is_branch or re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"revision must be the name of a branch, got {revision!r}")


def check_access(
    repo_id: str,
    token: str | bool | None = None,
    create_pr: bool = False,
    names: tuple[str, str] = ("repo_id", "token"),
) -> None:
    """
    Make sure, before the work for it is done, that the token's owner may write to a repository. Nothing is created.

    A fine-grained token may lack the permission in ways that only the push finds out.

    Args:
        repo_id (`str`): "org/name" or "name".
        token (`str` or `bool`, *optional*): Default: the stored one.
        create_pr (`bool`): A pull request may be opened by anybody.
        names (`tuple[str, str]`): What errors call the repository and the token.

    Raises:
        ValueError: There is no token, or it is not of the repository's owner, or can only read.
        OSError: The Hub does not answer.
    """
    from huggingface_hub import HfApi, get_token

    repo_option, token_option = names
    if not token and get_token() is None:
        raise ValueError(
            f"{token_option} must be given: log in by `hf auth login`, set HF_TOKEN, or pass --{token_option}"
        )
    try:
        account: dict[str, Any] = HfApi(token=token).whoami()
    except Exception as error:  # those of huggingface_hub and of the library that it speaks HTTP with
        raise OSError(f"{repo_id} is out of reach: {first_line(error)}") from error
    owners = [account["name"], *(organisation["name"] for organisation in account.get("orgs", ()))]
    owner = repo_id.rpartition("/")[0]
    if owner and owner not in owners and not create_pr:
        raise ValueError(f"{repo_option} must be of {' or '.join(owners)}, as the token is, got {repo_id!r}")
    access = (account.get("auth") or {}).get("accessToken") or {}
    if access.get("role") == "read":
        raise ValueError(f"{token_option} must have write access, got one that can only read")


def _files_there(api: "HfApi", repo_id: str, revision: str | None) -> list[str]:
    """Names of a repository's files, none where there is no repository."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    with suppress(RevisionNotFoundError, RepositoryNotFoundError):
        return api.list_repo_files(repo_id, revision=revision)
    with suppress(RepositoryNotFoundError):
        return api.list_repo_files(repo_id)  # a new branch begins as the main one is
    return []


def plan_of(folder: Path, repo_id: str) -> PushPlan:
    """What a push of a folder's files would send."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    card = folder / "README.md"
    return PushPlan(repo_id, dict(sorted(sizes.items())), card.read_text("utf-8") if card.is_file() else "")


@contextmanager
def upload_errors(repo_id: str) -> Iterator[None]:
    """Whatever ends an upload becomes an `OSError` that names the repository."""
    try:
        yield
    except Exception as error:  # of huggingface_hub, some of them `RuntimeError`, or of the library that speaks HTTP
        raise OSError(f"{repo_id} was not changed, the upload failed: {first_line(error)}") from error


@contextmanager
def repository(
    api: "HfApi", repo_id: str, private: bool | None, revision: str | None = None, **options: Any
) -> Iterator[None]:
    """
    A repository, and a branch of it, to upload to. What had to be created for it goes again if the upload fails.

    Args:
        api (`HfApi`): With the token.
        repo_id (`str`): "org/name".
        private (`bool`, *optional*): For a new one.
        revision (`str`, *optional*): A branch.
        **options: Of `create_repo`, such as `repo_type`.
    """
    kind = {"repo_type": options.get("repo_type")}
    is_new = not api.repo_exists(repo_id, **kind)
    api.create_repo(repo_id, private=private, exist_ok=True, **options)
    new_branch = None
    try:
        if revision not in (None, "main") and not revision.startswith("refs/"):
            branches = [branch.name for branch in api.list_repo_refs(repo_id, **kind).branches]
            if revision not in branches:
                api.create_branch(repo_id, branch=revision, **kind)
                new_branch = revision
        yield
    except BaseException:
        with suppress(Exception):  # what went wrong is to be seen, not that this did, too
            if is_new and not set(api.list_repo_files(repo_id, **kind)) - {".gitattributes"}:
                api.delete_repo(repo_id, **kind)
            elif new_branch is not None:
                api.delete_branch(repo_id, branch=new_branch, **kind)
        raise
