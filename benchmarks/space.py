# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space under load and abuse: how soon it answers, 16 visitors at once, malformed calls, hostile files, memory.

    python benchmarks/space.py --pipeline outputs/demo/pipeline --output_dir outputs/bench

The Space runs in a process of its own, as `make space` starts it, and is talked to by plain HTTP, with nothing between
that would make a request better than it is. Writes space.json. Every part can be asked for by itself: --parts.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostile_inputs import colours, hostile_files, malformed_payloads, png
from measure import machine

from fqgan_hf.files import write_json


REPOSITORY = Path(__file__).resolve().parent.parent
SECONDS = 120  # for any answer
NUM_CLIENTS = 16
CALLS_PER_CLIENT = 4
NUM_CROWD = 60  # at once, more than the queue takes
NUM_MALFORMED = 200
NUM_REQUESTS = 500


# ---- Plain HTTP -----------------------------------------------------------------------------------------------------


class Visitor:
    """
    One who calls the Space.

    Args:
        address (`str`): "127.0.0.1:7860".
    """

    def __init__(self, address: str, seconds: float = SECONDS):
        self.address, self.seconds = address, seconds

    def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and content of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=self.seconds)
        try:
            connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def begin(self, name: str, data: Any) -> str:
        """The id of a call that waits or runs now."""
        status, answer = self.request("POST", f"/gradio_api/call/{name}", json.dumps({"data": data}).encode())
        if status != 200:
            raise RuntimeError(f"{name}: status {status}: {answer[:200]!r}")
        return json.loads(answer)["event_id"]

    def events(self, name: str, event: str) -> Iterator[tuple[str, Any, float]]:
        """What arrives of a call: "generating", "complete" or "error", its data, and when."""
        connection = http.client.HTTPConnection(self.address, timeout=self.seconds)
        try:
            connection.request("GET", f"/gradio_api/call/{name}/{event}")
            kind = ""
            for line in connection.getresponse():
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    kind = text.removeprefix("event: ")
                elif text.startswith("data: ") and kind != "heartbeat":
                    yield kind, json.loads(text.removeprefix("data: ")), time.monotonic()
        finally:
            connection.close()

    def call(self, name: str, data: Any) -> tuple[str, Any]:
        """How a call ends, and its outputs or error."""
        *_, (kind, content, _) = self.events(name, self.begin(name, data))
        return kind, content

    def upload(self, content: bytes, name: str = "a.png") -> dict[str, Any]:
        """A file as calls take it."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body = head + content + f"\r\n--{boundary}--\r\n".encode()
        status, answer = self.request("POST", "/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")
        if status != 200:
            raise RuntimeError(f"upload: status {status}: {answer[:200]!r}")
        return {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The endpoints with the defaults of their arguments."""
        info = json.loads(self.request("GET", "/gradio_api/info")[1])["named_endpoints"]
        return {
            name.strip("/"): {one["parameter_name"]: one["parameter_default"] for one in endpoint["parameters"]}
            for name, endpoint in info.items()
        }

    def data(self, name: str, **changes: Any) -> list[Any]:
        """Arguments in their order, by default with a fixed seed."""
        given = self.parameters[name]
        changes = {"random_seed": False, "seed": 7, "prompt": "smiling cat", **changes}
        return [changes.get(key, value) for key, value in given.items()]

    def picture(self, address: str) -> bytes:
        """The content of a result."""
        return self.request("GET", address[address.index("/gradio_api") :])[1]


@contextlib.contextmanager
def started(pipeline: Path, log: Path) -> Iterator[tuple[str, int, float]]:
    """The Space in a process of its own: its address, its id, and the seconds until it answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "spaces_demo/app.py", "--pipeline", str(pipeline), "--port", str(port)]
    begin = time.monotonic()
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
    try:
        while True:
            with contextlib.suppress(OSError):
                if Visitor(f"127.0.0.1:{port}").request("GET", "/")[0] == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"the Space ended:\n{log.read_text()}")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}", process.pid, time.monotonic() - begin
    finally:
        process.terminate()
        process.wait(60)


# ---- Speed ----------------------------------------------------------------------------------------------------------


def measure_speed(visitor: Visitor, rounds: int = 5) -> dict[str, Any]:
    """Seconds from the call to the first partial pictures and to four finished ones, and from cancel to its effect."""
    firsts, wholes = [], []
    for round_number in range(rounds + 1):
        data, begin = visitor.data("generate", seed=round_number), time.monotonic()
        arrivals = [(kind, when) for kind, _, when in visitor.events("generate", visitor.begin("generate", data))]
        if round_number:  # the first one warms up
            firsts.append(arrivals[0][1] - begin)
            wholes.append(arrivals[-1][1] - begin)
    return {
        "rounds": rounds,
        "first_picture_seconds": statistics.median(firsts),
        "slowest_first_picture_seconds": max(firsts),
        "four_pictures_seconds": statistics.median(wholes),
        "slowest_four_pictures_seconds": max(wholes),
        "cancel_seconds": statistics.median(_cancelled(visitor, number) for number in range(rounds)),
    }


def _cancelled(visitor: Visitor, number: int) -> float:
    """Seconds until a call that was cancelled at its first picture has left the model."""
    config = json.loads(visitor.request("GET", "/config")[1])
    fn = next(entry["id"] for entry in config["dependencies"] if entry["api_name"] == "generate")
    session, data = f"cancel-{number}-{uuid.uuid4().hex}", visitor.data("generate", num_images=8)
    body = {"data": data, "fn_index": fn, "session_hash": session}
    status, answer = visitor.request("POST", "/gradio_api/queue/join", json.dumps(body).encode())
    event = json.loads(answer)["event_id"]
    time.sleep(0.1)
    begin = time.monotonic()
    body = {"session_hash": session, "fn_index": fn, "event_id": event}
    visitor.request("POST", "/gradio_api/cancel", json.dumps(body).encode())
    return time.monotonic() - begin


# ---- Many at once ---------------------------------------------------------------------------------------------------


def many_visitors(visitor: Visitor, clients: int = NUM_CLIENTS, calls: int = CALLS_PER_CLIENT) -> dict[str, Any]:
    """Visitors who call one after another, all at once: each gets the images of its own seeds, and nobody else's."""
    seeds = {(client, call): 1000 * client + 10 * call for client in range(clients) for call in range(calls)}
    results: dict[tuple[int, int], Any] = {}
    waits: list[float] = []

    def visit(client: int) -> None:
        for call in range(calls):
            begin = time.monotonic()
            data = visitor.data("generate", num_images=1, seed=seeds[client, call])
            results[client, call] = visitor.call("generate", data)
            waits.append(time.monotonic() - begin)

    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(visit, range(clients)))
    seconds = time.monotonic() - begin
    good = [key for key, (kind, _) in results.items() if kind == "complete"]
    own = [key for key in good if results[key][1][0][0]["caption"] == f"seed {seeds[key]}"]
    pictures = {key: visitor.picture(results[key][1][0][0]["image"]["url"]) for key in good}
    alone = {}
    for key in good[::7]:  # some of them again, with nobody else there
        again = visitor.call("generate", visitor.data("generate", num_images=1, seed=seeds[key]))[1]
        alone[key] = visitor.picture(again[0][0]["image"]["url"]) == pictures[key]
    return {
        "clients": clients, "calls": clients * calls, "completed": len(good), "with_own_seed": len(own),
        "different_pictures": len(set(pictures.values())), "compared_with_alone": len(alone),
        "equal_to_alone": sum(alone.values()), "seconds": seconds, "calls_per_second": clients * calls / seconds,
        "median_wait_seconds": statistics.median(waits), "longest_wait_seconds": max(waits),
    }  # fmt: skip


def crowd(visitor: Visitor, number: int = NUM_CROWD) -> dict[str, Any]:
    """More calls at once than the queue takes: the others are told that it is full."""
    data = visitor.data("generate", num_images=4)
    barrier, outcomes = threading.Barrier(number), []

    def visit(_: int) -> None:
        barrier.wait()
        try:
            kind, content = visitor.call("generate", data)
        except RuntimeError as error:
            kind, content = "refused", str(error)
        is_full = "full" in json.dumps(content).lower()
        outcomes.append("full" if kind != "complete" and is_full else kind)

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(visit, range(number)))
    return {"calls": number, **Counter(outcomes)}


# ---- Abuse ----------------------------------------------------------------------------------------------------------


def malformed(visitor: Visitor, number: int = NUM_MALFORMED, seed: int = 0) -> dict[str, Any]:
    """Each is answered, with no error of the server's own and nothing of its files."""
    outcomes, longest, leaks = Counter(), 0.0, 0
    for name, body in malformed_payloads(visitor.parameters, number, seed):
        begin = time.monotonic()
        status, answer = visitor.request("POST", f"/gradio_api/call/{name}", body)
        outcome = f"status {status}"
        if status == 200:
            status, answer = visitor.request("GET", f"/gradio_api/call/{name}/{json.loads(answer)['event_id']}")
            outcome = "completed" if b"event: complete" in answer else "told what is wrong"
            if status != 200 or b'"error": null' in answer:
                outcome = f"status {status}, nothing said"
        outcomes[outcome] += 1
        longest = max(longest, time.monotonic() - begin)
        leaks += any(word in answer for word in (b"root:", b"Traceback", b"site-packages", b"PATH="))
    return {"payloads": number, "seed": seed, **outcomes, "leaks": leaks, "longest_seconds": longest}


def hostile_pictures(visitor: Visitor) -> dict[str, Any]:
    """Each is refused in clear words, or read as the picture that it is."""
    outcomes, wrong, longest = {}, [], 0.0
    for name, (content, is_good) in hostile_files().items():
        begin = time.monotonic()
        kind, answer = visitor.call("tokenize", [visitor.upload(content)])
        longest = max(longest, time.monotonic() - begin)
        is_taken = kind == "complete"
        outcomes[name] = "taken" if is_taken else str(answer.get("error"))[:120]
        if (is_good is not None and is_taken != is_good) or (not is_taken and not answer.get("error")):
            wrong.append(name)
        if is_taken and b"<script>" in visitor.picture(answer[0][0]["url"]):
            wrong.append(f"{name}: still in the result")
    return {"files": len(outcomes), "wrong": wrong, "longest_seconds": longest, "outcomes": outcomes}


def traversal(visitor: Visitor) -> dict[str, Any]:
    """No address leads to a file of the server's."""
    files = ("/etc/passwd", "/proc/self/environ", "/etc/shadow", str(REPOSITORY / "spaces_demo" / "app.py"))
    folder = os.path.dirname(visitor.upload(png(colours()))["path"])
    forms = [
        lambda path: f"/gradio_api/file={path}", lambda path: f"/gradio_api/file={folder}/../../..{path}",
        lambda path: f"/gradio_api/file={quote(path, safe='')}", lambda path: f"/file={path}",
        lambda path: f"/gradio_api/file=..%2f..%2f..{quote(path, safe='')}", lambda path: f"/static/../..{path}",
        lambda path: f"/assets/..%2f..%2f..{quote(path, safe='')}", lambda path: f"/gradio_api/file=file://{path}",
        lambda path: f"/theme.css/..{path}", lambda path: f"/gradio_api/file={path}%00.png",
    ]  # fmt: skip
    statuses, leaks = Counter(), 0
    for path in files:
        for form in forms:
            status, answer = visitor.request("GET", form(path))
            statuses[str(status)] += 1
            leaks += any(word in answer for word in (b"root:", b"PATH=", b"OneLineParser"))
        for name in ("tokenize", "decode"):
            kind, answer = visitor.call(name, [{"path": path, "meta": {"_type": "gradio.FileData"}}])
            statuses[
                "refused" if kind == "error" and "must be a file that was uploaded" in answer["error"] else kind
            ] += 1
    return {"requests": sum(statuses.values()), "leaks": leaks, "answers": dict(statuses)}


# ---- Memory ---------------------------------------------------------------------------------------------------------


def resident_mb(pid: int) -> float:
    """Of the process, in MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def memory(visitor: Visitor, pid: int, number: int = NUM_REQUESTS, every: int = 50) -> dict[str, Any]:
    """Resident memory over requests of every kind, in turns."""
    endpoints = visitor.parameters
    uploads = [visitor.upload(png(colours(300, 200, seed))) for seed in range(2)]
    codes = visitor.upload(visitor.picture(visitor.call("tokenize", [uploads[0]])[1][4]["url"]), "codes.npy")
    given = {
        "tokenize": {"picture": uploads[0]},
        "decode": {"codes": codes},
        "mix": {"picture_a": uploads[0], "picture_b": uploads[1]},
        "edit": {"picture": uploads[0], "way": "Vary", "num_images": 1},
        "generate": {"num_images": 1},
    }
    calls = [(name, visitor.data(name, **arguments)) for name, arguments in given.items() if name in endpoints]
    samples, failed, begin = [], Counter(), time.monotonic()
    for count in range(number + 1):
        if count % every == 0:
            samples.append(resident_mb(pid))
        name, data = calls[count % len(calls)]
        kind, answer = visitor.call(name, data)
        if kind != "complete":
            failed[f"{name}: {str(answer)[:80]}"] += 1
    later = samples[1:]  # the first calls fill caches
    return {
        "requests": number, "failed": dict(failed), "seconds": time.monotonic() - begin, "every": every,
        "resident_mb": [round(sample, 1) for sample in samples], "growth_mb_after_first": later[-1] - later[0],
    }  # fmt: skip


# ---- All of it ------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Visitor, int], dict[str, Any]]] = {
    "speed": lambda visitor, pid: measure_speed(visitor),
    "visitors": lambda visitor, pid: many_visitors(visitor),
    "crowd": lambda visitor, pid: crowd(visitor),
    "malformed": lambda visitor, pid: malformed(visitor),
    "pictures": lambda visitor, pid: hostile_pictures(visitor),
    "traversal": lambda visitor, pid: traversal(visitor),
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=Path("outputs/demo/pipeline"))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if not options.pipeline.is_dir():
        parser.error(f"--pipeline {options.pipeline} is no folder: `fqgan demo` trains one into outputs/demo/pipeline")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, started(options.pipeline, Path(folder) / "log") as space:
        address, pid, seconds = space
        result: dict[str, Any] = {"machine": machine(), "load_average_before": load, "start_seconds": seconds}
        for part in options.parts:
            result[part] = PARTS[part](Visitor(address), pid)
            print(part, json.dumps(result[part], ensure_ascii=False), flush=True)
        result["resident_mb_at_the_end"] = resident_mb(pid)
        log = (Path(folder) / "log").read_text()
        result["tracebacks_in_the_log"] = log.count("Traceback (most recent call last)")
        result["load_average_after"] = os.getloadavg()[0]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(options.output_dir / "space.json", result)


if __name__ == "__main__":
    main()
