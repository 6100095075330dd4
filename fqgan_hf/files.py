# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Files that are complete or absent, what proves their content, and folders that one run at a time writes to.

    with atomic_path("a.png") as temporary: ...     a file or a folder appears complete, or not at all
    with staged_folder("model") as staging: ...     files are added to a folder, all of them or none
    with locked_folder("run", "trains"): ...        no other process is within

Nothing else in the package gives a file that others may read its name.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


# Written last, beside the files that it lists: without it they are not all there.
MANIFEST = "manifest.json"

# Seconds that a folder's last user is given to end: processes of a run that was killed die a little later.
LOCK_SECONDS = 10


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: str | os.PathLike) -> Iterator[None]:
    """What tells of a disk that is full or read-only becomes an `OSError` that names `path`."""
    try:
        yield
    except Exception as error:
        # safetensors has an error of its own, whose import takes longer than all of this file.
        is_disk = isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
        if not is_disk or "cannot be written" in str(error):
            raise
        raise OSError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary name beside `path`, with its suffix, for a file or a folder that becomes `path` when the block ends.

    After an error nothing of it is left, and `path` is as it was.

    Args:
        path (`str` or `os.PathLike`): Its folder is created if missing.

    Yields:
        `Path`: In a folder of its own, where there is room for intermediate files, too.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    with named_errors(path):
        _refuse_devices(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own: under its own name, and in nobody's way.
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent))
        try:
            temporary = staging / path.name
            yield temporary
            replace_path(temporary, path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def replace_path(finished: Path, path: Path) -> None:
    """
    Flush a file or a folder to the disk, and give it its name.

    A folder that replaces another one leaves a moment between the two, in which there is neither.

    Args:
        finished (`Path`): Complete, on the disk of `path`.
        path (`Path`): What is there is removed.
    """
    for part in (*finished.rglob("*"), finished):
        fsync(part)
    if path.is_dir() and not path.is_symlink():  # a rename replaces files only
        replaced = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=path.parent))
        path.replace(replaced / path.name)
        finished.replace(path)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        finished.replace(path)
    fsync(path.parent)


def check_writable(path: str | os.PathLike) -> None:
    """
    Make sure, before the work for it is done, that a file can be written: by writing one of its name, in a temporary
    folder beside it or, with the folders that are missing, beside the first of those.

    Raises:
        OSError: It cannot; the message names `path`.
    """
    path = Path(path)
    with named_errors(path):
        _refuse_devices(path)
        found = next(folder for folder in path.parents if os.path.lexists(folder))
        if not found.is_dir():
            raise NotADirectoryError(f"{found} is a file")
        with tempfile.TemporaryDirectory(dir=found, prefix=".", suffix=".tmp") as folder:
            trial = Path(folder, path.relative_to(found))
            trial.parent.mkdir(parents=True, exist_ok=True)
            trial.write_bytes(b"\0")


def _refuse_devices(path: Path) -> None:
    """Raise `OSError` for what a rename would replace by a file: /dev/null would be one for everybody."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"{path} is a device or a pipe")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that `path` is the old content or the new, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """
    A JSON object from a file.

    Raises:
        ValueError: It is damaged, or JSON of another kind; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """
    The records of a `metrics.jsonl`: for each line its `step` and figures by name.

    A line that is no record is left out: a run that is killed while it writes leaves a part of one.

    Args:
        path (`str` or `Path`): Where there is no file, there are no records.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [record for line in lines if (record := _metrics_record(line)) is not None]


def _metrics_record(line: str) -> dict[str, float] | None:
    """A line's step and figures, None for what is no whole record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    return record if is_record and all(map(_is_figure, record.values())) else None


def _is_figure(value: Any) -> bool:
    # A whole number too large for a float is none that we wrote.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def publish_files(staging: Path, folder: Path) -> None:
    """
    Move the files of `staging`, subfolders and all, into `folder`, where they replace those of the same names only.

    A reader never sees new weights with an old configuration or the other way round: the configurations, without
    which no loader begins, go first and come last. A folder that is not there yet appears as a whole.

    Args:
        staging (`Path`): On the same disk; gone afterwards.
        folder (`Path`): Created if missing.
    """
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)  # safetensors writes 0600, which another user could not load
        fsync(path)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.chmod(0o755)
        staging.replace(folder)
        fsync(folder.parent)
        return
    targets = {path: folder / path.relative_to(staging) for path in files}
    for path, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            target.unlink(missing_ok=True)
    for path in sorted(files, key=lambda path: (path.suffix == ".json", path)):
        path.replace(targets[path])
    shutil.rmtree(staging)
    for parent in {target.parent for target in targets.values()}:
        fsync(parent)


@contextlib.contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """
    An empty folder on the disk of `folder`, whose files are moved there when the block ends: see `publish_files`.

    After an error nothing of it is left, and `folder` is as it was.

    Args:
        folder (`Path`): Created if missing.
    """
    inside = folder if folder.is_dir() else folder.parent
    inside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=inside) as parent:
        staging = Path(parent, "staged")
        staging.mkdir()
        yield staging
        publish_files(staging, folder)


@contextlib.contextmanager
def locked_folder(folder: Path, purpose: str, while_waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """
    Within this no other process is; the system ends it with the process, however that ends.

    Args:
        folder (`Path`): Created if missing. A file `.lock` stays in it.
        purpose (`str`): What is done there, for the messages: "trains", "samples".
        while_waiting (`Callable`, *optional*): Wait for another process as long as it takes, rather than for some
            seconds, and call this about once a second; what it raises ends the waiting.

    Raises:
        OSError: Another process is within, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=LOCK_SECONDS if while_waiting is None else 1)
        except Timeout:
            if while_waiting is None:
                raise OSError(f"another process {purpose} in {folder} at this moment: choose another folder") from None
            while_waiting()
        except OSError as error:
            raise OSError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """
    A temporary folder; those that killed processes left behind for the same purpose are removed.

    Args:
        purpose (`str`): Part of its name, such as "push".
    """
    from filelock import FileLock, Timeout

    base, prefix = Path(tempfile.gettempdir()), f"fqgan-hf-{purpose}-"
    for left in base.glob(f"{prefix}*/.lock"):
        with contextlib.suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with FileLock(folder / ".lock", timeout=0):
            (folder / "content").mkdir()
            yield folder / "content"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def nameless_file() -> BinaryIO:
    """A file to write to and read from that nobody else sees and that is gone when it is let go."""
    return tempfile.TemporaryFile()
