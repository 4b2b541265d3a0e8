"""What pages say in words of who leads is true of the models' folders."""

from __future__ import annotations

from collections.abc import Sequence

import leads
import pytest
import tables
import yaml
from support.checkout import CHECKOUT

from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.zoo.record import Record

LEADS = {  # the first model of each pair leads the second
    ("README.md", "`ImpFlow` and `ResFlow` are level on kin8nm, ahead of splines"): [
        ("impflow-kin8nm", "spline-kin8nm"),
        ("resflow-kin8nm", "spline-kin8nm"),
    ],
    ("README.md", "`ResFlow` leads on the power plant and protein"): [
        ("resflow-power-plant", "impflow-power-plant"),
        ("resflow-power-plant", "spline-power-plant"),
        ("resflow-protein", "impflow-protein"),
        ("resflow-protein", "spline-protein"),
    ],
    (
        "docs/which-flow.md",
        "A spline layer behind implicit blocks did not gain on kin8nm, the power plant, protein "
        "and BSDS300",
    ): [
        ("impflow-kin8nm", "mixed-kin8nm"),
        ("impflow-power-plant", "mixed-power-plant"),
        ("impflow-protein", "mixed-protein"),
        ("impflow-bsds300", "mixed-bsds300"),
    ],
    (
        "docs/impflow-beside-resflow.md",
        "With sandwich nets and ELU, as in the zoo, `ResFlow` leads on protein",
    ): [
        ("resflow-protein", "impflow-protein"),
    ],
    ("docs/impflow-beside-resflow.md", "On CIFAR-10 `ResFlow` scores better"): [
        ("resflow-cifar10", "impflow-cifar10"),
    ],
}
BSDS300 = "BSDS300 (rebuilt)"


def record(name: str) -> Record:
    return Record(ModelFolder(CHECKOUT / "hub_configs" / name))


def says(page: str, sentence: str) -> bool:
    return sentence in " ".join((CHECKOUT / page).read_text("utf-8").split())


@pytest.mark.parametrize(("said", "pairs"), LEADS.items(), ids=[text for _, text in LEADS])
def test_a_lead_is_above_two_errors(
    said: tuple[str, str], pairs: Sequence[tuple[str, str]]
) -> None:
    assert says(*said)
    for better, worse in pairs:
        value, error, how = leads.lead((record(better), record(worse)))
        assert (value >= 2 * error, how) == (True, "paired"), (better, worse)


def test_kin8nm_is_level() -> None:
    value, error, how = leads.lead((record("impflow-kin8nm"), record("resflow-kin8nm")))
    assert (abs(value) < 2 * error, how) == (True, "paired")


def test_the_best_of_bsds300_is_called_no_lead_as_the_others_were_trained_once() -> None:
    assert says(
        "docs/which-flow.md",
        "On BSDS300 `ImpFlow` has the highest score, in both of two trainings. The other families "
        "were trained once there, so this is not yet a lead.",
    )
    found = [record(f"{family}-bsds300") for family in ("impflow", "resflow", "spline")]
    assert [one.over_seeds[2] if one.over_seeds else 1 for one in found] == [2, 1, 1]
    values = [leads.entry_of(one).value for one in found]
    assert values[0] == max(values)


def test_the_leads_of_the_front_page_are_of_several_trainings() -> None:
    for (page, _), pairs in LEADS.items():
        if page == "README.md":
            for name in {name for pair in pairs for name in pair}:
                trainings = record(name).over_seeds
                assert trainings, name
                assert trainings[2] >= 2, name


def test_no_spline_flow_leads() -> None:
    assert says(
        "docs/which-flow.md",
        "`ImpFlow` and `ResFlow` are ahead of the spline flows or level with them",
    )
    for data in ("kin8nm", "power-plant", "protein", "bsds300"):
        for family in ("impflow", "resflow"):
            pair = record(f"{family}-{data}"), record(f"spline-{data}")
            value, error, _ = leads.lead(pair)
            assert value > -2 * error, (family, data)


def test_a_published_flow_leads_on_bsds300() -> None:
    assert says("README.md", "Published spline flows score higher on BSDS300, on other patches")
    published = yaml.safe_load(tables.FIGURES.read_text("utf-8"))[BSDS300]
    names = ("impflow-bsds300", "resflow-bsds300", "spline-bsds300", "mixed-bsds300")
    own = [leads.entry_of(record(name)) for name in names]
    assert {entry.data for entry in own} == {BSDS300}
    assert max(float(known["value"]) for known in published) > max(entry.value for entry in own)
