"""Run the code of the guides in docs/ and keep the pictures it makes.

python examples/guides.py [--out docs/pictures] [--guides tutorial]
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
GUIDES = ("using-nflows", "using-normflows", "using-zuko", "tutorial")


def code_of(guide: str) -> list[str]:
    """The programs of a guide, in order."""
    return re.findall(r"```python\n(.*?)```", (DOCS / f"{guide}.md").read_text(), re.DOTALL)


def run(guide: str, out: Path) -> None:
    """Run a guide as it is printed and keep its pictures.

    `density.png` of the guide `NAME` becomes `NAME.png`; any other `picture.png` becomes
    `NAME-picture.png`.
    """
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            for code in code_of(guide):
                exec(compile(code, f"{guide}.md", "exec"), {"__name__": guide})
        for picture in Path(folder).glob("*.png"):
            name = guide if picture.stem == "density" else f"{guide}-{picture.stem}"
            shutil.move(picture, out / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=DOCS / "pictures")
    parser.add_argument("--guides", nargs="+", default=GUIDES, choices=GUIDES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for guide in options.guides:
        print(guide, flush=True)
        run(guide, options.out.resolve())


if __name__ == "__main__":
    main()
