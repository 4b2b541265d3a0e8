"""What a release consists of agrees: versions, addresses, papers, workflows, moved modules."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from support.checkout import CHECKOUT

from impflow_zoo.models.classes import model_class
from impflow_zoo.models.registry import zoo_folder

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((CHECKOUT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
MODELS = ["ImpFlow", "ResFlow", "MonotoneFlow", "SplineFlow", "MixtureDensityNetwork"]


# ------------------------------------------------------------------------ versions and addresses


def test_one_version_stands_in_all_files():
    heading = re.search(r"^## (.+)$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = str(CITATION["date-released"])
    assert str(Version(PROJECT["version"])) == PROJECT["version"]
    assert CITATION["version"] == PROJECT["version"]
    assert heading
    assert heading[1] == f"{PROJECT['version']} ({released})"


def test_the_addresses_are_those_of_one_repository():
    urls, source = PROJECT["urls"], PROJECT["urls"]["Source"]
    assert urls.keys() == {"Documentation", "Source", "Issues", "Changelog"}
    assert urls["Issues"] == f"{source}/issues"
    assert urls["Changelog"] == f"{source}/blob/main/CHANGELOG.md"
    assert CITATION["repository-code"] == source


def test_the_repository_s_address_is_written_in_one_place():
    """Beside it stand the citation, and what `docs/renew.py` writes from it."""
    source = PROJECT["urls"]["Source"].removeprefix("https://")
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True)
    generated = re.compile(r"<!-- (install[a-z ]*|clone) -->.*?<!-- end of \1 -->", re.DOTALL)
    found = set()
    for name in listed.stdout.splitlines():
        written = re.fullmatch(r"hub_configs/.+/README\.md|space/requirements\.txt", name)
        if not written and Path(name).suffix in (
            ".py",
            ".md",
            ".toml",
            ".yaml",
            ".yml",
            ".cff",
            ".jinja",
        ):
            text = generated.sub("", (CHECKOUT / name).read_text(encoding="utf-8"))
            found |= {name} if source in text else set()
    assert found <= {"pyproject.toml", "CITATION.cff"}


# ----------------------------------------------------------------------------------- the citation


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda r: r["title"])
def test_papers_of_the_citation_are_those_of_the_code(reference):
    """Title, first author, year and address stand in a docstring of the package, too."""
    assert {"type", "title", "authors", "year", "url"} <= reference.keys()
    family, title = reference["authors"][0]["family-names"], reference["title"]
    pages = {re.sub(r"\s+", " ", p.read_text()) for p in (CHECKOUT / "impflow_zoo").rglob("*.py")}
    named = [text for text in pages if reference["url"] in text and family in text]
    assert any(str(reference["year"]) in text for text in named), title


@pytest.mark.parametrize("name", MODELS)
def test_papers_of_the_models_are_cited(name):
    citation = model_class(name).citation
    (reference,) = (r for r in CITATION["references"] if f"title={{{r['title']}}}" in citation)
    assert f"year={{{reference['year']}}}" in citation
    assert f"url={{{reference['url']}}}" in citation
    families = re.search(r"author=\{(.*?)\},\n", citation)
    assert families
    written = [a.partition(",")[0] for a in families[1].split(" and ")]
    assert written == [a["family-names"] for a in reference["authors"]]


# ------------------------------------------------------------------------------------ the workflows


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job["steps"]


def commands() -> set[str]:
    """What the workflows and Read the Docs run, command by command."""
    runs = [step["run"] for workflow in WORKFLOWS for step in steps(workflow) if "run" in step]
    jobs = yaml.safe_load((CHECKOUT / ".readthedocs.yaml").read_text())["build"]["jobs"]
    lines = [
        line
        for run in (*runs, *jobs["install"], *jobs["build"]["html"])
        for line in run.split("\n")
    ]
    return {command.strip() for line in lines for command in line.split("&&") if command.strip()}


def test_workflows_are_complete():
    assert [w.stem for w in WORKFLOWS] == ["docs", "oldest", "release", "slow", "tests", "weights"]
    for workflow in WORKFLOWS:
        text = yaml.safe_load(workflow.read_text())
        assert {"name", True, "permissions", "jobs"} <= text.keys()  # YAML reads `on` as true
        assert text["permissions"] == {"contents": "read"}
        for step in steps(workflow):
            assert ("run" in step) != ("uses" in step)


def test_forms_are_complete():
    assert [form.stem for form in FORMS] == ["bug", "config", "new_model", "question"]
    for form in FORMS[:1] + FORMS[2:]:
        text = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= text.keys()
        assert all(part["type"] in ("markdown", "textarea") for part in text["body"])
    assert "IMPFLOW_ZOO_TRACEBACK=1" in FORMS[0].read_text()


@pytest.mark.parametrize("command", sorted(commands()))
def test_workflows_run_what_the_documents_say(command):
    """But for what only a workflow does: paths of its machine, names that are given by hand."""
    pages = ("README.md", "CONTRIBUTING.md", "docs/maintaining.md")
    told = "\n".join((CHECKOUT / page).read_text(encoding="utf-8") for page in pages)
    own = {
        'grep -qx "version = \\"${GITHUB_REF_NAME#v}\\"" pyproject.toml',
        'test -z "$(find dist -size +99999999c)"',
        'cd "$RUNNER_TEMP"',
        "pip install dist/*.whl",
        "pip install build twine",
    }
    for specific, said in (
        ("--extra-index-url https://download.pytorch.org/whl/cpu ", ""),
        ("$READTHEDOCS_OUTPUT/html", "docs/_build"),
        ("HF_HUB_OFFLINE=1 ", ""),
        ("ruff format --check .", "ruff format ."),
        ('--namespace "$NAMESPACE"', "--namespace impflow-zoo"),
        (" $MODELS", ""),
    ):
        command = command if command in own else command.replace(specific, said)
    assert command in own or command in told


def installed(text: str) -> set[str]:
    """Extras and packages that the lines of a text install from a checkout."""
    found: set[str] = set()
    for extras, packages in re.findall(r'pip install .*-e "\.\[(.*?)\]"(.*)', text):
        found |= {*extras.split(","), *packages.split()}
    return found


def test_the_workflow_tests_with_what_ci_run_installs():
    """Else tests skip there in silence."""
    (tests,) = (workflow for workflow in WORKFLOWS if workflow.stem == "tests")
    job = yaml.safe_load(tests.read_text())["jobs"]["tests"]
    lines = "\n".join(step.get("run", "") for step in job["steps"])
    assert installed(lines) == installed((CHECKOUT / ".ci" / "run").read_text())


def test_the_pythons_of_the_classifiers_are_tested():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line]
    (tests,) = (workflow for workflow in WORKFLOWS if workflow.stem == "tests")
    matrix = yaml.safe_load(tests.read_text())["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")


def test_the_file_of_pins_is_part_of_the_zoo():
    assert (zoo_folder() / "revisions.json").is_file()
