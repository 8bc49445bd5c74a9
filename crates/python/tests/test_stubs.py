"""What type checkers are told of the package is what it has."""

import importlib.util
import pathlib

import pytest

import hetra

TOOL = pathlib.Path(__file__).parents[3] / "tools" / "stubs.py"


@pytest.mark.skipif(not TOOL.is_file(), reason="the stubs are written in a checkout only")
def test_the_stubs_are_those_of_the_package():
    spec = importlib.util.spec_from_file_location("stubs", TOOL)
    stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stubs)
    assert stubs.FILE.read_text() == stubs.stubs(hetra), "run tools/stubs.py"
