# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From the Hub to a folder: `fqgan pull` from Python.

pull_folder("org/digits", "models/digits")      the second time, what has changed
"""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fqgan_hf.failures import first_line
from fqgan_hf.files import check_writable, read_json, staged_folder, write_json
from fqgan_hf.hub.kinds import kind_in_config
from fqgan_hf.hub.push import check_names
from fqgan_hf.hub.variants import variant_of, variants_among


if TYPE_CHECKING:
    from huggingface_hub import HfApi

RECORD = ".fqgan-pull.json"  # in the folder: what is in it, and where it comes from
CONFIGS = ("model_index.json", "config.json")


@dataclass(frozen=True)
class Pulled:
    """
    What a folder was filled with.

    Args:
        repo_id (`str`): The repository.
        revision (`str`): Its commit.
        variant (`str`, *optional*): Of the weights.
        files (`list[str]`): Paths in the folder.
    """

    repo_id: str
    revision: str
    variant: str | None
    files: list[str]


def pull_folder(
    repo_id: str,
    directory: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
) -> Pulled:
    """
    Bring a model or a pipeline from the Hub into a folder, all of its files or none.

    A second call for the same repository brings the folder up to date, also to another revision or variant: files
    that are gone from the repository go, those that were put there by others stay.

    Args:
        repo_id (`str`): "org/name".
        directory (`str` or `Path`): New, empty, or filled by an earlier call for the same repository.
        revision (`str`, *optional*): Branch, tag or commit. Default: the main branch.
        variant (`str`, *optional*): The weights to bring, such as "bf16". Default: those without a variant.
        token (`str` or `bool`, *optional*): Default: the stored one.

    Returns:
        [`Pulled`]: What came from where.

    Raises:
        ValueError: The repository holds none of our kinds, or has no such weights.
        FileExistsError: The folder holds something else.
        OSError: It cannot be downloaded, or not be written.
    """
    from huggingface_hub import HfApi

    directory = Path(directory).expanduser()
    check_names(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"repo_id must be of the form user/name, got {repo_id!r}")
    earlier = _earlier(directory, repo_id)
    check_writable(directory / RECORD)
    api = HfApi(token=token)
    try:
        info = api.model_info(repo_id, revision=revision)
        names = [file.rfilename for file in info.siblings or ()]
        _check_kind(api, repo_id, info.sha, names)
        wanted = _chosen(repo_id, names, variant)
        snapshot = Path(
            api.snapshot_download(repo_id, revision=info.sha, allow_patterns=[_literal(n) for n in wanted])
        )
    except (OSError, ValueError) as error:
        if repo_id in str(error):
            raise
        raise OSError(f"{repo_id} cannot be downloaded: {first_line(error)}") from error
    pulled, gone = Pulled(repo_id, info.sha, variant, wanted), sorted(set(earlier) - set(wanted))
    with staged_folder(directory) as staging:
        for name in wanted:
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, staging / name)
        # Until they are removed, what is gone from the repository counts as ours: the next call would remove it.
        write_json(staging / RECORD, {**asdict(pulled), "files": [*wanted, *gone]})
    for name in gone:
        (directory / name).unlink(missing_ok=True)
    write_json(directory / RECORD, asdict(pulled))
    return pulled


def _earlier(directory: Path, repo_id: str) -> list[str]:
    """Files that an earlier call left; `FileExistsError` for a folder that holds something else."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"directory must be a folder, got the file {directory}")
    if not directory.is_dir() or not any(directory.iterdir()):
        return []
    if not (directory / RECORD).is_file():
        raise FileExistsError(f"{directory} is not empty, and not from an earlier pull: choose another folder")
    record = read_json(directory / RECORD)
    if record.get("repo_id") != repo_id:
        raise FileExistsError(f"{directory} holds {record.get('repo_id')!r:.80}, not {repo_id}: choose another folder")
    files = record.get("files")
    is_list = isinstance(files, list) and all(isinstance(name, str) and _is_inside(name) for name in files)
    if not is_list:
        raise ValueError(f"{directory / RECORD} is damaged: files must be paths in the folder, got {files!r:.80}")
    return files


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and name != RECORD


def _check_kind(api: "HfApi", repo_id: str, revision: str, names: list[str]) -> None:
    """Raise `ValueError` for a repository of something that this package does not know."""
    for name in CONFIGS:
        if name in names:
            kind = kind_in_config(read_json(Path(api.hf_hub_download(repo_id, name, revision=revision))))
            if kind is not None and kind.config_file == name:
                return
            raise ValueError(f"{repo_id} holds a model that this package does not know, by its {name}")
    raise ValueError(f"{repo_id} holds neither model_index.json nor config.json: no model, no pipeline")


def _chosen(repo_id: str, names: list[str], variant: str | None) -> list[str]:
    """The files to bring: all but the weights of other variants."""
    there = variants_among(names)
    if (variant or "") not in there:
        known = " and ".join(f"the variant {name}" if name else "those without a variant" for name in there)
        missing = f"of the variant {variant}" if variant else "without a variant"
        raise ValueError(f"{repo_id} has no weights {missing}, it has {known or 'none'}")
    wanted = [name for name in names if variant_of(name) in (None, variant or "")]
    if outside := [name for name in wanted if not _is_inside(name)]:
        raise ValueError(f"{repo_id} has files that would not lie in the folder: {outside[0]!r:.80}")
    return sorted(set(wanted) - {".gitattributes"})


def _literal(name: str) -> str:
    """A pattern that matches a name as it stands."""
    return re.sub(r"([\[*?])", r"[\1]", name)
