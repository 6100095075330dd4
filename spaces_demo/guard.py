# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What keeps one visitor from harming the others: limits on requests, on files and on the time of a call."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import json
import os
import re
import stat
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.utils import get_function_description, get_upload_folder
from storage import Storage

from fqgan_hf.files import scratch_folder


CALL_SECONDS = 120
MAX_FILE_BYTES = 20 * 1024**2
MAX_CALL_BYTES = 64 * 1024  # of a request that is no upload: a call consists of numbers and a path


def user_error(message: object) -> gr.Error:
    """An error as the visitor sees it: one line, of reasonable length, and no traceback in the log."""
    line = " ".join(str(message).split())
    return gr.Error(line if len(line) <= 300 else line[:297] + "...", print_exception=False)


# ---- Requests -------------------------------------------------------------------------------------------------------

# Gradio's server does more than the page needs: calls around the queue, conversions of recordings, stored pages, ...
ACCEPTED_POSTS = re.compile(r"/gradio_api/(call/.+|queue/join|upload|cancel|reset)/?")
# ... and it fetches any address of the internet for whoever asks.
REFUSED = re.compile(r"/gradio_api/(file[=/]https?:|proxy=|deep_link)")


class BodyTooLongError(Exception):
    """A request's body goes on beyond its limit."""


class Guard:
    """
    Refuses requests that the page does not need or that are too large, before Gradio sees them.

    Args:
        app: The ASGI application behind it.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        if REFUSED.match(path) or (scope["method"] == "POST" and not ACCEPTED_POSTS.fullmatch(path)):
            return await refuse(send, 403, "not in use here; POST is for call/, queue/join, upload, cancel and reset")
        limit = MAX_CALL_BYTES + (MAX_FILE_BYTES if path.startswith("/gradio_api/upload") else 0)
        reason = f"the body must have at most {limit:,} bytes here"
        if int(dict(scope["headers"]).get(b"content-length", 0)) > limit:
            return await refuse(send, 413, reason)
        received, has_begun = 0, False  # a body need not announce its length

        async def receive_some():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLongError
            return message

        async def send_unless_too_long(message):
            nonlocal has_begun
            if received <= limit:  # beyond, it is what the application makes of our error
                has_begun = True
                await send(message)

        try:
            await self.app(scope, receive_some, send_unless_too_long)
        except Exception as error:
            if received <= limit:
                accepted = accepted_body(scope["method"], path, error)
                if has_begun or accepted is None:
                    raise
                return await refuse(send, 422, f"the body must be {accepted}")
        if received > limit and not has_begun:
            await refuse(send, 413, reason)


def accepted_body(method: str, path: str, error: Exception) -> str | None:
    """
    What a body has to be, if an error comes from one that nobody checked; None for errors of the server.

    FastAPI repeats a call that is none, and fails at what JSON cannot say, such as NaN. Gradio fails at names of no
    endpoint or argument. Such requests do no more than enter the queue, so that nothing else can fail there.
    """
    if method == "POST" and re.match(r"/gradio_api/(call/|queue/join)", path):
        return "a call of one of the endpoints in /gradio_api/info"
    if method == "POST" and path.startswith("/gradio_api/upload") and isinstance(error, ValueError):
        return "multipart/form-data with files"
    return None


async def refuse(send, status: int, reason: str) -> None:
    """Answer a request with an error in the form of FastAPI's own."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": reason}).encode()})


# ---- Files ----------------------------------------------------------------------------------------------------------


# Components whose value is a file; others of ours say so by their `data_model`.
FILE_COMPONENTS = (gr.Image, gr.File, gr.UploadButton)
MAX_LISTED = 32  # what of a list of choices may be sent


def check_inputs(blocks: list, values: list, uploads: Container[str]) -> list:
    """
    The values of a call as they were sent, except that nothing but its path is left of a file.

    Raises:
        gr.Error: There are too few; or a file was not uploaded, or is sent where none belongs.
    """
    if len(values) < len(blocks):
        names = ", ".join(block.label for block in blocks)
        raise user_error(f"Values are needed for {names}: got {len(values)} of {len(blocks)}")
    return [check_input(block, value, uploads) for block, value in zip(blocks, values, strict=False)]


def check_input(block: Any, value: Any, uploads: Container[str]) -> Any:
    """One value, for a component that takes files, a list of choices, or a single value."""
    if isinstance(block, FILE_COMPONENTS) or getattr(block, "takes_file", False):
        return check_file(block.label, value, uploads)
    is_listed = isinstance(block, gr.CheckboxGroup) and isinstance(value, list) and len(value) <= MAX_LISTED
    if is_listed and not any(isinstance(one, (dict, list)) for one in value):
        return value
    if isinstance(value, (dict, list)):
        kind = "an object" if isinstance(value, dict) else "a list"
        accepted = "a list of choices" if isinstance(block, gr.CheckboxGroup) else "a single value"
        raise user_error(f"{block.label} must be {accepted}, got {kind}")
    return value


def check_file(label: str, value: Any, uploads: Container[str]) -> dict | None:
    """
    What the visitor sent as a file, as Gradio's reference to it; `None` for none.

    All may name any upload, but nobody can guess the name of another's: it holds a hash of the content, salted with a
    secret of this server. Results are not among the uploads, nor is what other programs keep in Gradio's folder.

    Args:
        label (`str`): Of the component that takes it.
        value: Anything.
        uploads (`Container[str]`): The paths that the server gave in answer to uploads.

    Raises:
        gr.Error: It is neither nothing nor an upload.
    """
    if value is None:
        return None
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or path not in uploads:
        raise user_error(
            f"{label} must be a file that was uploaded here within the last hour: upload it again. From a program: "
            'post it to /gradio_api/upload and send {"path": the answer, "meta": {"_type": "gradio.FileData"}}'
        )
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def upload_again(name: str) -> gr.Error:
    return user_error(f"{name} must be an uploaded file of at most {MAX_FILE_BYTES >> 20} MB: upload it again")


def read_upload(path: str, name: str = "The file") -> bytes:
    """
    The content of a file in Gradio's folder for uploads.

    It is opened folder by folder, so that no link leads elsewhere, whatever changes on the disk meanwhile, and without
    waiting for anybody to write into a pipe.

    Args:
        path (`str`): Of the upload.
        name (`str`): What errors call it.

    Raises:
        gr.Error: It is gone, is no regular file in that folder, or is too large.
    """
    root = os.path.abspath(get_upload_folder())
    try:
        digest, name = Path(os.path.abspath(path)).relative_to(root).parts
        with (
            descriptor(root, os.O_DIRECTORY) as folder,
            descriptor(digest, os.O_DIRECTORY | os.O_NOFOLLOW, folder) as folder,
            descriptor(name, os.O_NONBLOCK | os.O_NOFOLLOW, folder) as upload,
        ):
            status = os.fstat(upload)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                raise ValueError
            with open(upload, "rb", closefd=False) as file:
                return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # a ValueError, too: NUL bytes, more or fewer folders
        raise upload_again(name) from error


@contextlib.contextmanager
def descriptor(name: str, flags: int, folder: int | None = None) -> Iterator[int]:
    """A file or folder, opened to be read."""
    number = os.open(name, os.O_RDONLY | flags, dir_fd=folder)
    try:
        yield number
    finally:
        os.close(number)


# ---- Time -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """
    How far a call may go. Plain data, since on ZeroGPU another process asks.

    Args:
        end (`float`): When it must have ended, on the clock of `time.monotonic`.
        wanted (`str`): A file that is there for as long as the visitor waits for the result.
    """

    end: float
    wanted: str

    def check(self) -> None:
        """
        To be called between the steps of the work.

        Raises:
            gr.Error: The call has to end.
        """
        if not os.path.exists(self.wanted):
            raise user_error("Stopped")
        if time.monotonic() > self.end:
            raise user_error(f"Ended: a call may take {CALL_SECONDS} seconds here. Fewer images take less")


# ---- All of it ------------------------------------------------------------------------------------------------------


class Page(gr.Blocks):
    """Blocks behind `Guard`, which take no files but uploads and whose calls end in time, whichever way they came."""

    def __init__(self, **options):
        super().__init__(**options)
        self.worker = ThreadPoolExecutor(1, "model")
        self.scratch = contextlib.ExitStack()
        self.calls = self.scratch.enter_context(scratch_folder("calls"))
        self.storage = Storage(self)

    def bounded(self, work: Callable[..., Iterator], parameters: Mapping[str, str]) -> Callable[..., AsyncIterator]:
        """
        `work` as an async generator function for Gradio, which ends in time and when it is cancelled.

        A thread can't be cancelled: were the generator to leave it behind, the next call would meet it in the model.
        So it tells the thread, and has ended only when that has. Of what `work` yields faster than it is sent on, the
        newest is taken.

        Args:
            work (`Callable`):
                Yields the call's outputs, again and again while they grow. Takes its arguments by name, and the
                keyword `limit`, a [`Limit`] to check.
            parameters (`Mapping[str, str]`): Names of its arguments in the order of the inputs, each with what it is.
        """

        @functools.wraps(work)
        async def call(*values):
            wanted = self.calls / uuid.uuid4().hex
            wanted.touch()
            limit = Limit(time.monotonic() + CALL_SECONDS, str(wanted))
            loop, has_news, newest = asyncio.get_running_loop(), asyncio.Event(), deque(maxlen=1)

            def run() -> None:
                for outputs in work(**dict(zip(parameters, values, strict=True)), limit=limit):
                    newest.append(outputs)
                    loop.call_soon_threadsafe(has_news.set)

            result = loop.run_in_executor(self.worker, contextvars.copy_context().run, run)
            result.add_done_callback(lambda _: has_news.set())
            try:
                while newest or not result.done():
                    await has_news.wait()
                    has_news.clear()
                    if newest:
                        yield newest.pop()
                result.result()  # its error, if there was one
            finally:
                wanted.unlink(missing_ok=True)
                await has_ended(result)

        call.__signature__ = signature_of(parameters)
        call.__doc__ = f"{inspect.getdoc(work)}\n\nArgs:\n" + "\n".join(f"    {k}: {v}" for k, v in parameters.items())
        return call

    async def preprocess_data(self, block_fn, inputs, *arguments, **options):
        # Before Gradio looks at them: what is marked as a file, in any input, it fetches from its address, or takes
        # for one of its own files, to be deleted within the hour; what is not marked it does not check at all.
        inputs = check_inputs(block_fn.inputs, inputs, self.upload_file_set)
        try:
            return await super().preprocess_data(block_fn, inputs, *arguments, **options)
        except InvalidPathError as error:  # Gradio's own check found a link in the place of an upload
            raise upload_again("The file") from error

    def get_api_info(self, *arguments, **options):
        """Gradio's, with what each argument is from the function's docstring."""
        info = super().get_api_info(*arguments, **options)
        for fn in self.fns.values():
            endpoint = info["named_endpoints"].get(f"/{fn.api_name}", {"parameters": []})
            texts = get_function_description(fn.fn)[1] if endpoint["parameters"] else {}
            for parameter in endpoint["parameters"]:
                parameter["python_type"]["description"] = texts.get(parameter["parameter_name"], "")
        return info

    def launch(self, **options):
        """`gr.Blocks.launch` with our limits. It ends what it began, also when it is interrupted at that."""
        # What Starlette unpacks from its `Middleware`: the class, and its arguments after the application.
        middleware = [(Guard, (), {})]
        limits = {
            "max_file_size": MAX_FILE_BYTES,
            # Each takes 0.2 MB, and anybody may begin as many as they like; nothing is kept in them here.
            "state_session_capacity": 64,
            "enable_monitoring": False,
            "run_history": False,
        }
        self.storage.start()
        try:
            return super().launch(app_kwargs={"middleware": middleware}, **limits, **options)
        except BaseException:
            self.close(verbose=False)
            raise

    def block_thread(self) -> None:
        """Wait for Ctrl-C, and let it through, which `gr.Blocks` does not."""
        while self.is_running:
            time.sleep(0.1)

    def close(self, verbose: bool = True) -> None:
        """`gr.Blocks.close`, which also ends what is being computed and deletes what was handed out."""
        self.scratch.close()
        super().close(verbose)
        self.storage.close()


async def has_ended(result: asyncio.Future) -> None:
    """Wait for a future, however often one is told not to."""
    is_cancelled = False
    while not result.done():
        try:
            await asyncio.wait([result])
        except asyncio.CancelledError:
            is_cancelled = True
    if not result.cancelled():
        result.exception()  # asked for in any case, or it would be reported as lost
    if is_cancelled:
        raise asyncio.CancelledError


def signature_of(parameters: Mapping[str, str]) -> inspect.Signature:
    """Of a function that Gradio shows with these arguments; None stands for a file that need not be sent."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in parameters])
