"""Several processes, one of which fails or does not come: nobody waits, and all say why."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from support import failing_processes
from support.launcher import environment, launch
from support.small_models import make
from torch.distributed import TCPStore

from impflow_zoo import evaluate
from impflow_zoo.evaluation import processes
from impflow_zoo.evaluation.processes import ProcessError, Processes, together
from impflow_zoo.models.fields import ModelError

NEEDS_LESS = "a smaller training.batch_size of the recipe needs less"


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> list[dict[str, str]]:
    """How each attempt ended for the first process and for the second, which dies in the last."""
    folder = tmp_path_factory.mktemp("failing")
    first, second = launch(2, str(Path(failing_processes.__file__)), str(folder))
    assert first.returncode == 0, first.stderr[-3000:]
    assert second.returncode == -9, second.stderr[-3000:]
    return [json.loads((folder / f"heard-{rank}.json").read_text()) for rank in (0, 1)]


ERRORS = {
    "first batch": (1, "DataError: row 7 cannot be read"),
    "batch": (1, "DataError: row 7 cannot be read"),
    "step": (1, f"NotEnoughMemoryError: not enough memory: {NEEDS_LESS}"),
    "log": (0, "OSError: [Errno 28] No space left on device"),
    "validation": (1, "TypeError: a mistake"),
    "model": (0, "OSError: [Errno 28] No space left on device"),
    "last checkpoint": (0, "OSError: [Errno 28] No space left on device"),
    "folder": (0, "ModelError: another run trains in "),
    "data": (1, "DataError: row 7 cannot be read"),
}


@pytest.mark.parametrize(("rank", "said"), ERRORS.values(), ids=ERRORS)
def test_an_error_in_one_process_ends_all(rank, said, request, heard):
    name = request.node.callspec.id
    message = said.partition(": ")[2]
    assert heard[rank][name].replace("\n", " ").startswith(said)
    assert heard[1 - rank][name].startswith(f"ProcessError: process {rank} failed: {message}")


def test_processes_that_failed_together_go_on_together(heard):
    assert [each["nothing"] for each in heard] == ["well", "well"]


def test_the_death_of_a_process_ends_the_others(heard):
    assert heard[0]["death"].startswith("ProcessError: another process has ended")


def test_the_command_line_ends_each_process_with_one_line(heard):
    full = "[Errno 28] No space left on device\n"
    first, second = (each["line"] for each in heard)
    assert first == f"2 impflow-zoo: {full}"
    assert second == f"2 impflow-zoo, process 1: process 0 failed: {full}"


# ------------------------------------------------------------------------ who does not come


@pytest.fixture
def set_environment(monkeypatch) -> Callable[..., None]:
    """Set what launchers set; others have a moment to come."""
    monkeypatch.setattr(processes, "_PATIENCE", 0.3)

    def set_all(**words: object) -> None:
        for name, word in words.items():
            monkeypatch.setenv(name, str(word))

    return set_all


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_come_are_not_waited_for(rank, set_environment, capfd):
    set_environment(**environment(rank, 2))
    with pytest.raises(ProcessError, match=f"process {rank} of 2 .* 0 seconds: start all"):
        together()
    assert capfd.readouterr().err == ""


def test_processes_of_torchrun_that_do_not_come_are_not_waited_for(set_environment, capfd):
    """There the launcher itself listens."""
    agent = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=60))
    set_environment(**environment(1, 2, agent.port), TORCHELASTIC_USE_AGENT_STORE=True)
    with pytest.raises(ProcessError, match="process 1 of 2 .* 0 seconds"):
        together()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_there_is_no_launcher_unless_it_says_all(missing, set_environment):
    words = environment(0, 2)
    del words[missing]
    set_environment(**words)
    assert together("cpu") == Processes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x' in the environment"),
        ({"RANK": "-1"}, "RANK='-1' in the environment"),
        ({**environment(2, 2)}, "RANK .* is not below WORLD_SIZE"),
        ({**environment(0, 2), "MASTER_PORT": "99999"}, "MASTER_PORT in the environment is above"),
    ],
    ids=["text", "negative", "too many", "no port"],
)
def test_an_environment_that_makes_no_sense_is_refused(words, message, set_environment):
    set_environment(**words)
    with pytest.raises(ModelError, match=message):
        together()


def test_a_model_is_evaluated_alone_whatever_the_environment_says(set_environment):
    set_environment(**environment(0, 2))
    assert evaluate(make(dtype=torch.float32), "toy:moons", limit=5).n == 5
