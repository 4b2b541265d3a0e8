"""The server of the demo: one process, on this machine's own address unless told otherwise."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from impflow_zoo.models.fields import ModelError

__all__ = ["serve"]


def serve(
    model: str = "impflow-power-plant",
    data: str | None = None,
    split: str | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    device: str | None = None,
) -> None:
    """Serve the demo until it is interrupted; its address is printed when it is up.

    Files of users are kept in a temporary folder, which is removed at the end.

    Arguments:
        model: the one to begin with: a name of the zoo, a Hub id, or a folder.
        data: rows to show beside samples, see `evaluate`; None: those that come with a model, or
            that the package makes.
        split: of the data.
        host: address to listen on; None takes the environment's `GRADIO_SERVER_NAME`, or loopback.
        port: None takes the environment's `GRADIO_SERVER_PORT`, or the first free one from 7860.
        device: where to compute; None takes a GPU if there is one.

    Raises:
        ModelError: if gradio is not installed, there is no such model, the host is no address of
            this machine, or the port is taken.
        DataError: if the data are not what the model takes.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="impflow-zoo-")))
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(scratch / "gradio")
        try:
            import datasets
            import gradio
            import matplotlib  # noqa: F401
        except ImportError:
            raise ModelError("the demo needs gradio: pip install 'impflow_zoo[demo]'") from None
        before = datasets.config.HF_DATASETS_CACHE
        stack.callback(setattr, datasets.config, "HF_DATASETS_CACHE", before)
        datasets.config.HF_DATASETS_CACHE = scratch / "datasets"
        from impflow_zoo.demo.exhibits import Hall
        from impflow_zoo.demo.page import build, first_picture
        from impflow_zoo.demo.uploads import LARGEST

        try:  # gradio itself tries one port after the other
            family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
            socket.create_server((host or "", 0), family=family).close()
        except OSError:
            raise ModelError(f"host {host!r} is no address of this machine") from None
        hall = Hall(model, data, split, device, scratch)
        first_picture(hall.open(model))  # kept: the page shows it at once
        page = build(hall)
        fonts = ["system-ui", "sans-serif"]
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=LARGEST,
                ssr_mode=False,
                footer_links=[],
                css="#picture img {max-height: 640px}",
                theme=gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
            )
        except OSError:
            raise ModelError(
                f"port {port or 'from 7860'} of {host or 'this machine'} is not free: name another "
                "one with --port"
            ) from None
        print(f"{model} is shown at {address} until Ctrl-C", flush=True)
        page.block_thread()
