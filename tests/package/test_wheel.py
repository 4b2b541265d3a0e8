"""The wheel: it holds what it has to, and works away from the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.checkout import CHECKOUT

FOLDERS = sorted(path.parent for path in (CHECKOUT / "hub_configs").glob("*/config.json"))
MODELS = [folder for folder in FOLDERS if (folder / "model.safetensors").is_file()]
LEFT_OUT: set[str] = set()  # models whose weights are on the Hub alone
LARGEST = 60_000_000  # bytes of a wheel; PyPI takes 100 MB
WORKS = """
import torch
from impflow_zoo import create_model, list_models

for name in sorted({*list_models()} - LEFT_OUT):
    model = create_model(name, verify=True)  # golden batch and certificate
    given = model.config.context_features
    rows = model.sample(2, None if given is None else torch.zeros(1, given))
    assert rows.reshape(-1, *model.config.shape).shape[0] == 2, name
    print(name)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the checkout."""
    out = tmp_path_factory.mktemp("dist")
    # In an isolated environment the build tool would be downloaded anew.
    there = all(importlib.util.find_spec(n) for n in ("hatchling", "hatch_fancy_pypi_readme"))
    isolation = ["--no-isolation"] if there else []
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", out, CHECKOUT],
        check=True,
        capture_output=True,
    )
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_the_package(names):
    sources = CHECKOUT / "impflow_zoo"
    expected = {f"impflow_zoo/{p.relative_to(sources)}" for p in sources.rglob("*.py")}
    assert expected <= names
    assert {"impflow_zoo/py.typed", "impflow_zoo/zoo/templates/card.md.jinja"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_holds_every_model_with_its_weights(names):
    for folder in FOLDERS:
        left_out = ("scores.safetensors", ".png")
        if folder.name in LEFT_OUT:
            left_out = (*left_out, "model.safetensors")
        for path in folder.iterdir():
            inside = f"impflow_zoo/hub_configs/{folder.name}/{path.name}"
            assert (inside in names) == (not path.name.endswith(left_out)), inside


def test_it_names_the_commits_of_weights_that_it_leaves_out(wheel, names):
    pins = "impflow_zoo/hub_configs/revisions.json"
    assert pins in names
    with zipfile.ZipFile(wheel) as archive:
        assert {f"impflow-zoo/{name}" for name in LEFT_OUT} <= json.loads(archive.read(pins)).keys()


def test_it_is_small_and_holds_nothing_else(wheel, names):
    assert wheel.stat().st_size < LARGEST
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"impflow_zoo"}
    assert not [name for name in names if "__pycache__" in name]
    assert not [name for name in names if name.endswith((".jsonl", ".png"))]


def test_the_links_of_its_description_lead_to_the_site(wheel, names):
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        _, _, text = archive.read(metadata).decode().partition("# impflow_zoo")
    links = re.findall(r"\]\(([^)\s]*)\)", text)
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)


def test_it_works_away_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return ended.stdout

    where = run("-c", "import impflow_zoo; print(impflow_zoo.__file__)").strip()
    assert where == str(site / "impflow_zoo" / "__init__.py")
    listed = json.loads(run("-m", "impflow_zoo", "list", "--json"))["models"]
    assert [model["name"] for model in listed] == [folder.name for folder in MODELS]
    names = [folder.name for folder in MODELS if folder.name not in LEFT_OUT]
    assert run("-c", f"LEFT_OUT = {LEFT_OUT}\n{WORKS}").split() == names
    for name in names:
        shipped = site / "impflow_zoo" / "hub_configs" / name / "test.parquet"
        if shipped.is_file():
            result = json.loads(run("-m", "impflow_zoo", "evaluate", name, "--json"))
            assert result["dataset"] == str(shipped)
            assert result["value"] == pytest.approx(result["published"], abs=1e-4)
