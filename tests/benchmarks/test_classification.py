"""The experiment that classifies images: its nets, its runs and its page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import classification
import classification_page
import classifier
import documents
import pytest
import torch
from typer.testing import CliRunner

TINY = classification.Settings(width=8, steps=4, batch_size=8)


def images(split: str) -> Any:
    return classification.read("", split, made_up=True)


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(classification.app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.mark.parametrize("width", [2, 8, 64])
def test_all_kinds_have_as_many_parameters(width: int) -> None:
    with torch.device("meta"):
        made = [classifier.Classifier(kind, 0.9, width) for kind in classifier.KINDS]
    counts = [sum(p.numel() for p in one.parameters()) for one in made]
    assert max(counts) <= 1.02 * min(counts) or width == 2


@pytest.mark.parametrize("kind", classifier.KINDS)
def test_every_parameter_learns(kind: str) -> None:
    made = classifier.Classifier(kind, 0.9, width=8, size=16)
    scores = made(torch.rand(4, 3, 16, 16))
    assert scores.shape == (4, classifier.CLASSES)
    scores[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    assert len(made.iterations()) == (4 if kind == "implicit" else 0)


@pytest.mark.parametrize("bound", [0.9, 0.6])
def test_the_bound_is_that_of_every_convolution(bound: float) -> None:
    made = classifier.Classifier("implicit", bound, width=2, size=16)
    blocks = [m.block for m in made.modules() if isinstance(m, classifier.Layer)]
    layers = [layer for block in blocks for net in block.children() for layer in net.layers]
    assert len(layers) == 16
    assert all(layer.coefficient == pytest.approx(bound) for layer in layers)


def test_a_saved_classifier_is_the_same(tmp_path: Path) -> None:
    made = classifier.Classifier("implicit", 0.7, width=2).eval()
    x = torch.rand(3, 3, 32, 32)
    expected = made(x)
    classifier.save(made, tmp_path / "weights.safetensors")
    assert torch.equal(classifier.load(tmp_path / "weights.safetensors")(x), expected)


def test_crops_and_flips() -> None:
    pixels = torch.randint(1, 256, (64, 3, 8, 8), dtype=torch.uint8)
    shown = classification.augmented(pixels, torch.Generator().manual_seed(0))
    assert shown.shape == pixels.shape
    flips = 0
    for image, found in zip(pixels, shown, strict=True):
        padded = torch.nn.functional.pad(image, [4] * 4)
        crops = [padded[:, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        straight = any(torch.equal(crop, found) for crop in crops)
        flipped = any(torch.equal(crop.flip(2), found) for crop in crops)
        assert straight or flipped
        flips += flipped and not straight
    assert 16 < flips < 48


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = images("train"), images("test")
    classification.run(TINY, train, test, tmp_path / "whole", resume=False)
    batches = classification.batches

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(classification, "EVERY", 2)
    monkeypatch.setattr(classification, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classification.run(TINY, train, test, tmp_path / "parts", resume=False)
    monkeypatch.setattr(classification, "batches", batches)
    with pytest.raises(classification.CheckpointError, match="holds a run already"):
        classification.run(TINY, train, test, tmp_path / "parts", resume=False)
    with pytest.raises(classification.CheckpointError, match="a run with other settings"):
        classification.run(replace(TINY, seed=1), train, test, tmp_path / "parts", resume=True)
    classification.run(TINY, train, test, tmp_path / "parts", resume=True)
    whole, parts = (
        classifier.load(tmp_path / name / classification.WEIGHTS).state_dict()
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not (tmp_path / "parts" / classification.CHECKPOINT).exists()
    with pytest.raises(classification.CheckpointError, match="a run with other settings"):
        classification.run(replace(TINY, steps=5), train, test, tmp_path / "parts", resume=True)


@pytest.mark.slow
def test_every_run_of_the_table_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    runs, written = tmp_path / "runs", tmp_path / "page.md"
    monkeypatch.setattr(documents, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(classification_page, "PAGE", written)
    monkeypatch.setattr(classification_page, "PICTURE", tmp_path / "picture.png")
    call("table", "--dry-run", "--out", runs)
    assert len(list(runs.glob("*/result.json"))) == 17
    call("table", "--dry-run", "--out", runs, "--resume")  # has nothing left to do
    marker = classification_page.MARKER
    written.write_text(f"<!-- {marker} -->\n<!-- end of {marker} -->\n")
    call("page", "--runs", runs)
    text = written.read_text()
    assert text.count("| implicit |") == 5
    assert "| implicit | 0.9 | 3 |" in text
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    call("page", "--runs", tmp_path / "gone")  # shows what is kept
    assert written.read_text() == text


def test_longer_runs_stand_above_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    page, marker = tmp_path / "page.md", classification_page.MARKER
    monkeypatch.setattr(documents, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(classification_page, "PAGE", page)
    monkeypatch.setattr(classification_page, "PICTURE", tmp_path / "picture.png")
    page.write_text(f"<!-- {marker} -->\n<!-- end of {marker} -->\n")
    call("table", "--dry-run", "--bound", "0.9", "--seeds", "1", "--out", tmp_path / "runs")
    files = sorted(tmp_path.glob("runs/*/result.json"))
    assert len(files) == 3
    short = [json.loads(file.read_text()) for file in files]
    for runs in (short, [run | {"steps": 20_000} for run in short], []):
        classification_page.write_page(runs)
    _, _, *lines = (x for x in page.read_text().splitlines() if x[:1] == "|")
    assert [line.split(" | ")[2] for line in lines] == 2 * ["no bound", "implicit", "residual"]
    assert all(float(line.split()[1]) > 0 for line in lines[:3])


def test_one_run_answers_with_its_result(tmp_path: Path) -> None:
    command = ("train", "--dry-run", "--kind", "residual", "--validation-only")
    result = json.loads(call(*command, "--out", tmp_path / "run"))
    assert result["kind"] == "residual"
    assert result["validation"]["rows"] == 32
    assert "test" not in result


@pytest.mark.parametrize("wrong", [("--kind", "other"), ("--bound", "1.5")])
def test_mistakes(tmp_path: Path, wrong: tuple[str, str]) -> None:
    arguments = ["train", "--dry-run", *wrong, "--out", str(tmp_path)]
    result = CliRunner().invoke(classification.app, arguments)
    assert result.exit_code == 2
    assert wrong[1] in result.output
