"""A recipe that we did not write is read, or ends in the library's own error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import FEW, MANY, VALUES, answer_or_none, places
from support.small_models import write_recipe

from impflow_zoo.models.fields import ConfigError
from impflow_zoo.training.recipe import Recipe, read_recipe

TEXT = """model: ImpFlow
config: {kind: tabular, features: 2, hidden_features: [8, 8], bounds: {}}
data:
  dataset: toy:moons
training: {steps: 4, learning_rate: 1.0e-3}
stages:
  - {steps: 2}
  - steps: 3
card:
  summary: >-
    A test.
  limits: [one, 'two']
"""
SIGNS = [*"&*!|>'\"%@`#,?-:[]{}~\\ \n\t\ufeff\x00\x85é", "<<: ", "\n  ", ": ", "- ", "---", "..."]
WORDS = ["null", "true", ".inf", ".nan", "0x", "0o7", "1e9", "1:2:3", "2001-99-99", "9" * 5000]
TAGS = ["&a ", "*a", "*b", "!x ", "!!python/name:os ", "!!omap ", "!!set ", "!!binary "]
TAGS += ["!!int ", "!!float ", "!!timestamp "]
TOKENS = st.one_of(map(st.sampled_from, (SIGNS, WORDS, TAGS)))


def read(path: Path, content: bytes) -> Recipe | None:
    path.write_bytes(content)
    return answer_or_none(read_recipe, path)


@st.composite
def changed_text(draw: st.DrawFn) -> bytes:
    """The recipe with a few tokens put in or in the place of others."""
    text = TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 5, 30]))
        text = text[:start] + "".join(draw(st.lists(TOKENS, max_size=3))) + text[end:]
    return text.encode()


@st.composite
def changed_values(draw: st.DrawFn) -> bytes:
    """The recipe with a few values replaced, added or taken away."""
    data = yaml.safe_load(TEXT)
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(data))))
        if draw(st.booleans()):
            container[key] = draw(VALUES)
        elif isinstance(container, dict):
            container[draw(st.text(max_size=8))] = draw(VALUES)
    return yaml.safe_dump(data, allow_unicode=True).encode(errors="surrogatepass")


RECIPES = st.one_of(changed_text(), changed_values(), st.binary(max_size=50))


@given(content=RECIPES)
@FEW
def test_recipes(tmp_path, content):
    read(tmp_path / "recipe.yaml", content)


@pytest.mark.slow
@given(content=RECIPES)
@MANY
def test_many_recipes(tmp_path, content):
    read(tmp_path / "recipe.yaml", content)


def test_the_recipe_that_is_changed_is_one(tmp_path):
    assert read(tmp_path / "recipe.yaml", TEXT.encode()) is not None


def _laughs(join: str) -> str:
    """Ten lines that stand for ten billion values."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(10):
        lines.append(f"a{i + 1}: &a{i + 1} " + join % ", ".join([f"*a{i}"] * 10))
    return "\n".join(lines)


ABSURD = {
    "time that is none": "model: !!timestamp foo",
    "number that is none": "model: !!int ''",
    "truth that is none": "model: !!bool foo",
    "day that is none": "model: 2001-99-99",
    "seconds without end": "model: " + "1:" * 100_000 + "1",
    "fractions without end": "model: " + "1:" * 40 + "1.5",
    "digits": "model: " + "9" * 200_000,
    "digits of base 16": "model: 0x" + "f" * 200_000,
    "text for a number": f"training: {{learning_rate: '{'9' * 100_000}x'}}",
    "stages": f"{TEXT.partition('stages')[0]}stages: [{'{}, ' * 100_000}]",
    "stages that a recipe may list": TEXT.replace("- {steps: 2}", "- {}\n  " * 2000 + "- {}"),
    "columns": f"config: {{columns: [{'a, ' * 50_000}]}}",
    "lists in lists": "[" * 1000,
    "lists in lists, closed": "[" * 1000 + "]" * 1000,
    "lists in lists by lines": "- " * 1000,
    "keys in keys": "? " * 1000,
    "a billion values": _laughs("[%s]"),
    "a billion merged values": _laughs("{<<: [%s]}"),
    "list in itself": "model: &a [*a]",
    "mapping in itself": "model: &a {b: *a}",
    "mapping merged into itself": "model: &a {<<: *a}",
    "key given twice": "model: ImpFlow\nmodel: ResFlow",
    "key of a list": "? [a]\n: b",
    "lines": "\n" * 1_000_000,
    "words": "model: " + "x " * 500_000,
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_recipes_are_refused(name, tmp_path):
    assert read(tmp_path / "recipe.yaml", ABSURD[name].encode()) is None


@pytest.mark.parametrize(
    "config",
    [
        {"blocks": 10**12},
        {"hidden_features": [10**9]},
        {"logdet": {"n_probes": 10**9}},
        {"solver": {"max_steps": 10**12}},
        {"columns": ["a"] * 2, "periodic": {"a": 10**400}},
    ],
    ids=str,
)
def test_absurd_settings_are_refused(config: dict[str, Any], tmp_path):
    path = write_recipe(tmp_path, config=config)
    assert answer_or_none(read_recipe, path) is None


def test_what_is_no_file_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull), Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match=f"recipe {path} cannot be read: "):
            read_recipe(path)
