"""Writes crates/ops/assets/schemas.txt: the operators that ONNX and ONNX Runtime define.

A line is a domain, a name, the first version, and the names of the attributes of all versions.

    python tools/list_schemas.py
"""

from collections import defaultdict
from pathlib import Path

import onnx.defs
from onnxruntime.capi import _pybind_state as runtime

OUT = Path(__file__).parent.parent / "crates/ops/assets/schemas.txt"
# What ONNX Runtime adds that is meant for files; its other domains are its own affair.
CONTRIBUTED = "com.microsoft"


def main():
    since = defaultdict(lambda: 1 << 30)
    attributes = defaultdict(set)
    contributed = [s for s in runtime.get_all_operator_schema() if s.domain == CONTRIBUTED]
    for schema in [*onnx.defs.get_all_schemas_with_history(), *contributed]:
        key = (schema.domain or "ai.onnx", schema.name)
        since[key] = min(since[key], schema.since_version)
        attributes[key].update(schema.attributes)
    lines = [" ".join([*key, str(since[key]), *sorted(attributes[key])]) for key in sorted(since)]
    OUT.write_text("\n".join(lines) + "\n")
    print(f"{OUT}: {len(lines)} operators")


if __name__ == "__main__":
    main()
