"""A launcher of several processes on this machine, as `torchrun` is one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from support.forks import Forked

__all__ = ["environment", "launch"]


def environment(rank: int, count: int, port: int | None = None) -> dict[str, str]:
    """What a launcher tells a process of the others; without a port, one that is free now."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    word = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in word.items()}}


def launch(
    count: int, *arguments: str, fresh: bool = False
) -> list[subprocess.CompletedProcess[str]]:
    """Run python as several processes that know of each other, forked or fresh ones."""
    port = int(environment(0, count)["MASTER_PORT"])
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    variables = [{**own, **environment(rank, count, port)} for rank in range(count)]
    if not fresh:
        return [
            process.ended()
            for process in [Forked(*arguments, environment=each) for each in variables]
        ]
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **each},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in variables
    ]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended
