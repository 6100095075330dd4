# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space's files as modules, a tiny model, and a server with both."""

import contextlib
import importlib
import sys
import uuid
from pathlib import Path

import pytest
from PIL import Image

from fqgan_hf import FARPipeline, load_pipeline, optimize


# pytest's importlib mode puts no folder of tests on the path.
sys.path.insert(0, str(Path(__file__).parent))

from serving import Handlers, Server, file_data, make_pipeline  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def temporary_files(tmp_path_factory) -> Path:
    """Where Gradio keeps uploads and results."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture
def put(temporary_files):
    """Puts a picture, or bytes, where Gradio keeps uploads, and gives what describes it."""

    def put(content: Image.Image | bytes, name: str = "a.png") -> dict:
        path = temporary_files / uuid.uuid4().hex / name
        path.parent.mkdir()
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
        return file_data(str(path))

    return put


@pytest.fixture(scope="session")
def import_from_space(repository):
    """Imports a file of spaces_demo/, which is uploaded, not installed: its files find each other in one folder."""
    sys.path.insert(0, str(repository / "spaces_demo"))
    yield importlib.import_module
    sys.path.remove(str(repository / "spaces_demo"))


@pytest.fixture(scope="session")
def space(import_from_space):
    return import_from_space("page")


@pytest.fixture(scope="session")
def guard(import_from_space):
    return import_from_space("guard")


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "pipeline"
    make_pipeline().save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def slow_pipeline_dir(tmp_path_factory) -> Path:
    """Eight images of it take half a minute, so that there is something to interrupt."""
    folder = tmp_path_factory.mktemp("slow") / "pipeline"
    make_pipeline(hidden_size=512, num_layers=12, grid=32).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def pipeline(space, pipeline_dir) -> FARPipeline:
    pipeline = optimize(load_pipeline(pipeline_dir, "cpu"), compile=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def handlers(space, pipeline):
    return Handlers(space.build_app(pipeline))


@pytest.fixture(scope="session")
def controls(import_from_space):
    return import_from_space("controls")


@pytest.fixture(scope="session")
def launched(space, pipeline):
    """Serves the page in this process while a block lasts."""

    @contextlib.contextmanager
    def launch(seconds: float = 60, model=None):
        app = space.build_app(model or pipeline)
        _, address, _ = app.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **space.LAUNCH_OPTIONS
        )
        try:
            yield Server(address, seconds, app)
        finally:
            app.close(verbose=False)

    return launch


@pytest.fixture(scope="module")
def server(launched):
    with launched() as server:
        yield server
