"""Install lines work: from the repository before a release, from PyPI after it."""

from __future__ import annotations

from email.message import Message

import pytest

from impflow_zoo.models import registry
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.zoo import install
from impflow_zoo.zoo.cards import model_card
from impflow_zoo.zoo.record import Record

SOURCE = "https://example.org/code"


@pytest.fixture
def released_as(monkeypatch):
    """Call it with a version: the metadata of the package are of this version then."""

    def release(version: str, source: str | None = SOURCE) -> None:
        known = Message()
        known["Version"] = version
        known["Project-URL"] = "Documentation, https://example.org/pages"
        if source:
            known["Project-URL"] = f"Source, {source}"
        monkeypatch.setattr(install, "metadata", lambda name: known)

    return release


@pytest.mark.parametrize("version", ["1.0.0rc1", "1.1.0.dev3", "2.0a1"])
def test_before_a_release_the_line_names_the_repository(released_as, version):
    released_as(version)
    assert install.install_line() == f'pip install "impflow_zoo @ git+{SOURCE}"'
    assert install.install_line("plot") == f'pip install "impflow_zoo[plot] @ git+{SOURCE}"'


@pytest.mark.parametrize("version", ["1.0.0", "1.2.3.post1"])
def test_after_a_release_the_line_names_the_package(released_as, version):
    released_as(version)
    assert install.install_line() == "pip install impflow_zoo"
    assert install.install_line("plot") == 'pip install "impflow_zoo[plot]"'


def test_a_package_that_was_installed_before_it_had_an_address_says_so(released_as):
    released_as("1.0.0rc1", source=None)
    with pytest.raises(ModelError, match=r"no Source: .* `pip install -e \.`"):
        install.install_line()


@pytest.mark.parametrize("version", ["1.0.0rc1", "1.0.0"])
def test_cards_print_the_line(released_as, version):
    released_as(version)
    card = model_card(Record(ModelFolder(registry.zoo_folder() / "impflow-rings")))
    assert f"## Use\n\n```\n{install.install_line()}\n```\n" in card
