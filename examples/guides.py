"""Run the code of the guides in docs/ and keep the pictures it makes.

python examples/guides.py [--out docs/pictures]
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
GUIDES = ("using-nflows", "using-normflows", "using-zuko")


def code_of(guide: str) -> str:
    """The Python code of a guide."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / f"{guide}.md").read_text(), re.DOTALL)
    return code


def run(guide: str, picture: Path) -> None:
    """Run a guide as it is printed and move its picture."""
    code = compile(code_of(guide), f"{guide}.md", "exec")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(code, {"__name__": guide})
        picture.write_bytes(Path("density.png").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=DOCS / "pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for guide in GUIDES:
        print(guide, end=", ", flush=True)
        run(guide, options.out.resolve() / f"{guide}.png")


if __name__ == "__main__":
    main()
