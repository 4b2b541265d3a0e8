"""The site builds without a warning, and every link leads somewhere: here, on it, from PyPI."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image
from support.checkout import CHECKOUT
from support.demo_page import CHROMIUM
from support.printed_commands import documents

gallery: Any = importlib.import_module("machinery.gallery")
links: Any = importlib.import_module("machinery.links")
BASE = links.URLS["Documentation"]


def slugs(text: str) -> set[str]:
    """The anchors of the headings of a document."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_within_the_repository(document: Path) -> None:
    for target, anchor in re.findall(
        r"\]\(([^)\s#:]*)(#[^)\s]*)?\)", document.read_text(encoding="utf-8")
    ):
        if target.startswith(("zoo/", "how-to/", "api/", "made/")):
            continue  # what the build makes
        if "benchmarks/" in target and not (CHECKOUT / "benchmarks").is_dir():
            continue  # evidence, which nobody needs to use the package
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            assert anchor[1:] in slugs(path.read_text(encoding="utf-8")), target + anchor


def test_guides_work_without_the_laboratory() -> None:
    """They and cards link to evidence, and print no command that a copy without it lacks."""
    rooms = ("*.md", "docs/*.md", "examples/**/*.py", "hub_configs/*/*.md", "hub_configs/*/*.yaml")
    for guide in (path for room in rooms for path in CHECKOUT.glob(room)):
        assert "python benchmarks/" not in guide.read_text(encoding="utf-8"), guide


def test_links_to_models_lead_to_pages_that_the_build_makes() -> None:
    """It makes one of each card; recipes without weights have none."""
    for document in documents():
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"\]\([./]*hub_configs/([\w-]+)/?\)", text):
            card = CHECKOUT / "hub_configs" / name / "README.md"
            assert card.is_file(), f"{document.name}: {name}"


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/columns.md", "../hub_configs/impflow-torus", "/zoo/impflow-torus.md"),
        ("docs/models.md", "../hub_configs", "/zoo/index.md"),
        ("docs/columns.md", "which-net.md#frequencies", "/which-net.md#frequencies"),
        ("docs/columns.md", "../LICENSE", "/../LICENSE"),
        ("benchmarks/README.md", "../docs/which-net.md", "/which-net.md"),
        ("README.md", "examples/how_to/own_net.py", "/how-to/own_net.rst"),
        ("README.md", "examples/how_to", "/how-to/index.rst"),
        ("README.md", "CONTRIBUTING.md#test", "/project/contributing.md#test"),
        (
            "docs/fit.md",
            "../benchmarks/notebook/gone.md#b",
            f"{links.URLS['Source']}/blob/main/benchmarks/notebook/gone.md#b",
        ),
    ],
)
def test_a_link_becomes_one_of_the_site(source: str, link: str, there: str) -> None:
    text = "[a]({}), `x[0](y)`"
    assert links.for_site(text.format(link), source) == text.format(there)


@pytest.mark.parametrize(("left", "columns"), [(True, (0, 185)), (False, (185, 400))])
def test_a_small_picture_has_no_axis_of_the_other_half(left: bool, columns: tuple[int, int]):
    """The widest empty stripe near the middle is between the halves; the next one is in a label."""
    picture = Image.new("L", (400, 100), "white")
    for start, end in ((10, 182), (188, 190), (193, 390)):
        picture.paste("black", (start, 10, end, 90))
    (first, last), height = columns, picture.height
    shown = gallery.detail(picture, left=left)
    assert shown.tobytes() == picture.crop((first, 0, last, height)).tobytes()


@pytest.fixture(scope="module")
def on_pypi() -> list[str]:
    """Where the links of the README lead on PyPI."""
    pytest.importorskip("hatch_fancy_pypi_readme", reason="it makes the README of PyPI")
    made = [sys.executable, "-m", "hatch_fancy_pypi_readme"]
    text = subprocess.run(made, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    return re.findall(r"\]\(([^)\s]*)\)", text)


def test_links_of_the_readme_on_pypi_lead_to_the_site(on_pypi: list[str]) -> None:
    assert len(on_pypi) > 10
    assert all(target.startswith(BASE) for target in on_pypi), on_pypi
    assert not [target for target in on_pypi if target.endswith((".md", ".py"))]
    assert f"{BASE}which-flow.html" in on_pypi


class Links(HTMLParser):
    """What a page links to and what may be linked to on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.add(value)
            if name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as the extra `docs` promises."""
    pytest.importorskip("sphinx", reason="the site needs the extra docs")
    out = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-d", out / "trees", "docs", out / "html"],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return out / "html"


def pages(site: Path) -> Iterator[Path]:
    yield from site.rglob("*.html")


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    read = {path: Links(path.read_text(encoding="utf-8")) for path in pages(site)}
    assert len(read) > 150
    for path, links in read.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert to.exists(), f"{path.name}: {target}"
            if parts.fragment and to in read:
                assert unquote(parts.fragment) in read[to].anchors, f"{path.name}: {target}"


@pytest.mark.slow
def test_links_of_pypi_lead_to_pages(site: Path, on_pypi: list[str]) -> None:
    for target in on_pypi:
        file, _, anchor = target.removeprefix(BASE).partition("#")
        assert (site / file).is_file(), target
        if anchor:
            assert anchor in Links((site / file).read_text(encoding="utf-8")).anchors


@pytest.mark.slow
def test_programs_find_their_way(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    named = re.findall(rf"\]\({re.escape(BASE)}([^)]*)\)", text)
    assert len(named) > 50
    assert all((site / page).is_file() for page in named)


@pytest.mark.slow
def test_methods_and_properties_lead_to_their_source(site: Path) -> None:
    """Inherited ones, too."""
    page = (site / "api" / "impflow_zoo.ImpFlow.html").read_text(encoding="utf-8")
    for name in ("sample", "columns", "save_pretrained"):
        link = rf'id="impflow_zoo.ImpFlow.{name}".*?/blob/main/([\w/.]+)#L(\d+)-L(\d+)'
        file, first, last = re.search(link, page, re.DOTALL).groups()
        lines = (CHECKOUT / file).read_text(encoding="utf-8").splitlines()
        assert f"def {name}(" in "".join(lines[int(first) - 1 : int(last)]), name


@pytest.mark.slow
def test_the_gallery_shows_every_model_with_weights(site: Path) -> None:
    shown = re.findall(
        r'class="zoo-card".*?href="([\w-]+)\.html"',
        (site / "zoo" / "index.html").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    weights = (CHECKOUT / "hub_configs").glob("*/model.safetensors")
    assert {*shown} == {path.parent.name for path in weights}
    assert all((site / "_static" / "zoo" / f"{name}.webp").is_file() for name in shown)


@pytest.fixture(scope="module")
def tab(site: Path) -> Iterator[Any]:
    """A page of a browser that asks the network for nothing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser opens the pages")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to open the pages")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context(offline=True).new_page()
        browser.close()


GUIDES = {
    "train csv": "your-own-data",
    "fit": "fit",
    "images folder": "image-data",
    "install": "start",
    "architecture": "architecture",
    "changelog": "project/changelog",
    "missing values": "faq",
    "nan loss": "faq",
    "conditional": "how-to/conditional_density",
}


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "guide"), GUIDES.items(), ids=GUIDES)
def test_a_search_finds_the_guide_among_the_first(site: Path, tab: Any, asked: str, guide: str):
    tab.goto(f"{(site / 'search.html').as_uri()}?q={asked.replace(' ', '+')}")
    tab.wait_for_function("document.querySelector('.search-summary')?.innerText.includes('found')")
    links = tab.locator("#search-results .search > li > a")
    found = [link.get_attribute("href") for link in links.all()[:4]]
    assert any(link.startswith(f"{guide}.html") for link in found), found


KINDS = ("index", "start", "models", "zoo/index", "zoo/impflow-power-plant", "settings", "columns")
KINDS += ("api", "api/command-line", "api/impflow_zoo.ImpFlowTransform", "which-flow")
KINDS += (
    "genindex",
    "how-to/index",
    "how-to/density_of_a_table",
    "project/notebook-toys",
    "implicit-flow",
)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_wide_parts_scroll_within_themselves(site: Path, tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    for name in KINDS:
        tab.goto((site / f"{name}.html").as_uri())
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "name"), [(390, "settings"), (390, "which-net"), (1280, "models")]
)
def test_tables_are_read_without_scrolling(site: Path, tab: Any, width: int, name: str) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto((site / f"{name}.html").as_uri())
    for table in tab.locator(".table-wrapper").all():
        assert table.evaluate("table => table.scrollWidth <= table.clientWidth + 1")


@pytest.mark.slow
def test_code_breaks_between_words_on_a_phone(site: Path, tab: Any) -> None:
    """And an option stays behind its two hyphens."""
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((site / "evaluating.html").as_uri())
    option = tab.locator("code .pre", has_text=re.compile("^--dataset$")).first
    assert option.evaluate("option => option.getClientRects().length") == 1
    tab.goto((site / "settings.html").as_uri())
    key = tab.locator("td code .pre", has_text=re.compile("^hidden_features$")).first
    assert key.inner_html() == "hidden_<wbr>features"


LINES = "parts => Math.max(...parts.map(part => part.getClientRects().length))"


@pytest.mark.slow
def test_short_names_and_numbers_stay_whole_on_a_phone(site: Path, tab: Any) -> None:
    """In narrow columns of tables, too."""
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((site / "which-flow.html").as_uri())
    names = tab.locator("td code .pre", has_text=re.compile("^(Imp|Res)Flow$"))
    assert names.evaluate_all(LINES) == 1
    tab.goto((site / "project" / "notebook-images.html").as_uri())
    numbers = tab.locator("td .number", has_text=re.compile(r"^\de-\d$"))
    assert numbers.evaluate_all(LINES) == 1


@pytest.mark.slow
def test_a_link_to_the_source_stays_out_of_the_text_on_a_phone(site: Path, tab: Any) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((site / "api" / "impflow_zoo.ImpFlow.html").as_uri())
    for signature in tab.locator("dt.sig").all():
        link, text = signature.locator("a .viewcode-link"), signature.locator("+ dd")
        bottom = link.evaluate("link => link.getBoundingClientRect().bottom")
        assert bottom <= text.evaluate("text => text.getBoundingClientRect().top") + 1


@pytest.mark.slow
def test_the_table_of_models_sorts_by_a_click(site: Path, tab: Any) -> None:
    """But not by its scores, which have several units."""
    tab.goto((site / "models.html").as_uri())

    def numbers(column: int) -> list[float]:
        texts = (
            tab.locator("table").first.locator(f"tbody td:nth-child({column})").all_inner_texts()
        )
        return [float(text.split()[0].replace(",", "")) for text in texts]

    tab.locator("table th", has_text="parameters").first.click()
    found = numbers(4)
    assert found == sorted(found)
    assert len(found) > 40
    tab.locator("table th", has_text="score").first.click()
    assert numbers(4) == found


@pytest.mark.slow
def test_tables_whose_lines_mean_the_line_above_do_not_sort(site: Path, tab: Any) -> None:
    tab.goto((site / "project" / "notebook-small-tables.html").as_uri())
    sorting = tab.locator("table:has(th[role=columnheader])")
    assert 0 < sorting.count() < tab.locator("table").count()
    firsts = sorting.locator("tbody td:first-child").all_inner_texts()
    assert not [text for text in firsts if not text or text.startswith("the same")]


@pytest.mark.slow
def test_a_number_stays_beside_its_error_on_a_phone(site: Path, tab: Any) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((site / "start.html").as_uri())
    row = tab.locator("tr", has_text="kin8nm").first.bounding_box()
    assert row["height"] < 50, "a line is 25 px high"


@pytest.mark.slow
def test_no_page_takes_a_script_from_elsewhere(site: Path) -> None:
    """Formulas of other packages would: their docstrings need MathJax."""
    for path in pages(site):
        assert not re.search(r'<script[^>]* src="https?:', path.read_text("utf-8")), path.name
