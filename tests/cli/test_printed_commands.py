"""Every command that a card, the README, a guide or a table prints runs.

They train one block for two steps, as `support/workspace.py` shortens the recipes, and it gives
scripts options with which they do little. Data that cannot ship are made up; where a
command takes rows from the Hub, made-up ones are named in it. `ELSEWHERE` names the commands that
do not run here, and what runs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import CHECKOUT
from support.printed_commands import Commands, cases, documents, published
from support.workspace import Workspace

from impflow_zoo.cli import app

pytest.importorskip("matplotlib")

ELSEWHERE = {
    r"pip install .*": "`.ci/run` and tests/package/test_wheel.py install the package",
    r"git clone .*|cd impflow_zoo": "the repository is on the network",
    r"pytest( tests/\w+)*( -m slow)?( -n 2)?": "this is it",
    r"python -m sphinx .*": "tests/documents/test_site.py builds the site",
    r"python -m build": "tests/package/test_wheel.py builds the wheel",
    r"python -m twine .*": "PyPI's program, with the maintainer's token",
    r"hf .*": "the Hub's program, with the maintainer's token",
    r"impflow-zoo demo .*": "tests/demo/test_page.py opens it in a browser",
    r"impflow-zoo publish (runs/own )?--namespace \S+": "tests/zoo/, to a Hub of its own",
    r"impflow-zoo stage runs/own --data FOLDER": "tests/zoo/ stages the folder of a run",
    r"impflow-zoo fit .*--bounds .*": "tests/cli/test_cli_fit.py states bounds of its own table",
    r"export (MALLOC_|IMPFLOW_ZOO_SINES).*": "settings of the shell",
    r"accelerate launch .*": "tests/training/test_processes.py launches several processes",
}
LONG = (  # `pytest -m slow tests/cli/test_printed_commands.py` runs these
    r"python examples/(?!prepare).*",
    r".*-(cifar10|mnist|celeba64|imagenet64).*",  # certificates of convolutions
    r"impflow-zoo fit .*--ensemble \d+",  # tests/fitting/test_fit.py makes one
    r"impflow-zoo train mixed-bsds300.*",  # 63 columns; those of other tables run
    r"impflow-zoo publish .*--dry-run",  # all certificates
    r"impflow-zoo certify \w+-(?!kin8nm|power-plant|zoo).*",  # LipSDP of wide or many nets
)

PUBLISHED = published(laboratory=False)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    datasets = pytest.importorskip("datasets")
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield Workspace(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize(("commands", "document"), [*cases(PUBLISHED, ELSEWHERE, LONG)])
def test_a_published_command_runs(commands: Commands, document: Path, workspace: Workspace):
    workspace.run(commands, document)


def test_every_exception_is_one_of_a_command_that_is_printed():
    printed = {command for commands in PUBLISHED for command in commands}
    for exception in ELSEWHERE:
        assert any(re.fullmatch(exception, command) for command in printed), exception


def test_the_commands_that_are_named_exist():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    for document in documents():
        named = re.findall(r"`impflow-zoo ([a-z]+)", document.read_text(encoding="utf-8"))
        assert {*named} <= known, document.relative_to(CHECKOUT)
