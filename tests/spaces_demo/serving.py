# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A Space with a tiny model, in this process or another, and plain HTTP to talk to it."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from PIL import Image

from fqgan_hf import FARPipeline


NAMES = [
    "tench, Tinca tinca",
    "goldfish",
    "golden_retriever",
    "crane",
    "crane",
    *(f"animal {i}" for i in range(5, 10)),
]


def make_pipeline(
    num_codebooks: int = 2,
    size: int | None = 16,
    grid: int = 4,
    hidden_size: int = 32,
    num_layers: int = 2,
    **processor,
) -> FARPipeline:
    torch.manual_seed(num_codebooks)
    taught = (None, 16, 16)[:num_codebooks] if num_codebooks in (2, 3) else None
    return tiny.pipeline(
        num_codebooks,
        tokenizer_settings={"sample_size": 4 * grid, "feature_dims": taught},
        processor_settings={"size": size, **processor},
        grid_height=grid,
        grid_width=grid,
        hidden_size=hidden_size,
        intermediate_size=None,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 16,
        id2label=dict(enumerate(NAMES)),
    )


def make_picture(width: int = 40, height: int = 24, seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


# Arguments of the endpoint generate, in their order.
GOOD = {
    "class_label": 2, "num_images": 2, "guidance_scale": 2.0, "seed": 7, "random_seed": False, "temperature": 1.0,
    "top_k": 0, "top_p": 1.0, "guide_codebooks": False, "guidance_visual": 2.0, "guidance_semantic": 2.0,
}  # fmt: skip


class Handlers:
    """What a page's endpoints do, called directly."""

    def __init__(self, app):
        self.app = app
        self.works = {fn.api_name: fn.fn.__wrapped__ for fn in app.fns.values() if hasattr(fn.fn, "__wrapped__")}

    def call(self, name: str, **given: Any) -> Any:
        """What it comes to in the end."""
        return self.steps(name, **given)[-1]

    def steps(self, name: str, **given: Any) -> list:
        """What it gives meanwhile, too."""
        return list(self.works[name](**given))

    def generate(self, **changes: Any) -> tuple[list, int]:
        return self.call("generate", **{**GOOD, **changes})

    def tokenize(self, picture: Any) -> tuple:
        """Original and reconstruction, decoded pictures, codes on the picture, rows of the table, file of codes."""
        return self.call("tokenize", picture=picture)


class Server:
    """Plain HTTP to a Space, with nothing between that would make a request better than it is."""

    GOOD = tuple(GOOD.values())

    def __init__(self, address: str, seconds: float = 60, app=None):
        self.address = address.rstrip("/")
        self.seconds = seconds
        self.app = app  # the page, if it is in this process

    def request(self, method: str, path: str, body=None, headers: dict | None = None) -> tuple[int, bytes]:
        """Status and content of the answer. A body that is an iterator goes out in chunks, of unknown length."""
        connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=self.seconds)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, content: Any) -> tuple[int, bytes]:
        """JSON, or bytes that claim to be JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.request("POST", path, body, {"Content-Type": "application/json"})

    def call(self, name: str, data: Any) -> Any:
        """The outputs of a call, or `{"error": message}`. NaN and nulls are sent as they are."""
        status, answer = self.post(f"/gradio_api/call/{name}", {"data": data})
        if status != 200:
            return {"error": f"status {status}: {answer.decode()}"}
        return self.result(name, json.loads(answer)["event_id"])

    def result(self, name: str, event: str) -> Any:
        """What a call that was begun comes to."""
        status, answer = self.request("GET", f"/gradio_api/call/{name}/{event}")
        assert status == 200, answer
        lines = answer.decode().strip().splitlines()
        assert lines[-2] in ("event: complete", "event: error"), lines
        return json.loads(lines[-1].removeprefix("data: "))

    def upload(self, *contents: bytes, name: str = "a.png") -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body = b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--\r\n".encode()
        return self.request(
            "POST", "/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        )

    def uploaded(self, content: bytes, name: str = "a.png") -> str:
        """The path that the server gives to an upload."""
        status, answer = self.upload(content, name=name)
        assert status == 200, answer
        return json.loads(answer)[0]

    def is_well(self) -> bool:
        """Whether both calls do what they should."""
        images, seed = self.call("generate", self.GOOD)
        compared, decoded, tokens, table, file = self.call("tokenize", [file_data(self.uploaded(png()))])
        is_tokenized = len(compared) == 2 and len(decoded) == 3 and len(tokens["codes"]) == 2
        return len(images) == 2 and seed == 7 and is_tokenized and len(table["data"]) == 3


def file_data(path: Any, **fields) -> dict:
    """A file as Gradio's own clients send it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


def png(image: Image.Image | None = None) -> bytes:
    data = io.BytesIO()
    (image or make_picture()).save(data, "PNG")
    return data.getvalue()


@contextlib.contextmanager
def started(command: list[str], cwd: Path, port: int, log: Path, **environment):
    """A server in a process of its own, once it answers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Tests in the background of a shell ignore Ctrl-C, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def slowed(pipeline, seconds: float):
    """The model, with a pause at each position and at each decoding; yields a list that grows by each position."""
    steps = []

    def step(*arguments):
        steps.append(time.monotonic())
        time.sleep(seconds)

    hooks = [
        pipeline.transformer.layers[0].register_forward_pre_hook(step),
        pipeline.vqmodel.decoder.conv_in.register_forward_pre_hook(lambda *_: time.sleep(seconds)),
    ]
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()
