"""The oldest packages: `.ci/oldest` tests what pyproject.toml allows, and documents state it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from support.checkout import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_INSTALLED = {"libraries"}  # what a few slow tests use; `.ci/run` does without


def minima(*groups: Iterable[str]) -> set[tuple[str, str]]:
    """Packages of others and their oldest versions."""
    found = set()
    for requirement in map(Requirement, (line for group in groups for line in group)):
        if requirement.name != PROJECT["name"]:
            (clause,) = requirement.specifier
            found.add((requirement.name, clause.version))
    return found


def test_the_oldest_packages_that_are_allowed_are_tested():
    installed = [EXTRAS[name] for name in EXTRAS.keys() - NOT_INSTALLED]
    allowed = minima(PROJECT["dependencies"], *installed)
    lines = (CHECKOUT / ".ci" / "oldest.txt").read_text().splitlines()
    tested = {line for line in lines if not line.startswith("#")}
    assert tested == {f"{name}=={version}" for name, version in allowed}


def test_every_extra_names_the_same_oldest_version():
    allowed = minima(PROJECT["dependencies"], *EXTRAS.values())
    assert len(allowed) == len(dict(allowed))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_state_the_oldest_python_and_torch(document):
    python = PROJECT["requires-python"].removeprefix(">=")
    torch = dict(minima(PROJECT["dependencies"]))["torch"]
    text = re.sub(r"\s+", " ", (CHECKOUT / document).read_text(encoding="utf-8"))
    assert f"You need Python {python} and torch {torch}, or later" in text
