"""A model whose test rows come in groups: folder, card and tables say that errors are clustered."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
import tables
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from support import staged_folder
from support.small_models import rows

from impflow_zoo import evaluate
from impflow_zoo.models.filenames import CARD, RECIPE, SCORES
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.zoo import staging
from impflow_zoo.zoo.comparison import score
from impflow_zoo.zoo.record import Record, records


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is staged twice: on a toy, and with rows in seven groups."""
    root = tmp_path_factory.mktemp("checkout")
    staged_folder.stage(root / "hub_configs" / "alone")
    folder = staged_folder.stage(root / "hub_configs" / "grouped")
    recipe = yaml.safe_load((folder / RECIPE).read_text())
    recipe["card"]["data_name"] = "photographs"
    (folder / RECIPE).write_text(yaml.safe_dump(recipe))
    frame = pandas.DataFrame(rows(1400).numpy(), columns=["a", "b"])
    frame.assign(group=[i % 7 for i in range(1400)]).to_parquet(root / "test.parquet")
    with pytest.MonkeyPatch.context() as patch:
        datasets = pytest.importorskip("datasets")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(root / "cache"))
        staging.stage(None, folder, data=str(root / "test.parquet"))
        known = evaluate(folder, root / "test.parquet")
    assert known.groups == 7
    return root


def test_the_folder_keeps_the_groups(checkout):
    folder = checkout / "hub_configs" / "grouped"
    entry = Record(ModelFolder(folder)).entry
    assert (entry.n, entry.groups) == (1400, 7)
    assert load_file(folder / SCORES)["group"].tolist() == [i % 7 for i in range(1400)]
    alone = checkout / "hub_configs" / "alone"
    assert Record(ModelFolder(alone)).entry.groups is None
    assert "group" not in load_file(alone / SCORES)


def test_the_card_says_that_its_error_is_clustered(checkout):
    grouped, alone = (
        (checkout / "hub_configs" / name / CARD).read_text() for name in ("grouped", "alone")
    )
    assert (
        "± is the standard error of the mean\nover rows, clustered by the 7 groups that they come "
        "in: rows of one group are not independent; log-determinants are exact."
    ) in grouped
    assert "± is the standard error of the mean\nover rows; log-determinants" in alone
    arguments = ModelCard(grouped).data.eval_results[0].metric_args
    assert arguments["groups"] == 7
    assert "groups" not in ModelCard(alone).data.eval_results[0].metric_args


def test_the_tables_say_so(checkout):
    alone, grouped = records(checkout / "hub_configs")
    moons, photographs = tables.by_data_set([alone, grouped], {}).split("### Photographs")
    assert photographs.endswith("\n\nErrors are clustered by 7 groups.")
    assert f"| {score(grouped)} |" in photographs
    assert "clustered" not in moons
