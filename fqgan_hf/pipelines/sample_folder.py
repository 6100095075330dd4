# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The folder of a sampling run: whose it is, what is missing, and whether what is there is what was written."""

import re
import reprlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fqgan_hf.files import MANIFEST, locked_folder, read_json, remove, sha256, write_json
from fqgan_hf.pipelines.sample_formats import FORMATS
from fqgan_hf.pipelines.sample_run import SamplingRun, digest


SETTINGS = "settings.json"
CANDIDATES = ".candidates"  # of rejection sampling; hidden from readers of the folder


@contextmanager
def claimed_folder(folder: Path, run: SamplingRun, verify: bool = False) -> Iterator[None]:
    """
    The folder of a run, for this run alone: made, or found to hold images of the same run. For one process.

    Args:
        folder (`Path`): Created if missing.
        run (`SamplingRun`): Written there before anything else.
        verify (`bool`): Compare the hashes of all shards with the manifest, where there is one.

    Raises:
        ValueError: It holds images of other settings, which are named, or of unknown ones; it is damaged; or it is a
            file.
        OSError: It cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir must be a folder, got the file {folder}")
    told = []

    def while_waiting() -> None:
        if (found := _found_settings(folder)) is not None:
            _check_same_settings(folder, run, found)
        if not told:
            told.append(True)
            print(f"another process samples into {folder}: waiting for it", file=sys.stderr, flush=True)

    with locked_folder(folder, "samples", while_waiting):
        found = _found_settings(folder)
        if _holds_images(folder):  # settings without an image bind nobody
            _check_same_settings(folder, run, found)
        _remove_leftovers(folder)
        missing = missing_shards(folder, run)
        # What is added to is hashed anew at the end: then is no time to find that it was changed.
        _check_shards(folder, hashes=verify or bool(missing))
        if missing:
            write_json(folder / SETTINGS, run.as_json())
            (folder / MANIFEST).unlink(missing_ok=True)
        yield


def close_folder(folder: Path, run: SamplingRun) -> None:
    """Unless it is there, write the manifest with the hashes of all shards: they are complete. For one process."""
    if not (folder / MANIFEST).exists():
        shards = []
        for number, indices in enumerate(run.shards):
            path = folder / run.shard_name(number)
            shards.append({"file": path.name, "rows": len(indices), **_shard_content(path)})
        write_json(folder / MANIFEST, {**run.as_json(), "shards": shards})
    if run.rejection is not None:
        remove(folder / CANDIDATES)
    (folder / SETTINGS).unlink(missing_ok=True)


def missing_shards(folder: Path, run: SamplingRun) -> list[int]:
    """Numbers of the shards that are still to be written."""
    return [
        number
        for number, indices in enumerate(run.shards)
        if not is_complete(folder / run.shard_name(number), len(indices), run)
    ]


def is_complete(path: Path, num_images: int, run: SamplingRun) -> bool:
    """
    Whether a shard is there with all its images: the last one of a run that asked for fewer may lack some.

    Raises:
        ValueError: It is not what was written.
    """
    if not path.exists():
        return False
    try:
        return FORMATS[run.format].count(path) >= num_images
    except Exception as error:  # zip files and parquet files can be damaged in many ways
        raise ValueError(f"{path} is damaged: {error}; remove it to have it made again") from error


def _holds_images(folder: Path) -> bool:
    """Whether there is something that follows from settings: shards, or candidates for them."""
    return any(folder.glob("shard-*")) or any(folder.glob(f"{CANDIDATES}/part-*"))


def _found_settings(folder: Path) -> dict[str, Any] | None:
    """
    What the images in a folder were made with; None where nothing says so.

    Raises:
        ValueError: A file is damaged, or of something else than `fqgan sample`.
    """
    for name in (SETTINGS, MANIFEST):  # while there are both, the manifest is the older one
        if (folder / name).is_file():
            found = read_json(folder / name)
            if "weights_sha256" not in found:
                raise ValueError(f"output_dir {folder} holds a {name} that is not of `fqgan sample`")
            return found
    return None


def _check_same_settings(folder: Path, run: SamplingRun, found: dict[str, Any] | None) -> None:
    """Raise `ValueError`, with all differences, unless images of `run` may stand beside what was `found`."""
    if found is None:
        if _holds_images(folder):
            raise ValueError(f"output_dir {folder} holds shards but no {SETTINGS}: choose another folder")
        return
    must_be_same = {name: value for name, value in run.as_json().items() if name not in ("model", "num")}
    must_be_same["rejection"] = None if run.rejection is None else run.rejection.must_be_same
    differences = list(_differences(must_be_same, found))
    if run.rejection is not None and found.get("num") != run.num:
        differences.append(f"num was {found.get('num')} and is now {run.num} (which images are best depends on it)")
    elif not isinstance(found.get("num"), int) or found["num"] > run.num:
        differences.append(f"num was {found.get('num')} and is now {run.num} (it may be raised)")
    if differences:
        raise ValueError(
            f"output_dir {folder} holds images of other settings, choose another folder: {'; '.join(differences)}"
        )


def _differences(settings: dict[str, Any], found: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Each of the settings that was found to be another, in words; also those within settings."""
    for name, value in settings.items():
        before = found.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            yield from _differences(value, before, f"{prefix}{name}.")
        elif before != value:
            yield f"{prefix}{name} was {reprlib.repr(before)} and is now {reprlib.repr(value)}"


def _shard_content(path: Path, hashes: bool = True) -> dict[str, Any]:
    """Size and hash of a shard, as the manifest has them; without `hashes` the size alone."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    content = {"bytes": sum(file.stat().st_size for file in files)}
    if hashes:
        content["sha256"] = digest(files, path) if path.is_dir() else sha256(path)
    return content


def _check_shards(folder: Path, hashes: bool) -> None:
    """
    Raise `ValueError` for shards that are there and not what the manifest, if there is one, says was written.

    Args:
        folder (`Path`): Of the run.
        hashes (`bool`): Compare the content, too, which reads all of it.
    """
    if not (folder / MANIFEST).is_file():
        return
    shards = read_json(folder / MANIFEST).get("shards")
    if not isinstance(shards, list) or not all(isinstance(s, dict) and isinstance(s.get("file"), str) for s in shards):
        raise ValueError(f"{folder / MANIFEST} is damaged: it must list the shards")
    damaged = []
    for shard in shards:
        path = folder / Path(shard["file"]).name
        if not path.exists():
            continue
        found = _shard_content(path, hashes)
        if any(shard.get(name, value) != value for name, value in found.items()):
            damaged.append(path.name)
    if damaged:
        raise ValueError(
            f"output_dir {folder} is damaged, these shards are not what was written: {', '.join(damaged[:5])}; "
            "remove them to have them made again"
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove what a run of ours that was killed was writing: of shards, settings and manifest."""
    names = rf"\.((shard|part)-\d{{5,}}(\.\w+)?|{re.escape(SETTINGS)}|{re.escape(MANIFEST)})\.\w+\.tmp"
    for path in (*folder.glob(".*.tmp"), *folder.glob(f"{CANDIDATES}/.*.tmp")):
        if re.fullmatch(names, path.name):
            remove(path)
