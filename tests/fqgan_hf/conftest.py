# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What tests of the package share."""

import warnings

import diffusers
import pytest
import transformers
from accelerate import PartialState


LIBRARIES = (transformers.utils.logging, diffusers.utils.logging)


@pytest.fixture(autouse=True)
def libraries_as_before():
    """Commands silence the libraries and set up accelerate for the rest of their process, which all tests share."""
    before = [library.get_verbosity() for library in LIBRARIES]
    with warnings.catch_warnings():
        yield
    PartialState._reset_state()
    for library, verbosity in zip(LIBRARIES, before, strict=True):
        library.set_verbosity(verbosity)
        library.enable_progress_bar()
