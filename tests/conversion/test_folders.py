"""The folder that a conversion writes, its card, its checks, and further training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from support.checkpoints import read_fixture, write, write_fixture
from support.command_line import conversion

from conversion.convert import checked, convert
from conversion.convert import write as write_model
from conversion.pickles import ConversionError
from impflow_zoo import ImpFlow, ResFlow, create_model
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.models.filenames import CARD, CONFIG, TRAINING


def test_the_command_writes_a_model_and_says_what_it_did(tmp_path):
    path = write_fixture(tmp_path, "tabular_impflow")
    said = conversion(path, tmp_path / "out", "--verify")
    assert (said.code, said.err) == (0, "")
    assert "ImpFlow with 2 blocks, averaged weights" in said.out
    assert "30,744 parameters\n" in said.out
    assert "round trip of 4 rows" in said.out
    model = ImpFlow.from_pretrained(tmp_path / "out", verify=True)
    assert model.log_prob(torch.zeros(2, 6)).isfinite().all()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    for words in ("averaged (EMA) weights", "self-check: round trip", "certified: ", "coeff 0.99"):
        assert words in card.text


@pytest.mark.slow
def test_a_folder_from_another_place_loads_by_itself(tmp_path):
    """The library needs neither the checkpoint nor the conversion."""
    write_model(convert(write_fixture(tmp_path, "toy_resflow")), tmp_path / "out")
    code = (
        "import sys; from impflow_zoo import create_model; "
        f"create_model({str(tmp_path / 'out')!r}, verify=True).sample(3); "
        "assert 'conversion' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_averages_are_the_default_where_there_are_some(tmp_path):
    path = write_fixture(tmp_path, "tabular_impflow")
    assert convert(path).averaged
    assert not convert(path, weights="raw").averaged
    assert not convert(write_fixture(tmp_path, "toy_impflow")).averaged


def test_averages_in_the_order_of_parameters(tmp_path):
    """Older files list them without names."""
    args, state, averaged, _ = read_fixture("img_resflow")
    named = convert(write(tmp_path / "named.pth", args, state, averaged)).model.state_dict()
    listed = convert(write(tmp_path / "listed.pth", args, state, averaged, listed=True))
    assert all(torch.equal(w, named[k]) for k, w in listed.model.state_dict().items())


def test_a_conversion_that_is_made_again_has_a_new_card(tmp_path):
    path, folder = write_fixture(tmp_path, "toy_resflow"), tmp_path / "out"
    for arguments in (["--verify"], []):
        assert conversion(path, folder, *arguments).code == 0
        text = (folder / CARD).read_text()
        assert text.count("## Conversion") == 1
        assert ("self-check" in text) == bool(arguments)


def test_a_card_of_something_else_is_not_written_over(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / CARD).write_text("# Mine\n")
    refused = conversion(write_fixture(tmp_path, "toy_resflow"), folder)
    assert refused.code == 2
    assert "holds a README.md of something else: choose another folder" in refused.err
    assert (folder / CARD).read_text() == "# Mine\n"


def test_stored_vectors_are_kept_and_the_norm_is_certified_as_it_is(tmp_path):
    """Averaged weights have the vectors of the raw ones: the bound tells how far they are off."""
    write_model(convert(write_fixture(tmp_path, "img_resflow")), tmp_path / "out")
    loaded = create_model(tmp_path / "out")
    loaded.log_prob(torch.rand(1, 3, 8, 8))
    for key, tensor in convert(tmp_path / "img_resflow.pth").model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert all(block.net.lipschitz is None for block in loaded.blocks())
    assert all(c.bound is not None for c in certify(loaded))


def test_the_self_check_sees_what_is_wrong(tmp_path):
    converted = convert(write_fixture(tmp_path, "toy_resflow"))
    block = next(iter(converted.model.blocks()))
    with torch.no_grad():  # vectors that see nothing of the weight
        for layer in block.net.layers:
            layer.weight.mul_(30)
        for layer in list(block.net.layers)[:2]:
            layer.u.zero_()
    with pytest.raises(ConversionError, match="self-check failed"):
        checked(converted.model)
    with pytest.raises(ConversionError, match="self-check failed"):
        write_model(converted, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["toy_resflow", "tabular_impflow", "img_resflow"])
def test_a_converted_model_can_be_trained_further(name, tmp_path):
    torch.manual_seed(0)
    model = convert(write_fixture(tmp_path, name)).model.train()
    x = torch.rand(4, *model.config.shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "out")
    again = create_model(tmp_path / "out", verify=True)
    torch.testing.assert_close(again.encode(x), model.eval().encode(x))


def test_actnorm_flags_are_kept(tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    state["chain.0.initialized"] = torch.tensor(0)
    model = convert(write(tmp_path / "checkpoint.pth", args, state)).model
    flags = [m.initialized.item() for m in model.modules() if hasattr(m, "initialized")]
    assert flags == [False] + [True] * 6
    x = 3 + 2 * torch.randn(200, 2)
    model.train().transform(x)  # which starts the first one from the data
    y = model.transform._transforms[1](x)[0]
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(2))


def test_config_json_records_what_is_written(tmp_path):
    write_model(convert(write_fixture(tmp_path, "img_impflow")), tmp_path / "out")
    described = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert described["model"] == "ImpFlow"
    assert described["config"]["blocks"] == [1, 1, 1]
    assert len(described["certificate"]) == 6
    assert isinstance(ImpFlow.from_pretrained(tmp_path / "out", verify=True), ImpFlow)
    with pytest.raises(ValueError, match="holds a model of type ImpFlow"):
        ResFlow.from_pretrained(tmp_path / "out")


def test_a_folder_of_something_else_is_refused(tmp_path):
    """A conversion may be made again; a model that was trained is not to be lost."""
    path, folder = write_fixture(tmp_path, "toy_resflow"), tmp_path / "out"
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    refused = conversion(path, folder)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "holds a config.json of something else" in refused.err
    (folder / CONFIG).unlink()
    for arguments in ((), ("--verify",)):
        assert conversion(path, folder, *arguments).code == 0
    (folder / TRAINING).write_text("{}")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert conversion(path, folder).code == 2
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_nothing_on_the_card_leaves_its_line(tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    strange = "<b>[x](y)\n# Title\n<!-- x -->\x1b[2J"
    path = write(tmp_path / "a`b\n# c.pth", {**args, "data": strange}, state)
    for _ in range(2):
        assert conversion(path, tmp_path / "out").code == 0
    text = (tmp_path / "out" / CARD).read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# ResFlow",
        "## Conversion",
    ]
    assert "<b>" not in text
    assert "<!--" not in text
    assert "\x1b" not in text


def test_nothing_is_written_where_the_folder_cannot_be(tmp_path):
    path = write_fixture(tmp_path, "toy_resflow")
    (tmp_path / "file").write_text("")
    refused = conversion(path, tmp_path / "file")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert Path(tmp_path / "file").read_text() == ""
