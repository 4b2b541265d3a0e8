"""Every command that the documents of the benchmarks print runs, shortened."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from support.printed_commands import LABORATORY, Commands, cases, published
from support.workspace import FEW, Workspace

pytest.importorskip("matplotlib")

ELSEWHERE = {
    r"python benchmarks/\w+.py .*--public .*": "others' code",
    r"python benchmarks/sbi_tasks.py .*": "tests/benchmarks/test_sbi_tasks.py",
}
LONG = (r"(OMP_NUM_THREADS=1 )?python benchmarks/(?!gaussian|variants).*",)
PRINTED = published(laboratory=True)


class Laboratory(Workspace):
    """A workspace with the benchmarks."""

    few: ClassVar = FEW | {
        "python benchmarks/classification.py t": "--dry-run",  # table and train
        "python benchmarks/default_recipe.py": "--minutes 0.01 --seeds 0 --recipes AdamW",
        "python benchmarks/fit_tables.py": "--minutes 0.01 --tables 'robot arm, 7 columns'",
        "python benchmarks/memory.py": "--counts 5",
        "python benchmarks/torch_tools.py": "--dry-run",
    }
    in_process: ClassVar = ("gaussian_baseline.py", "variants.py")

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        shutil.copytree(LABORATORY, root / "benchmarks")

    def folder(self, command: str, model: str | None) -> str:
        """Three tables of the zoo where a script asks for them."""
        if "default_recipe.py" not in command:
            return super().folder(command, model)
        folder = self.root / "tables"
        for name in ("protein", "power-plant", "kin8nm"):
            shutil.copytree(self.data(f"impflow-{name}"), folder / name)
        return str(folder)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    datasets = pytest.importorskip("datasets")
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield Laboratory(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize(("commands", "document"), [*cases(PRINTED, ELSEWHERE, LONG)])
def test_a_printed_command_runs(commands: Commands, document: Path, laboratory: Laboratory):
    laboratory.run(commands, document)


def test_every_exception_is_one_of_a_command_that_is_printed():
    printed = {command for commands in PRINTED for command in commands}
    for exception in ELSEWHERE:
        assert any(re.fullmatch(exception, command) for command in printed), exception
