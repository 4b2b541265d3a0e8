"""The server of the demo, on this machine's own address unless told otherwise."""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.texts import printable_output

__all__ = ["serve"]

_HOST = re.compile(r"[\w.*-]+|\[[\da-fA-F:]+\]")


def serve(
    model: str = "impflow-power-plant",
    data: str | None = None,
    split: str | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    device: str | None = None,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve the demo until Ctrl-C or SIGTERM; its address is printed when it is up.

    Files of users are removed as soon as they are read, and scored ones as soon as they are
    fetched. Others are kept in a temporary folder for ten minutes. The folder is removed at the
    end, and the process ends.

    Arguments:
        model: the one to begin with: a name of the zoo, a Hub id, or a folder.
        data: rows to show beside samples, see `evaluate`; None: those that come with a model, or
            that the package makes.
        split: of the data.
        host: address to listen on; None takes the environment's `GRADIO_SERVER_NAME`, or loopback.
        port: None takes the environment's `GRADIO_SERVER_PORT`, or the first free one from 7860.
        device: where to compute; None takes a GPU if there is one.
        allowed_hosts: names under which browsers reach the server, such as `demo.example.org` or
            `*.hf.space`, besides the host and loopback. Requests of other pages are refused.

    Raises:
        ModelError: if gradio is not installed, there is no such model, the host is no address of
            this machine, an allowed host is no name of a host, or the port is taken.
        DataError: if the data are not what the model takes.
    """
    _check_address(host, port, allowed_hosts)
    with ExitStack() as stack:
        stack.enter_context(_until_told_to_stop())
        stack.enter_context(printable_output())
        scratch = stack.enter_context(_scratch())
        try:
            import datasets
            import gradio
            import matplotlib  # noqa: F401
        except ImportError:
            raise ModelError("the demo needs gradio: pip install 'impflow_zoo[demo]'") from None
        from starlette.middleware import Middleware

        from impflow_zoo.demo.exhibits import Hall
        from impflow_zoo.demo.hosts import OwnHosts, named_hosts
        from impflow_zoo.demo.looks import CSS
        from impflow_zoo.demo.page import build, first_picture
        from impflow_zoo.demo.quota import Quota
        from impflow_zoo.demo.routes import OwnRoutes
        from impflow_zoo.demo.uploads import LARGEST
        from impflow_zoo.demo.workers import Workers

        before = datasets.config.HF_DATASETS_CACHE
        stack.callback(setattr, datasets.config, "HF_DATASETS_CACHE", before)
        datasets.config.HF_DATASETS_CACHE = scratch / "datasets"
        workers = Workers()
        stack.callback(workers.close)
        hall = Hall(model, data, split, device, scratch, workers)
        first_picture(hall.open(model))  # kept: the page shows it at once
        page = build(hall)
        names = named_hosts(host or os.environ.get("GRADIO_SERVER_NAME"), allowed_hosts)
        stack.callback(_close, page)
        fonts = ["system-ui", "sans-serif"]
        try:
            _, address, _ = page.launch(
                server_name=f"[{host}]" if ":" in (host or "") else host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=LARGEST,
                ssr_mode=False,
                footer_links=[],
                app_kwargs={
                    "middleware": [
                        Middleware(OwnHosts, named=names),
                        Middleware(OwnRoutes),
                        Middleware(Quota, folder=scratch, largest=LARGEST),
                    ]
                },
                css=CSS,
                theme=gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
            )
        except OSError:
            raise _not_free(host, port) from None
        print(f"{model} is shown at {address} until Ctrl-C", flush=True)
        page.block_thread()


def _check_address(host: str | None, port: int | None, allowed: Sequence[str]) -> None:
    for name in allowed:
        if not _HOST.fullmatch(name):
            raise ModelError(f"{name!r} is no host: name it alone, such as demo.example.org")
    if not _is_free(host, 0):  # gradio itself tries one port after the other
        raise ModelError(f"host {host!r} is no address of this machine")

    if port is not None and not _is_free(host, port):
        raise _not_free(host, port)


def _not_free(host: str | None, port: int | None) -> ModelError:
    where = f"port {port or 'from 7860'} of {host or 'this machine'}"
    return ModelError(f"{where} is not free: name another one with --port")


def _is_free(host: str | None, port: int) -> bool:
    try:
        family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
        socket.create_server((host or "127.0.0.1", port), family=family).close()
    except OSError:
        return False
    return True


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for all temporary files of the process, which is removed at the end."""
    # Sockets of processes live in a folder that multiprocessing makes once and removes at exit:
    # outside, because their paths are limited to some 100 characters.
    multiprocessing.util.get_temp_dir()
    before, scratch = tempfile.tempdir, Path(tempfile.mkdtemp(prefix="impflow-zoo-"))
    try:
        tempfile.tempdir = str(scratch)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(scratch / "gradio")
        yield scratch
    finally:
        tempfile.tempdir = before
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _until_told_to_stop() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, and the process without an error, once it has cleaned up.

    Only the main thread can hear them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # a second one cuts no cleaning up short
        sys.exit(0)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        # Threads may be computing. Python would end them somewhere within torch, which aborts.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _close(page: Any) -> None:
    """End the server of a page, also while users send or fetch something."""
    if page.is_running:
        page.server.config.timeout_graceful_shutdown = 1  # seconds
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it counts who is cut off
        page.close(verbose=False)
