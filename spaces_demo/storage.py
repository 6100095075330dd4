# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Files that the page keeps for its visitors: uploads, results, and pictures that are shown while others are made.

Gradio can delete files, too, but stops for good when one comes while it looks, and never forgets the name of one that
is gone.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradio.utils import get_upload_folder
from PIL import Image


if TYPE_CHECKING:
    from guard import Page


KEPT_SECONDS = 3600
REPLACED_SECONDS = 30  # of a picture after the next one was sent: a browser may still be fetching it
SWEEP_SECONDS = 10


class Storage:
    """
    The files of a page, which a thread of its own deletes in time.

    Args:
        page ([`Page`]): Whose components know which files they handed out.
    """

    def __init__(self, page: "Page"):
        self.page = page
        self.lock = threading.Lock()
        self.replaced: dict[str, float] = {}  # partial pictures, and when they are to go
        self.is_closed = threading.Event()

    def start(self) -> None:
        """Begin to delete."""
        threading.Thread(target=self._run, name="storage", daemon=True).start()

    def close(self) -> None:
        """Delete everything, and no more after that."""
        self.is_closed.set()
        self.sweep(age=-1)

    def save(self, pictures: Sequence[Image.Image]) -> list[str]:
        """Pictures as files that the page may show."""
        folder = Path(get_upload_folder()) / uuid.uuid4().hex
        folder.mkdir(parents=True)
        paths = [str(folder / f"{number}.png") for number in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            picture.save(path, compress_level=1)
        return paths

    def replace(self, paths: Sequence[str]) -> None:
        """Others are shown in the place of these."""
        with self.lock:
            self.replaced.update(dict.fromkeys(paths, time.time() + REPLACED_SECONDS))

    def sweep(self, age: float = KEPT_SECONDS) -> None:
        """
        Delete what is older, but for what components keep.

        Args:
            age (`float`): In seconds; below 0 everything goes.
        """
        with self.lock:
            now = time.time()
            due = {path for path, end in self.replaced.items() if end < now or age < 0}
            self.replaced = {path: end for path, end in self.replaced.items() if path not in due}
        kept = set().union(*(getattr(block, "keep_in_cache", ()) for block in list(self.page.blocks.values())))
        for files in self.page.temp_file_sets:
            for path in list(files):  # a copy: others add to it meanwhile
                if path not in kept and (path in due or _age(path) > age):
                    delete(path)
                    files.discard(path)
        for path in due:
            delete(path)

    def _run(self) -> None:
        while not self.is_closed.wait(SWEEP_SECONDS):
            self.sweep()


def delete(path: str) -> None:
    """A file, and its folder if that is empty then."""
    with contextlib.suppress(OSError):
        os.remove(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _age(path: str) -> float:
    """In seconds; infinite for what is gone."""
    try:
        return time.time() - os.lstat(path).st_ctime
    except OSError:
        return float("inf")
