"""Several processes: the steps of one, a single writer, the same scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import several_processes
from support.launcher import environment, launch
from support.small_models import write_recipe

from impflow_zoo import training
from impflow_zoo.evaluation import processes
from impflow_zoo.evaluation.processes import Processes, together
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CHECKPOINT, LOG, WEIGHTS
from impflow_zoo.training import Trainer
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.training.run import open_splits

CLOCKS = {"seconds", "rows_per_second", "hardware"}


def log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / LOG).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]


@pytest.fixture(scope="module")
def image_set(tmp_path_factory) -> Path:
    """Sixty small grey images, as a folder that `datasets` opens; three cannot be decoded."""
    from datasets import Dataset, Features, Image

    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 4, 4), generator=generator, dtype=torch.uint8)
    images = [*pixels.numpy()]
    for row in (3, 17, 45):
        images[row] = {"bytes": b"broken", "path": None}
    rows = Dataset.from_dict({"image": images}, features=Features(image=Image()))
    rows.to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory, image_set) -> tuple[Path, Path]:
    """Folders of everything by one process, and by two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that are skipped
        patch.setenv("MALLOC_TRIM_THRESHOLD_", "0")  # commands leave this process's alone
        several_processes.main(one, image_set)
    for ended in launch(2, several_processes.__file__, str(two), str(image_set)):
        assert ended.returncode == 0, ended.stderr[-3000:]
    return one, two


TASKS = Path("/proc/self/task")
LEAVING = f"""
import atexit, os
atexit.register(lambda: print(len(os.listdir("{TASKS}"))))
from impflow_zoo.evaluation.processes import together
together().wait()
import torch
torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
"""


@pytest.mark.slow
@pytest.mark.skipif(not TASKS.exists(), reason="threads of a process are listed by Linux")
def test_no_thread_of_the_exchange_outlives_python():
    """It may abort a process that has done its work."""
    for ended in launch(2, "-c", LEAVING, fresh=True):
        assert (ended.returncode, ended.stdout) == (0, "1\n"), ended.stderr[-3000:]


GROUP_OF_A_CALLER = """
import os
from torch import distributed
names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")
address, port, rank, *_ = (os.environ.pop(name) for name in names)
distributed.init_process_group("gloo", f"tcp://{address}:{port}", rank=int(rank), world_size=2)
from impflow_zoo.evaluation.processes import together
print(together("cpu").gather(int(rank)))
distributed.destroy_process_group()
"""


def test_the_process_group_of_a_caller_is_used():
    """Without the variables of a launcher."""
    for ended in launch(2, "-c", GROUP_OF_A_CALLER):
        assert ended.stdout.endswith("[0, 1]\n"), ended.stderr[-3000:]


@pytest.mark.parametrize("name", ["table", "images"])
def test_two_processes_take_the_steps_of_one(name, both):
    one, two = (load_file(folder / name / CHECKPOINT) for folder in both)
    assert one.keys() == two.keys()
    assert any(key.endswith("initialized") for key in one)
    for key, tensor in one.items():
        if tensor.is_floating_point():
            assert tensor.dtype in (torch.float64, torch.float32)  # Adam counts in float32
            assert bool(((tensor - two[key]).abs() <= 1e-9).all()), key
        else:
            assert torch.equal(tensor, two[key]), key
    lines, others = (log(folder / name) for folder in both)
    for line, other in zip(lines, others, strict=True):
        for words in ("data", "init_from"):
            assert line.pop(words, "") == other.pop(words, "")
        assert line == pytest.approx(other, rel=1e-5)
    assert (lines[-2]["left_out"] > 0) == (name == "images")


@pytest.mark.parametrize("name", ["table", "images"])
def test_the_steps_are_not_none(name, both):
    made = load_file(both[0] / name / CHECKPOINT)
    moved = [
        float((made[key] - made[key.replace("model/", "averaged/module.", 1)]).abs().max())
        for key in made
        if key.startswith("model/") and key.endswith("weight")
    ]
    assert moved
    assert min(moved) > 1e-6


def test_loss_curves_agree_where_log_determinants_are_random(both):
    curves = [
        torch.tensor(
            [line["log_density"] for line in log(folder / "noisy") if "gradient_norm" in line]
        )
        for folder in both
    ]
    assert not torch.equal(*curves)  # the draws are different
    torch.testing.assert_close(*curves, rtol=0, atol=0.06)
    assert float(curves[0][-1] - curves[0][0]) > 0.15  # or agreeing would mean nothing


def test_two_processes_resume_as_if_never_interrupted(both):
    whole, resumed = (load_file(both[1] / name / CHECKPOINT) for name in ("noisy", "resumed"))
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())
    assert log(both[1] / "noisy") == log(both[1] / "resumed")


def test_a_step_that_one_process_cannot_take_is_skipped_by_all(both):
    one, two = (load_file(folder / "failing" / CHECKPOINT) for folder in both)
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, two[key], rtol=0, atol=1e-9, msg=key)
    skipped = [line["skipped"] for line in log(both[1] / "failing") if "skipped" in line]
    assert skipped == [0, 0, 1, 1, 1, 1, 1, 1]


def test_shares_of_the_rows_make_the_same_score(both):
    clock = {"seconds", "round_trip", "solver_steps"}
    one, first, second, alone = (
        {k: v for k, v in json.loads(path.read_text()).items() if k not in clock}
        for path in (
            both[0] / "scored-0.json",
            both[1] / "scored-0.json",
            both[1] / "scored-1.json",
            both[1] / "scored-alone.json",
        )
    )
    assert first == second
    assert alone["value"] == pytest.approx(first["value"], rel=1e-12)
    assert one.pop("dataset") == first.pop("dataset")
    assert one["n"] == 101
    for key, value in one.items():
        close = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        assert first[key] == close, key


def test_shares_of_the_rows_keep_their_groups(both):
    one, first, second = (
        json.loads(path.read_text())
        for path in (*both[0].glob("grouped-*"), *sorted(both[1].glob("grouped-*")))
    )
    assert first == second
    assert one["groups"] == first["groups"] == [i % 7 for i in range(101)]
    assert first["stderr"] == pytest.approx(one["stderr"], rel=1e-12)


def test_the_log_says_what_it_ran_on(both):
    header = json.loads((both[1] / "table" / LOG).read_text().splitlines()[0])
    assert header["hardware"] == f"2 processes, each on 1 of {os.cpu_count()} CPU threads"


def test_the_command_line_speaks_with_one_voice(both):
    first, second = (json.loads((both[1] / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == 0
    assert json.loads(first[1])["n"] == 9
    assert second[1] == ""


@pytest.mark.slow
def test_the_command_line_names_the_process_that_made_a_mistake():
    first, second = launch(2, "-m", "impflow_zoo", "evaluate", "no-such-model", fresh=True)
    assert first.returncode == second.returncode == 2
    assert first.stderr.startswith("impflow-zoo: no model 'no-such-model'")
    assert second.stderr.startswith("impflow-zoo, process 1: no model 'no-such-model'")


@pytest.mark.slow
def test_accelerate_launches_the_command_line(both, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", **several_processes.NOISY)
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    settings = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    command = ("-m", "impflow_zoo", "train", str(recipe), "--out", str(tmp_path / "run"), "--json")
    ended = subprocess.run(
        [sys.executable, *launcher, *settings, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert json.loads(ended.stdout)["step"] == 8
    made, other = (load_file(f / CHECKPOINT) for f in (tmp_path / "run", both[1] / "noisy"))
    assert all(torch.equal(tensor, made[key]) for key, tensor in other.items())


# ------------------------------------------------------------------------------------- alone


def test_one_process_has_nobody_to_exchange_with():
    alone, x = Processes(), torch.arange(3.0)
    alone.add_up([x])
    alone.copy_first([x])
    assert torch.equal(x, torch.arange(3.0))
    assert alone.gather("word") == ["word"]
    assert alone.any(own=True)
    assert not alone.any(own=False)
    assert alone.share(5) == range(5)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_the_whole_in_order(n, count):
    shares = [Processes(rank, count).share(n) for rank in range(count)]
    assert [row for share in shares for row in share] == list(range(n))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_every_process_needs_a_row(tmp_path):
    made = read_recipe(write_recipe(tmp_path))
    rows, held_out = open_splits(made, None)
    settings = (model_class(made.model)(made.config), made.training, rows, held_out, tmp_path)
    with pytest.raises(ModelError, match="32 rows: too few for 33 processes"):
        Trainer(*settings, processes=Processes(0, 33), progress=False)


BAD_DEVICES: dict[str, Callable[[Path], object]] = {
    "alone": lambda folder: together("cuda:99"),
    "training": lambda folder: training.train(write_recipe(folder), device="cuda:99"),
}


@pytest.mark.parametrize("use", BAD_DEVICES.values(), ids=BAD_DEVICES)
def test_a_device_that_is_not_there_is_named(use, tmp_path):
    with pytest.raises(ModelError, match="device='cuda:99'"):
        use(tmp_path)


@pytest.mark.parametrize("device", ["cuda:99", "cpu:0"])
def test_several_processes_refuse_a_device_they_cannot_share(device, monkeypatch):
    for name, value in environment(0, 2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=f"device='{device}'"):
        together(device)


def test_training_on_a_named_device(tmp_path):
    recipe = write_recipe(tmp_path / "recipe")
    state = training.train(recipe, out=tmp_path / "run", device="cpu", progress=False)
    assert state["step"] == 4
    assert (tmp_path / "run" / WEIGHTS).exists()
    assert processes.together("cpu") == Processes()
