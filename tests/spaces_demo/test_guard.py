# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""No visitor reads the server's files, makes it fetch something, or keeps it from the others. Over plain HTTP."""

import base64
import contextlib
import io
import json
import math
import os
import re
import socketserver
import struct
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from serving import Server, file_data, make_picture, png, slowed, wait_for


pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")

SECONDS = 20  # in which each answer must be there


@pytest.fixture(scope="module")
def server(launched):
    with launched(SECONDS) as server:
        yield server


@pytest.fixture
def secret(tmp_path) -> str:
    """A picture that belongs to the server."""
    path = tmp_path / "secret.png"
    path.write_bytes(png())
    return str(path)


@pytest.fixture
def pipe(tmp_path):
    """A FIFO that nobody writes to. Whoever was caught by it is let go at the end."""
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    yield str(path)
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture
def own_pipes():
    """Paths below /proc of this process's stdin, stdout and a pipe, all of which block who reads them."""
    reading, writing = os.pipe()
    yield [f"/proc/self/fd/{reading}", f"/dev/fd/{reading}", f"/proc/{os.getpid()}/fd/{reading}"]
    os.close(writing)
    os.close(reading)


def assert_refused(answer, *kept_back: str) -> None:
    """An error, which tells nothing of the server's files."""
    assert isinstance(answer, dict) and answer.get("error"), answer
    assert "must be a file that was uploaded" in answer["error"], answer
    assert not any(text in json.dumps(answer) for text in (*kept_back, "Traceback", "site-packages")), answer


def out_of_the_upload_folder(path: str) -> str:
    folder = os.environ["GRADIO_TEMP_DIR"]
    return f"{folder}/{os.path.relpath(path, folder)}"


# Every form in which a path may come.
FORMS = {
    "bare": lambda path: {"path": path},
    "marked": lambda path: file_data(path),
    "marked otherwise": lambda path: {"path": path, "meta": {"_type": "gradio.Other"}},
    "mark that is none": lambda path: {"path": path, "meta": "gradio.FileData"},
    "text": lambda path: path,
    "list": lambda path: [path],
    "list of objects": lambda path: [{"path": path}],
    "list of marked objects": lambda path: [file_data(path)],
    "nested": lambda path: {"image": {"path": path}},
    "nested and marked": lambda path: {"path": file_data(path)},
    "as a value": lambda path: {"value": {"path": path}, "__type__": "update"},
    "stream": lambda path: file_data(path, is_stream=True),
    "address of the file": lambda path: file_data("a.png", url=f"file://{path}"),
    "address of the server's": lambda path: file_data("a.png", url=f"/gradio_api/file={path}"),
    "path as an address": lambda path: {"path": f"file://{path}"},
    "relative": lambda path: {"path": os.path.relpath(path)},
    "out of the upload folder": lambda path: {"path": out_of_the_upload_folder(path)},
    "out of the upload folder, marked": lambda path: file_data(out_of_the_upload_folder(path)),
    "original name": lambda path: {"path": "a.png", "orig_name": path},
}


class TestFiles:
    @pytest.mark.parametrize("form", FORMS)
    def test_a_file_of_the_servers(self, server, secret, form):
        assert_refused(server.call("tokenize", [FORMS[form](secret)]), secret)

    @pytest.mark.parametrize("form", ["bare", "marked", "text", "stream"])
    def test_a_pipe(self, server, pipe, form):
        assert_refused(server.call("tokenize", [FORMS[form](pipe)]), pipe)
        assert server.is_well()

    def test_descriptors_of_the_process(self, server, own_pipes):
        for path in own_pipes:
            assert_refused(server.call("tokenize", [{"path": path}]), path)
        assert server.is_well()

    @pytest.mark.parametrize(
        "path",
        [
            "/", "/dev/zero", "/dev/urandom", "/dev/stdin", "/dev/tty", "/proc/self/environ", "/proc/self/mem",
            "/etc/passwd", "/etc/passwd\0.png", "\0", "a\nb", "\n", "~", "~root", ".", "..", "", " ", "/" * 5000,
            "a" * 50_000, "\ud800", "con", "%2fetc%2fpasswd", "C:\\Windows\\win.ini", "\\\\host\\share\\a.png",
            "${HOME}", "file:///etc/passwd",
        ],
    )  # fmt: skip
    def test_odd_paths(self, server, path):
        assert_refused(server.call("tokenize", [{"path": path}]), "root:")

    def test_what_lies_in_the_upload_folder_but_was_not_uploaded(self, server, secret, temporary_files):
        folder = temporary_files / ("0" * 64)
        folder.mkdir(exist_ok=True)
        link, pipe, large, plain = (folder / name for name in ("link.png", "pipe.png", "large.png", "plain.png"))
        link.symlink_to(secret)
        os.mkfifo(pipe)
        plain.write_bytes(png())
        with open(large, "wb") as file:
            file.truncate(1 << 40)
        for path in (link, pipe, large, plain, folder, temporary_files):
            for form in ("bare", "marked"):
                assert_refused(server.call("tokenize", [FORMS[form](str(path))]), secret)

    def test_results_of_other_visitors(self, server):
        images, _ = server.call("generate", Server.GOOD)
        assert_refused(server.call("tokenize", [images[0]["image"]]), images[0]["image"]["path"])

    @pytest.mark.parametrize("case", ["link", "linked folder", "pipe", "folder", "large", "gone"])
    def test_an_upload_that_was_replaced_on_the_disk(self, server, secret, case):
        path = Path(server.uploaded(png(make_picture(seed=5)), name=f"{case}.png"))
        path.unlink()
        if case == "link":
            path.symlink_to(secret)
        elif case == "linked folder":
            path.parent.rename(f"{path.parent}.moved")
            path.parent.symlink_to(os.path.dirname(secret))
            Path(secret).rename(Path(secret).with_name(path.name))
        elif case == "pipe":
            os.mkfifo(path)
        elif case == "folder":
            path.mkdir()
        elif case == "large":
            with open(path, "wb") as file:
                file.truncate(1 << 40)
        answer = server.call("tokenize", [file_data(str(path))])
        assert "must be an uploaded file of at most 20 MB: upload it again" in answer["error"], answer
        assert server.is_well()

    def test_whatever_else_is_said_of_an_upload(self, server):
        path = server.uploaded(png())
        expected = server.call("tokenize", [file_data(path)])[:4]
        said = {"url": "http://127.0.0.1:1/a.png", "orig_name": "/etc/passwd", "size": "many", "is_stream": True}
        assert server.call("tokenize", [{"path": path, "meta": {"_type": 5}, "more": [[[]]], **said}])[:4] == expected

    def test_no_other_call_takes_files(self, server, secret):
        for position in range(len(Server.GOOD)):
            data = [*Server.GOOD]
            data[position] = file_data(secret)
            answer = server.call("generate", data)
            assert "must be a single value, got an object" in answer["error"] and secret not in answer["error"]

    @pytest.mark.parametrize(
        "path",
        ["/etc/passwd", "/proc/self/environ", "spaces_demo/app.py", "../../etc/passwd", "/proc/self/root/etc/passwd"],
    )
    @pytest.mark.parametrize("address", ["/gradio_api/file={}", "/gradio_api/file/{}", "/file={}", "/static/{}"])
    def test_downloads(self, server, address, path):
        status, answer = server.request("GET", address.format(path))
        assert status in (403, 404) and b"root:" not in answer, (status, answer)


class TestRequests:
    def test_the_server_fetches_nothing(self, server, monkeypatch, tmp_path):
        """Gradio has a guard against addresses of its own network, but not against others. Neither must be tried."""
        from gradio import processing_utils, routes

        tried = []

        async def note(address, *arguments, **options):
            tried.append(address)
            raise OSError("no network here")

        monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", note)
        monkeypatch.setattr(routes, "secure_url_stream_response", note)
        with answering() as asked:
            for address in (asked.address, "https://example.com/a.png", "http://169.254.169.254/latest/meta-data/"):
                answer = server.call("tokenize", [file_data(address)])
                assert_refused(answer, address)
                assert_refused(server.call("tokenize", [{"path": "a.png", "url": address}]), address)
                assert_refused(server.call("tokenize", [address]), address)
                assert "single value" in server.call("generate", [file_data(address), *Server.GOOD[1:]])["error"]
                assert "single value" in server.call("generate", [[[file_data(address)]], *Server.GOOD[1:]])["error"]
                for path in ("file=", "file/", "proxy="):
                    assert server.request("GET", f"/gradio_api/{path}{address}")[0] == 403
        assert tried == [] and asked.number == 0

    def test_pictures_in_the_request_itself(self, server):
        content = "data:image/png;base64," + base64.b64encode(png()).decode()
        for value in (
            content,
            {"url": content},
            {"path": content},
            file_data(content),
            file_data("a.png", url=content),
        ):
            assert_refused(server.call("tokenize", [value]))

    @pytest.mark.parametrize(
        "path",
        ["run/generate", "run/generate/", "api/generate", "component_server", "process_recording", "stream/a"],
    )
    def test_ways_around_the_queue_are_closed(self, server, path):
        status, answer = server.post(f"/gradio_api/{path}", {"data": [*Server.GOOD], "session_hash": "a"})
        assert status == 403 and b"POST is for call/, queue/join, upload, cancel and reset" in answer

    @pytest.mark.parametrize("path", ["/gradio_api/deep_link?session_hash=a", "/monitoring", "/monitoring/summary"])
    def test_what_the_page_does_not_need_is_closed(self, server, path):
        assert server.request("GET", path)[0] == 403

    def test_sizes(self, server):
        path = "/gradio_api/call/generate"
        json_header = {"Content-Type": "application/json"}
        assert server.post(path, b"x" * 70_000)[0] == 413
        # Of unknown length, and without end.
        status, answer = server.request("POST", path, (b"[" * 1000 for _ in range(1000)), json_header)
        assert status == 413 and b"at most 65,536 bytes" in answer
        assert server.upload(b"x" * (20 * 1024**2))[0] == 200
        assert server.upload(b"x" * (20 * 1024**2 + 1))[0] == 413
        assert server.upload(*[b"x" * (8 * 1024**2)] * 3)[0] == 413
        assert server.is_well()

    def test_the_queues_own_entrance(self, server, secret):
        """As the page itself calls."""
        config = json.loads(server.request("GET", "/config")[1])
        for number, entry in enumerate(config["dependencies"]):
            body = {"data": [{"path": secret}], "fn_index": entry["id"], "session_hash": f"session{number}"}
            status, answer = server.post("/gradio_api/queue/join", body)
            assert status == 200, answer
            event = json.loads(answer)["event_id"]
            status, answer = server.request("GET", f"/gradio_api/call/any/{event}")
            assert secret.encode() not in answer and b"original" not in answer and b"Traceback" not in answer
        assert server.is_well()

    @pytest.mark.parametrize("name", ["nothing", "1e+308", "generate/more", "%00", "v2/nothing"])
    def test_endpoints_that_do_not_exist(self, server, name):
        status, answer = server.post(f"/gradio_api/call/{name}", {"data": []})
        assert status in (404, 405, 422), answer

    @pytest.mark.parametrize("data", [math.inf, math.nan, "\ud800", -math.inf])
    @pytest.mark.parametrize("path", ["call/generate", "queue/join"])
    def test_bodies_that_cannot_be_repeated(self, server, path, data):
        status, answer = server.post(f"/gradio_api/{path}", {"data": data, "fn_index": data})
        assert status == 422 and b"the body must be a call" in answer

    @pytest.mark.parametrize(
        "name", ["../../../../tmp/a.png", "/etc/passwd", "..", "a\\..\\b.png", "x" * 500 + ".png"]
    )
    def test_names_of_uploads(self, server, temporary_files, name):
        status, answer = server.upload(png(), name=name)
        assert status in (200, 400), answer
        if status == 200:
            assert temporary_files in Path(json.loads(answer)[0]).resolve().parents
        assert server.is_well()


class answering(socketserver.ThreadingTCPServer):  # noqa: N801
    """Counts who connects."""

    number = 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}/a.png"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, *arguments):
        self.number += 1
        super().process_request(*arguments)

    def __exit__(self, *arguments):
        self.shutdown()
        super().__exit__(*arguments)


def many_scans(side: int, number: int) -> bytes:
    """A progressive JPEG of which one scan, of a few bytes, comes again and again."""
    data = io.BytesIO()
    Image.new("L", (side, side), 128).save(data, "JPEG", progressive=True)
    data = data.getvalue()
    end = data.rindex(b"\xff\xd9")
    last = data.rindex(b"\xff\xda", 0, end)
    return data[:end] + data[last:end] * number + data[end:]


def many_zeros() -> bytes:
    """A BMP of a kilobyte, for which Pillow takes a gigabyte: its one line skips 255 lines."""
    palette = bytes(4 * 256)
    body = b"\x00\x02\xff\xff\x00\x01"
    offset = 14 + 40 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset)
    size = struct.pack("<IiiHHIIiiII", 40, 2_000_000, 1, 1, 8, 1, len(body), 0, 0, 256, 0)
    return head + size + palette + body


class TestTime:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (many_scans(2000, 20_000), "The picture, a JPEG, must have at most 100 scans, got 20,0"),
            (many_zeros(), "must be a JPEG, PNG, WEBP, GIF file"),
            (b"\x89PNG\r\n\x1a\n" + b"\0" * 1000, "that can be read"),
            (b"GIF89a" + b"\xff" * 100_000, "that can be read|readable|pixels"),
        ],
        ids=["scans", "zeros", "empty", "ones"],
    )
    def test_pictures_that_would_take_long(self, server, content, message):
        path = server.uploaded(content)
        begin = time.monotonic()
        answer = server.call("tokenize", [file_data(path)])
        assert re.search(message, answer["error"]), answer
        assert time.monotonic() - begin < 5

    def test_usual_scans(self, server):
        data = io.BytesIO()
        make_picture(300, 200).save(data, "JPEG", progressive=True)
        assert len(server.call("tokenize", [file_data(server.uploaded(data.getvalue(), "a.jpg"))])[1]) == 3

    @pytest.mark.parametrize("name", ["generate", "tokenize"])
    def test_a_call_that_takes_too_long(self, server, guard, pipeline, monkeypatch, name):
        monkeypatch.setattr(guard, "CALL_SECONDS", 0.3)
        data = Server.GOOD if name == "generate" else [file_data(server.uploaded(png()))]
        with slowed(pipeline, 0.2):
            begin = time.monotonic()
            answer = server.call(name, data)
        assert "Ended: a call may take 0.3 seconds here" in answer["error"], answer
        assert time.monotonic() - begin < 3
        monkeypatch.undo()
        assert server.is_well()

    @pytest.mark.parametrize("times", [1, 3])
    def test_stop(self, server, pipeline, times):
        """Of the page's button: the model has stopped before the next call begins, however often it is pressed."""
        with slowed(pipeline, 0.2) as steps:
            event = server_join(server, "generate", Server.GOOD, "visitor")
            wait_for(lambda: len(steps) > 2)
            begin = time.monotonic()
            pressed = [threading.Thread(target=cancel, args=(server, event, "visitor")) for _ in range(times)]
            for thread in pressed:
                thread.start()
            for thread in pressed:
                thread.join(SECONDS)
            assert time.monotonic() - begin < 3  # 16 positions would take longer
            number = len(steps)
            time.sleep(0.5)
            assert len(steps) == number < 16
        assert server.is_well()

    def test_stop_of_a_call_that_waits(self, server, pipeline):
        with slowed(pipeline, 0.1) as steps:
            first = server_join(server, "generate", Server.GOOD, "first")
            wait_for(lambda: len(steps) > 0)
            second = server_join(server, "generate", [3, *Server.GOOD[1:]], "second")
            cancel(server, second, "second")
            status, answer = server.request("GET", f"/gradio_api/call/generate/{first}")
            assert b"seed 7" in answer
            assert len(steps) <= 17  # one more of the unconditional half at most
        assert server.is_well()


def server_join(server: Server, name: str, data, session: str) -> str:
    """Begin a call as the page does."""
    config = json.loads(server.request("GET", "/config")[1])
    number = next(entry["id"] for entry in config["dependencies"] if entry["api_name"] == name)
    body = {"data": [*data], "fn_index": number, "session_hash": session}
    status, answer = server.post("/gradio_api/queue/join", body)
    assert status == 200, answer
    return json.loads(answer)["event_id"]


def cancel(server: Server, event: str, session: str) -> None:
    config = json.loads(server.request("GET", "/config")[1])
    number = next(entry["id"] for entry in config["dependencies"] if entry["api_name"] == "generate")
    status, answer = server.post(
        "/gradio_api/cancel", {"session_hash": session, "fn_index": number, "event_id": event}
    )
    assert status == 200, answer
