"""What is imported when: heavy libraries only by what needs them."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("datasets", "normflows", "pandas", "pyarrow", "sklearn", "typer", "accelerate", "zuko")
PROBE = """
import sys
{below}
before = set(sys.modules)
import impflow_zoo
print(*(m for m in {heavy} if m in sys.modules))
print(*(m for m in ("matplotlib.pyplot", "jinja2") if m in set(sys.modules) - before))
"""


def test_importing_the_package_imports_nothing_heavy():
    """nflows itself imports matplotlib; we add nothing to that."""
    code = PROBE.format(below="import nflows.flows, huggingface_hub", heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
