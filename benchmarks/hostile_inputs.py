# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What nobody should send to the Space: malformed calls, and files that pictures should not be. For `space.py`."""

import io
import json
import math
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image


# Values of every wrong kind.
ODD = (
    None, True, -1, 2.5, 10**40, math.nan, math.inf, "", "nul\0", "\ud800", "a" * 9000, "<script>alert(1)</script>",
    [], {}, [[[[]]]], {"path": "/etc/passwd"}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"__type__": "update"}, {"url": "http://169.254.169.254/"}, ["/etc/passwd"],
    {"value": {"path": "/proc/self/environ"}},
)  # fmt: skip


def malformed_payloads(
    parameters: dict[str, dict[str, Any]], number: int, seed: int = 0
) -> Iterator[tuple[str, bytes]]:
    """
    Calls of the Space's endpoints of which something is wrong: endpoint and body.

    Args:
        parameters (`dict`): As [`Visitor.parameters`] gives them.
        number (`int`): How many.
        seed (`int`): The same ones each time.
    """
    draw = random.Random(seed)
    names = sorted(name for name, given in parameters.items() if given)  # nothing can be wrong without arguments
    for _ in range(number):
        name = draw.choice(names)
        data = list(parameters[name].values())
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] = draw.choice(ODD)
        kind = draw.randrange(8)
        if kind == 0:
            data = data[: draw.randrange(len(data) + 1)]
        elif kind == 1:
            data = data + [draw.choice(ODD) for _ in range(draw.randrange(1, 30))]
        content: Any = {"data": data if kind != 2 else draw.choice(ODD)}
        body = json.dumps(content).encode()
        if kind == 3:
            body = body[: draw.randrange(len(body))]
        elif kind == 4:
            body = draw.choice(
                [b"", b"[" * 9000, b'{"data":' * 3000, b"\xff\xfe", b'{"data": [' + b"9" * 50_000 + b"]}"]
            )
        yield name, body


def hostile_files() -> dict[str, tuple[bytes, bool | None]]:
    """Files that pictures should not be, and whether they are to be taken; None: either is right."""
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    frames = [colours(seed=number) for number in range(8)]
    whole, photo = png(colours(200, 150)), png(colours(200, 150), "JPEG")
    huge = Image.new("1", (12_000, 9_000))
    page = b"<html><script>alert(document.cookie)</script></html>"
    return {
        "108 megapixels": (png(huge), False),
        "62 megapixels": (png(Image.new("L", (8_000, 7_750))), True),
        "1 x 2,000,000": (png(Image.new("RGB", (1, 2_000_000))), True),
        "16 bit": (png(Image.fromarray(ramp)), True),
        "CMYK": (png(colours(64, 64).convert("CMYK"), "JPEG"), True),
        "animated GIF": (png(frames[0], "GIF", save_all=True, append_images=frames[1:]), True),
        "animated WEBP": (png(frames[0], "WEBP", save_all=True, append_images=frames[1:]), True),
        "transparent palette": (png(colours(64, 64).convert("P"), transparency=0), True),
        "truncated PNG": (whole[: len(whole) // 2], False),
        "truncated JPEG": (photo[: len(photo) // 2], False),
        "polyglot of PNG and HTML": (whole + page, True),
        "polyglot of GIF and script": (b"GIF89a/*" + page + b"*/", False),
        "polyglot of JPEG and ZIP": (photo + b"PK\x03\x04" + bytes(200), True),
        "SVG with script": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', False),
        "text bomb": (text_bomb(whole), None),
        "claims 2^31 pixels": (claiming(whole, 2**31 - 1), False),
        "no pixels": (claiming(whole, 0), False),
        "TIFF": (png(colours(), "TIFF"), False),
        "EPS": (png(colours(), "EPS"), False),
        "nothing": (b"", False),
    }


def claiming(picture: bytes, side: int) -> bytes:
    """A PNG whose header says so."""
    head = b"IHDR" + struct.pack(">II", side, side) + picture[24:29]
    return picture[:12] + head + struct.pack(">I", zlib.crc32(head)) + picture[33:]


def text_bomb(picture: bytes) -> bytes:
    """A PNG with 100 MB of text in 100 kB."""
    text = b"zTXtComment\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return picture[:33] + chunk + picture[33:]


def png(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def colours(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
