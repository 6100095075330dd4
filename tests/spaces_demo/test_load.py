# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Parts of benchmarks/space.py as tests, in small: many visitors, malformed calls, hostile files, memory."""

import importlib.util
import os
import sys

import pytest


pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")


@pytest.fixture(scope="module")
def load(repository):
    """The benchmark as a module; it finds its helpers beside it."""
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        specification = importlib.util.spec_from_file_location("space_load", repository / "benchmarks" / "space.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(repository / "benchmarks"))


@pytest.fixture(scope="module")
def visitor(load, server):
    return load.Visitor(server.address.removeprefix("http://"))


def test_visitors_at_once_get_what_is_theirs(load, visitor):
    result = load.many_visitors(visitor, clients=16, calls=2)
    assert result["completed"] == result["with_own_seed"] == result["different_pictures"] == result["calls"] == 32
    assert result["equal_to_alone"] == result["compared_with_alone"] > 0


def test_a_crowd_is_told_that_the_queue_is_full(load, visitor):
    result = load.crowd(visitor)
    assert set(result) == {"calls", "complete", "full"}
    assert result["complete"] >= 32 and result["complete"] + result["full"] == result["calls"]


def test_malformed_calls(load, visitor):
    result = load.malformed(visitor, 100, seed=1)
    assert result["leaks"] == 0 and not any(outcome.startswith("status 5") for outcome in result), result
    assert not any("nothing said" in outcome for outcome in result), result


def test_hostile_pictures(load, visitor):
    assert load.hostile_pictures(visitor)["wrong"] == []


def test_traversal(load, visitor):
    result = load.traversal(visitor)
    assert result["leaks"] == 0 and set(result["answers"]) <= {"403", "404", "refused"}, result


def test_memory_stays_flat(load, visitor):
    """The first calls fill caches, and so do those of the tests before."""
    result = load.memory(visitor, os.getpid(), number=100, every=25)
    assert result["failed"] == {}
    assert result["growth_mb_after_first"] < 30, result["resident_mb"]


def test_speed_is_measured(load, visitor):
    result = load.measure_speed(visitor, rounds=1)
    assert 0 < result["first_picture_seconds"] <= result["four_pictures_seconds"]
