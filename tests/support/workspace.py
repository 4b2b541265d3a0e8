"""A copy of the checkout to run published commands in, with made-up data where none can ship."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import pandas
import yaml
from PIL import Image
from support import checkpoints, image_sets, published_tables
from support.checkout import CHECKOUT
from support.printed_commands import Commands
from support.small_models import write_recipe
from uci_tables import TABLES

from impflow_zoo import cli
from impflow_zoo.data import is_toy
from impflow_zoo.models import registry
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.training.recipe import Recipe, read_recipe

__all__ = ["FEW", "Workspace"]

FEW = {  # options of commands that take long; the last one counts
    "impflow-zoo evaluate": "--limit 8",
    "impflow-zoo fit": "--minutes 0.004",
    "python examples/prepare.py": "--limit 100",
    "impflow-zoo sample": "-n 8",
    "python examples/explanations.py": "--dry-run",
    "python examples/one_dimension.py": "--steps 3",
    "python examples/toys.py": "--steps 2 --toys 8gaussians",
}
IMAGE_MODEL, TABLE_MODEL = "impflow-mnist", "impflow-power-plant"
MODEL_OF_OWN, OWN_MODEL = "impflow-kin8nm", "impflow-mine"  # whose folder may be written to


class Workspace:
    """The folder that commands run in.

    Arguments:
        root: an empty folder.

    Attributes:
        few: options that are added to commands, by their beginnings.
        in_process: scripts that run in this process, as they set nothing global.
    """

    few: ClassVar[dict[str, str]] = FEW
    in_process: ClassVar[tuple[str, ...]] = ("prepare.py",)

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("docs", "examples"):
            shutil.copytree(CHECKOUT / name, root / name)
        for name in ("impflow_zoo", "tests"):
            (root / name).symlink_to(CHECKOUT / name)
        shutil.copy(CHECKOUT / "README.md", root)
        zoo = root / "hub_configs"
        zoo.mkdir()
        for folder in (CHECKOUT / "hub_configs").iterdir():
            if folder.is_file():  # figures
                (zoo / folder.name).symlink_to(folder)
            else:
                (zoo / folder.name).mkdir()
                for file in folder.iterdir():  # cards are written anew, the rest is read
                    place = {"README.md": shutil.copy, "recipe.yaml": _copy_tiny}
                    place.get(file.name, os.symlink)(file, zoo / folder.name / file.name)
        own = shutil.copytree(CHECKOUT / "hub_configs" / MODEL_OF_OWN, zoo / OWN_MODEL)
        _copy_tiny(CHECKOUT / "hub_configs" / MODEL_OF_OWN / "recipe.yaml", own / "recipe.yaml")
        card = own / "README.md"
        card.write_text(card.read_text().replace(MODEL_OF_OWN, OWN_MODEL))

    # ------------------------------------------------------------------------------ running

    def run(self, commands: Commands, document: Path) -> None:
        """Run the commands of a block in order.

        Raises:
            AssertionError: if one of them fails, with what it printed.
        """
        shutil.rmtree(self.root / "runs", ignore_errors=True)  # of another block
        with self._inside():
            for command in commands:
                settings, command = _settings(command)
                words = self.filled(command, document)
                with mock.patch.dict(os.environ, settings):
                    code, said = _run(words, self.in_process)
                assert code == 0, f"{shlex.join(words)}\n{said}"

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        environment = {
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        zoo = self.root / "hub_configs"
        with (
            contextlib.chdir(self.root),
            mock.patch.dict(os.environ, environment),
            mock.patch.object(registry, "zoo_folder", return_value=zoo),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # made-up rows lie far from those trained on
            yield

    # ---------------------------------------------------------------------------- filling in

    def filled(self, command: str, document: Path) -> list[str]:
        """The words of a command with something in every place that readers are to fill."""
        command = re.sub(r"\s\[.*\]", "", command)  # what may be left out
        if command.startswith("python -m conversion"):  # writes over no other model
            command = self._checkpoint(command.replace("hub_configs/NAME", "hub_configs/converted"))
        command = re.sub(r"\b(runs|hub_configs)/NAME\b", rf"\1/{OWN_MODEL}", command)
        if "own" in command:
            self._own_data()
        if "photos" in command:
            self._own_photos()
        words = shlex.split(command)
        image = "--skip-corrupt" in words or "--streaming" in words
        names = {
            "MODEL": IMAGE_MODEL if image else TABLE_MODEL,
            "NAME": TABLE_MODEL,
            "impflow-zoo/NAME": TABLE_MODEL,  # the same files, from a folder instead of the Hub
            "impflow-zoo/NAME@SHA": TABLE_MODEL,
        }
        words = [names.get(word, word) for word in words]
        model = self._model_of(words, document)
        places: dict[str, Callable[[], str]] = {
            "FOLDER": lambda: self.folder(command, model),
            "DATA": lambda: self.data(model),
            "OWNER/SET": lambda: self.data(model),
            "PHOTOGRAPHS": self._photographs,
            "FILES": lambda: self._published(words[2]),
        }
        words = [places[word]() if word in places else word for word in words]
        for i, word in enumerate(words):
            name, named, _ = word.partition("=FOLDER")
            words[i] = f"{name}={self.data(Path(name).name)}" if named else word
        few = [option for start, option in self.few.items() if shlex.join(words).startswith(start)]
        return [*words, *self._brought(words, model), *shlex.split(" ".join(few))]

    def _model_of(self, words: list[str], document: Path) -> str | None:
        """The model that a command is about: its recipe, its own name, or whose card it is in."""
        for word in words:
            for name in (Path(word).stem, Path(word).parent.name):
                if name and (self.root / "hub_configs" / name / "recipe.yaml").is_file():
                    return name
        named = document.parent.name
        return named if (self.root / "hub_configs" / named).is_dir() else None

    def _recipe(self, model: str) -> Recipe:
        return read_recipe(self.root / "hub_configs" / model / "recipe.yaml")

    def _brought(self, words: list[str], model: str | None) -> list[str]:
        """`--data` or `--dataset` where the command takes the rows from the Hub."""
        option = {"train": "--data", "evaluate": "--dataset"}.get(words[1] if words[1:] else "")
        if option is None or option in words or model is None or words[0] != "impflow-zoo":
            return []
        dataset = self._recipe(model).data.dataset
        ships = (self.root / "hub_configs" / model / "test.parquet").is_file()
        if dataset is None or is_toy(dataset) or ships:
            return []
        split = ["--split", self._recipe(model).data.test] if option == "--dataset" else []
        return [option, self.data(model), *split]

    # --------------------------------------------------------------------------- made-up data

    def data(self, model: str | None) -> str:
        """A folder with rows or images such as the model's recipe asks for."""
        model = model or TABLE_MODEL
        recipe, folder = self._recipe(model), self.root / "data" / model
        if folder.is_dir():
            return str(folder)
        folder.parent.mkdir(exist_ok=True)
        rng, config = np.random.default_rng(0), recipe.config
        splits = dict.fromkeys((recipe.data.train, recipe.data.validation, recipe.data.test))
        rows = 40 + (recipe.data.validation_rows or 0)
        if isinstance(config, ImageConfig):
            height, width = [config.prepare.crop or n for n in config.image_size]
            shape = (height, width) if config.channels == 1 else (height, width, 3)
            made = {
                split: [rng.integers(0, 256, shape, dtype="u1") for _ in range(rows)]
                for split in splits
                if split
            }
            image_sets.save(folder, labels=config.context_columns, **made)
            return str(folder)
        folder.mkdir()
        rows += config.features  # a Gaussian has to fit
        columns = list(config.columns) or [f"x{i}" for i in range(config.features)]
        columns += getattr(config, "context_columns", ())
        for split in splits:
            table = pandas.DataFrame(rng.normal(size=(rows, len(columns))), columns=columns)
            for name, (low, high) in getattr(config, "bounds", {}).items():
                table[name] = rng.uniform(low, high, rows)
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return str(folder)

    def folder(self, command: str, model: str | None) -> str:
        """What a script writes to, or the rows of a model."""
        return "prepared" if "prepare.py" in command else self.data(model)

    def _photographs(self) -> str:
        folder = self.root / "photographs"
        if not folder.is_dir():
            rng = np.random.default_rng(0)
            many = [image_sets.photograph(rng, 24, 32) for _ in range(20)]
            image_sets.save(folder, train=many, test=many[:5])
        return str(folder)

    def _published(self, kind: str) -> str:
        folder = self.root / "published" / kind
        if not folder.is_dir():
            folder.mkdir(parents=True)
            _PUBLISHED[kind](folder)
        return str(folder)

    def _own_data(self) -> None:
        """The recipe that the guide prints, shortened, and rows for it."""
        if (self.root / "own").is_dir():
            return
        write_recipe(self.root / "own")
        guide = (CHECKOUT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
        (recipe,) = re.findall(r"^```yaml\n(model: .*?)^```$", guide, re.MULTILINE | re.DOTALL)
        words = "card: {summary: A test., data_name: numbers, data_license: none}\n"
        whole = self.root / "own-as-printed.yaml"
        whole.write_text(recipe + words, encoding="utf-8")
        _copy_tiny(whole, self.root / "own" / "recipe.yaml")
        for name, rows in (("own", 600), ("held-out", 50)):
            table = np.random.default_rng(0).normal(size=(rows, 3))
            pandas.DataFrame(table, columns=["a", "b", "c"]).to_csv(
                self.root / f"{name}.csv", index=False
            )

    def _own_photos(self) -> None:
        """The recipe that the guide prints, shortened, and pictures for it."""
        if (self.root / "photos").is_dir():
            return
        guide = (CHECKOUT / "docs" / "image-data.md").read_text(encoding="utf-8")
        (text,) = re.findall(r"^```yaml\n(# photos.*?)^```$", guide, re.MULTILINE | re.DOTALL)
        whole = self.root / "photos-as-printed.yaml"
        whole.write_text(text, encoding="utf-8")
        _copy_tiny(whole, self.root / "photos.yaml")
        crop = yaml.safe_load(text)["config"]["prepare"]["crop"]
        photo = Image.fromarray(image_sets.photograph(np.random.default_rng(0), crop + 1, crop))
        photo.save(self.root / "photo.png")
        for name, rows in (("photos", 210), ("fresh-photos", 10)):
            (self.root / name).mkdir()
            for number in range(rows):
                shutil.copy(self.root / "photo.png", self.root / name / f"{number:03}.png")

    def _checkpoint(self, command: str) -> str:
        """A small checkpoint under the name that is asked for."""
        words = command.replace("OUT_FOLDER", "converted").replace(" FOLDER", " converted").split()
        for i, word in enumerate(words):
            if word == "FILE" or word.endswith(".pth"):
                words[i] = str(checkpoints.write_fixture(self.root, "toy_resflow"))
        return " ".join(words)


def _settings(command: str) -> tuple[dict[str, str], str]:
    """The settings in front of a command, `NAME=VALUE`, and the command."""
    set_to = re.compile(r"([A-Z_]+)=(\S+) +")
    settings = {}
    while found := set_to.match(command):
        settings[found[1]], command = found[2], command[found.end() :]
    return settings, command


def _copy_tiny(recipe: Path, place: Path) -> None:
    """Copy a recipe with one block of every scale, two steps, and few rows of toys."""
    sections = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    config = sections["config"]
    if isinstance(blocks := config.get("blocks"), int):
        config["blocks"] = 1
    elif blocks is not None:  # of each scale; blocks that are named stay
        config["blocks"] = [1 if isinstance(n, int) else n for n in blocks]
    training = sections.setdefault("training", {})
    for settings in (training, *sections.get("stages", ())):
        settings.update(steps=2, batch_size=8, validation_limit=8)
    data = sections.get("data", {})
    for name in {"train_rows", "validation_rows"} & data.keys():
        data[name] = min(data[name], 1000)
    place.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")


def _gas(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(5, 2, (400, 19))
    rows[:, 11:] = rows[:, 3:11] + 0.01 * rows[:, 11:]  # eight sensors say what others do
    pandas.DataFrame(rows).rename(columns=str).to_parquet(folder / "ethylene_CO.parquet")


def _hepmass(folder: Path) -> None:
    for part in ("train", "test"):
        table = published_tables.collisions(np.random.default_rng(0), 600)
        for name in ("f0", "f1", "f2", "f3"):  # with f4 and f9 six columns that pile up
            table[name] = table["f4"]
        table.to_csv(folder / f"1000_{part}.csv", index=False)


def _miniboone(folder: Path) -> None:
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(500, 43)))


_PUBLISHED: dict[str, Callable[[Path], object]] = {
    "power": lambda folder: np.save(folder / "data.npy", published_tables.household(400)),
    "gas": _gas,
    "hepmass": _hepmass,
    "miniboone": _miniboone,
    **{name: partial(published_tables.uci_table, name=name) for name in TABLES},
}


def _run(words: list[str], in_process: tuple[str, ...]) -> tuple[int, str]:
    """Run a command in this process if it can be: exit code, and what it printed."""
    program, *arguments = words
    if program == "impflow-zoo":
        return _called(lambda: cli.main(), words)
    if program == "python" and Path(arguments[0]).name in in_process:
        return _called(lambda: runpy.run_path(arguments[0], run_name="__main__"), arguments)
    if program in ("python", "pytest", "accelerate"):
        return _process([sys.executable, *_as_module(words)])
    return _process(words)


def _as_module(words: list[str]) -> list[str]:
    program, *arguments = words
    return arguments if program == "python" else ["-m", program, *arguments]


def _process(words: list[str]) -> tuple[int, str]:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def _called(function: Callable[[], object], argv: list[str]) -> tuple[int, str]:
    said, code = io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            function()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, said.getvalue()
