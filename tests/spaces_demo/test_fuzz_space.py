# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Hundreds of hostile requests, always the same ones: each is answered soon, and with nothing of the server's own."""

import json
import math
import os
import random
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from serving import Server, file_data, make_picture, png


pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")

NUM_REQUESTS = 400
NUM_REQUESTS_AT_LEAST = 100  # on a machine on which all would take too long
SECONDS = 30
SECONDS_PER_REQUEST = 5

NUMBERS = [
    0, -1, 1, 9, 31, 33, 2**31 - 1, 2**31, 2**63, -(2**63), 10**100, 10**4000, 0.5, -0.0, 1e-320, 1e308,
    math.nan, math.inf, -math.inf, True, False, None,
]  # fmt: skip
TEXTS = [
    "", " ", "0", "-1", "１", "٣", "1e999", "NaN", "nul", "crane", "animal 5", "GOLDFISH\n", "\0", "\x1b[31m",
    "\r\nX: y", "'; DROP TABLE a; --", "<script>alert(1)</script>", "{{7*7}}", "%s%n", "\ud800", "🧩" * 500,
    "\u202egnp.a", "é" * 9000, "__class__", "../" * 40 + "etc/passwd",
]  # fmt: skip
KEYS = ["path", "url", "meta", "_type", "__type__", "value", "orig_name", "is_stream", "size", "image", "", "data"]


class Attacker:
    """
    Makes requests up, from a seed.

    Args:
        paths (`list[str]`): Paths of the server's own files, pipes, ...
        uploaded (`str`): That of a picture which was uploaded.
    """

    def __init__(self, seed: int, paths: list[str], uploaded: str):
        self.random = random.Random(seed)
        self.paths = paths
        self.uploaded = uploaded

    def path(self) -> str:
        path = self.random.choice(self.paths)
        if self.random.random() < 0.4:
            return path
        return self.random.choice(
            [
                lambda: f"{os.path.dirname(self.uploaded)}/../../..{path}",
                lambda: f"{self.uploaded}/..{path}",
                lambda: f"{path}\0{self.uploaded}",
                lambda: os.path.relpath(path),
                lambda: f"file://{path}",
                lambda: quote(path, safe=""),
                lambda: f"http://127.0.0.1:1{path}",
                lambda: f"/gradio_api/file={path}",
                lambda: "data:image/png;base64," + "A" * self.random.randrange(5000),
                lambda: path.upper() + " " * self.random.randrange(300),
            ]
        )()

    def value(self, depth: int = 0):
        kind = self.random.randrange(9 if depth < 3 else 4)
        if kind < 2:
            return self.random.choice(NUMBERS)
        if kind == 2:
            return self.random.choice(TEXTS)
        if kind == 3:
            return self.path()
        if kind == 4:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if kind == 5:
            value = self.value(depth + 1)
            for _ in range(self.random.randrange(100)):
                value = [value] if self.random.random() < 0.7 else {self.random.choice(KEYS): value}
            return value
        if kind == 6:
            return {self.random.choice(KEYS): self.value(depth + 1) for _ in range(self.random.randrange(5))}
        path = self.uploaded if self.random.random() < 0.3 else self.path()
        value = file_data(path) if kind == 7 else {"path": path}
        return value | {self.random.choice(KEYS[5:]): self.value(depth + 1)}

    def data(self, name: str):
        """Arguments: good ones, of which some were replaced, left out or added."""
        picture = file_data(self.uploaded)
        data = {
            "generate": [*Server.GOOD], "tokenize": [picture], "decode": [picture],
            "mix": [picture, picture, ["visual"]],
            "edit": [picture, "Paint", picture, 2, 0.5, ["semantic"], *Server.GOOD],
        }[name]  # fmt: skip
        for _ in range(self.random.randrange(1, 3)):
            data[self.random.randrange(len(data))] = self.value()
        if self.random.random() < 0.1:
            data = data[: self.random.randrange(len(data))]
        if self.random.random() < 0.1:
            data += [self.value() for _ in range(self.random.randrange(20))]
        return self.value() if self.random.random() < 0.05 else data

    def broken(self, body: bytes) -> bytes:
        """Bytes changed, lost, or in a number that no parser likes."""
        kind = self.random.randrange(4)
        if kind == 0:
            return body[: self.random.randrange(len(body))]
        if kind == 1:
            position = self.random.randrange(len(body))
            return body[:position] + self.random.randbytes(3) + body[position + 1 :]
        if kind == 2:
            return self.random.choice([b"[", b'{"data":']) * self.random.randrange(7000)
        return b'{"data": [' + b"9" * self.random.randrange(60_000) + b"]}"

    def request(self) -> tuple[str, str, bytes | None, str]:
        """Method, path, body and content type."""
        name = self.random.choice(["generate", "tokenize", "tokenize", "decode", "mix", "edit"])
        draw = self.random.random()
        if draw < 0.08:
            return "GET", f"/gradio_api/file={quote(self.path())}", None, ""
        if draw < 0.14:
            boundary = self.random.choice(["b", "", "b" * 300, "\xe9"])
            body = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{self.path()}"\r\n\r\n'.encode()
            return (
                "POST",
                "/gradio_api/upload",
                body + self.random.randbytes(99) + b"\r\n--b--\r\n",
                (f"multipart/form-data; boundary={boundary}"),
            )
        if draw < 0.2:
            return (
                "POST",
                f"/gradio_api/call/{quote(str(self.value())[:200], errors='replace')}",
                b'{"data": []}',
                "application/json",
            )
        content = {"data": self.data(name)}
        if draw < 0.3:
            content |= {self.random.choice(["session_hash", "event_id", "fn_index", "trigger_id"]): self.value()}
        path = f"/gradio_api/call/{name}"
        if draw < 0.4:
            path = "/gradio_api/queue/join"
            content |= {"fn_index": self.random.randrange(-1, 60), "session_hash": f"s{draw}"}
        elif draw < 0.45:
            path, content = f"/gradio_api/call/v2/{name}", {"picture": self.value(), "seed": self.value()}
        body = json.dumps(content).encode()
        return "POST", path, body if self.random.random() < 0.85 else self.broken(body), "application/json"


@pytest.fixture
def own_files(tmp_path) -> list[str]:
    """What belongs to the server, and what blocks who reads it."""
    (tmp_path / "secret.png").write_bytes(png(make_picture(seed=9)))
    (tmp_path / "secret.txt").write_text("the server's secret")
    (tmp_path / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(tmp_path / "pipe.png")
    own = [str(path) for path in sorted(tmp_path.iterdir())]
    return [
        *own,
        str(tmp_path),
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/fd/1",
        "/dev/zero",
        "/dev/stdin",
        "/",
    ]


def test_hostile_requests(launched, own_files, repository, temporary_files):
    with launched(SECONDS_PER_REQUEST) as server:
        uploaded = server.uploaded(png())
        attacker = Attacker(0, own_files, uploaded)
        # What no answer may say of itself. Answers do repeat what they were sent, and tell the paths of results.
        told = ["Traceback", "site-packages", str(repository), os.path.dirname(own_files[0])]
        secrets = [b"the server's secret", b"root:x:", b"GRADIO_TEMP_DIR", Path(own_files[2]).read_bytes()[-40:]]
        expected = server.call("tokenize", [file_data(uploaded)])[:4]  # without the file of codes, new each time
        begin = time.monotonic()
        number, num_results = 0, 0
        while number < NUM_REQUESTS and time.monotonic() - begin < SECONDS:
            number += 1
            method, path, body, kind = attacker.request()
            sent = f"request {number}: {method} {path} {body}"[:2000]
            status, answer = server.request(method, path, body, {"Content-Type": kind} if body else {})
            if status == 200 and b"event_id" in answer:
                address = f"/gradio_api/call/any/{json.loads(answer)['event_id']}"
                status, answer = server.request("GET", address)
            assert status < 500, (sent, status)
            text = answer.decode("utf-8", "replace")
            assert not any(secret in answer for secret in secrets), sent
            assert not [word for word in told if word in text and word not in str(body) + path], (sent, text)
            if b'"all codebooks"' in answer:  # a picture was decoded: it can only be that which was uploaded
                num_results += 1
                assert json.loads(text.strip().splitlines()[-1].removeprefix("data: "))[:4] == expected, sent
        assert number >= NUM_REQUESTS_AT_LEAST
        assert num_results > 0  # not everything was refused for some silly reason
        assert server.is_well()
