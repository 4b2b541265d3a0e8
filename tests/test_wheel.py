"""The wheel: it holds what it has to, and works away from the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
MODELS = sorted(path.parent for path in (CHECKOUT / "hub_configs").glob("*/config.json"))
EMBEDDED = "impflow-power-plant"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the checkout."""
    out = tmp_path_factory.mktemp("dist")
    # In an isolated environment the build tool would be downloaded anew.
    isolation = [] if importlib.util.find_spec("hatchling") is None else ["--no-isolation"]
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
    assert {"impflow_zoo/py.typed", "impflow_zoo/publishing/templates/card.md.jinja"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_holds_every_config_recipe_and_card_and_the_default_s_weights(names):
    inside = "impflow_zoo/hub_configs"
    for folder in MODELS:
        for file in ("config.json", "recipe.yaml", "README.md"):
            if (folder / file).exists():
                assert f"{inside}/{folder.name}/{file}" in names
    for file in ("golden.safetensors", "test.parquet"):
        assert f"{inside}/{EMBEDDED}/{file}" in names
    weights = {name for name in names if name.endswith("/model.safetensors")}
    assert weights == {f"{inside}/{EMBEDDED}/model.safetensors"}


def test_it_is_small_and_holds_nothing_else(wheel, names):
    assert wheel.stat().st_size < 2_000_000
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"impflow_zoo"}
    assert not [name for name in names if "__pycache__" in name]
    assert not [name for name in names if name.endswith((".jsonl", ".png"))]


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
    result = json.loads(run("-m", "impflow_zoo", "evaluate", EMBEDDED, "--json"))
    assert result["dataset"].startswith(str(site))
    assert result["n"] == 946
    assert result["metric"] == "log_likelihood"
