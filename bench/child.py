"""Children: a process that is run to its end, its JSON answer and its peak memory.

The judging process stays small on purpose (no numpy, no onnx): on Linux a child's ru_maxrss
begins at what its parent had resident when it was started.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

MIB = 1024.0 * 1024.0
FAST_POLL_S, SLOW_POLL_S = 0.001, 0.02
REASON_CHARS_MAX = 200
# What was tuned here before, and nowhere else, is no part of a comparison.
ENVIRONMENT = {**os.environ, "HETRA_STORE": "off"}


def peak_so_far(pid):
    """VmHWM in bytes while the process lives, else 0 (also where there is no /proc)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def own_peak():
    """What a child's ru_maxrss may have inherited from this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return peak_so_far("self") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run(command, timeout):
    """Runs to the end; returns (exit status, stdout, stderr, peak bytes).

    The peak is ru_maxrss from wait4. Where that is about what this process had when it forked,
    it says nothing about the child; then the last VmHWM seen while polling stands in.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=ENVIRONMENT
        )
        deadline = time.monotonic() + timeout
        polled, done, delay, late = 0, 0, FAST_POLL_S, False
        while not done:
            # Popen returns after the exec, so this is the new program's mark; it never falls,
            # and it is 0 once the process is gone.
            polled = peak_so_far(child.pid) or polled
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            if not done:
                if time.monotonic() > deadline:
                    late = True
                    os.kill(child.pid, signal.SIGKILL)
                time.sleep(delay)
                delay = min(SLOW_POLL_S, delay * 1.2)
        child.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if polled and peak <= own_peak() + MIB:
            peak = polled
        out.seek(0)
        err.seek(0)
        said = err.read().decode(errors="replace")
        if late:
            said += f"\nnot done after {timeout:g} s"
        return child.returncode, out.read().decode(errors="replace"), said, peak


def last_json(text):
    """The last line of stdout that is a JSON object, or the whole of stdout."""
    for candidate in [text, *reversed(text.splitlines())]:
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise ValueError("no JSON on stdout")


def ask(command, timeout):
    """A child's JSON with `peak_mib`; {"error": ...} where it failed. A failure is a result and
    is shown: it must not drop out of the table."""
    said, peak = answer_of(command, timeout)
    return said if "error" in said else said | {"peak_mib": peak / MIB}


def own_json(command, timeout):
    """As `ask`, with nothing added to what the child says."""
    return answer_of(command, timeout)[0]


def answer_of(command, timeout):
    """(a child's JSON, or its error; its peak in bytes)."""
    code, out, err, peak = run([str(part) for part in command], timeout)
    if code != 0:
        what = f"signal {-code}" if code < 0 else f"exit {code}"
        return {"error": f"{what}: {reason(err.strip() or out.strip() or 'no message')}"}, peak
    try:
        return last_json(out), peak
    except ValueError as error:
        return {"error": str(error)}, peak


def reason(text):
    """What a program said last, as one short line; folders of this machine are left out."""
    words = text.splitlines()[-6:]
    line = " ".join(" ".join(words).split())
    for folder in sorted({os.getcwd(), tempfile.gettempdir(), os.path.expanduser("~")}, key=len)[
        ::-1
    ]:
        line = line.replace(folder, "..")
    return line[-REASON_CHARS_MAX:]
