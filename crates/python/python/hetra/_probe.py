"""Drivers are asked for their devices in a process of their own: some crash when they are asked."""

from __future__ import annotations

import os
import sys

from . import _core

# The compiled part alone: nothing else is loaded in the other process.
_ASK = """
import sys, importlib.util as util
spec = util.spec_from_file_location("_core", sys.argv[1])
core = util.module_from_spec(spec)
spec.loader.exec_module(core)
core.tell_devices(sys.argv[2])
"""


def install() -> None:
    """Has drivers asked by this interpreter, where it is one that runs commands."""
    # A program that Python is built into may be anything, and would start again.
    if os.path.basename(sys.executable or "").lower().startswith("python"):
        _core.set_prober([sys.executable, "-I", "-S", "-c", _ASK, _core.__file__])
