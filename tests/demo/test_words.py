"""What the page says of errors."""

from __future__ import annotations

import logging

import pytest

from impflow_zoo.data import DataError
from impflow_zoo.demo.words import in_a_line, line_of
from impflow_zoo.models.fields import ModelError

gradio = pytest.importorskip("gradio", reason="the demo needs the extra demo")

FORESEEN = {
    "ours": (ModelError("no\nmodel"), "no model"),
    "of data": (DataError("no data \x1b[31m"), r"no data \x1b[31m"),
}
UNFORESEEN = {
    "a fault": KeyError("<secret>"),
    "no memory": RuntimeError("can't allocate memory"),
    "the disk": OSError(28, "No space left on device", "/home/somebody/secret"),
}


@pytest.mark.parametrize(("error", "line"), FORESEEN.values(), ids=FORESEEN)
def test_mistakes_are_said_in_a_line(error, line, caplog):
    assert line_of(error) == line
    assert not caplog.records


@pytest.mark.parametrize("error", UNFORESEEN.values(), ids=UNFORESEEN)
def test_other_errors_are_told_to_the_log_alone(error, caplog):
    with caplog.at_level(logging.ERROR):
        assert line_of(error) == "Something went wrong on the server; its log says what."
    assert caplog.records[0].exc_info[1] is error


def test_a_callback_says_its_errors_on_the_page_without_markup():
    @in_a_line
    def fail(text: str) -> None:
        raise ModelError(text)

    with pytest.raises(gradio.Error) as said:
        fail("<b>\n&")
    assert said.value.message == "&lt;b&gt; &amp;"
    assert not said.value.print_exception
