"""`mctrace attribute` from the command line."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from mctrace.attribution.attribute import attribute
from mctrace.cli.display.attribution import print_attribution
from mctrace.errors import InputError
from tests.attribution.making import TEXT, sharp_model
from tests.cli.bad_inputs import bad_inputs, try_all


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def ask(call_mctrace, tiny_model_folder):
    return lambda *arguments: call_mctrace(
        "attribute", *map(str, arguments), "--model", str(tiny_model_folder)
    )


def test_a_file_is_answered_with_a_table_and_a_page(ask, text_file, tmp_path):
    code, out, errors = ask(text_file, "--out", tmp_path / "deep" / "page.html", "--top", 2)
    assert code == 0, errors
    assert "2 of 5 sentences" in out
    assert "1 sentence not measured: nothing follows" in out
    assert "attribute: 5 of 5 parts" in errors
    page = (tmp_path / "deep" / "page.html").read_text()
    assert f"wrote {tmp_path / 'deep' / 'page.html'}" in out
    assert page.count('class="unit') == 6


def test_json_is_one_object_of_the_same_numbers(ask, text_file):
    code, out, _ = ask(text_file, "--unit", "block", "--block-size", 16, "--target", " Yes.", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["target"] == " Yes."
    assert len(answer["units"]) == -(-len(TEXT) // 16)
    assert all(isinstance(row["nats"], float) for row in answer["units"])


def test_the_estimate_of_all_parts_says_that_it_begins(ask, text_file):
    code, _, errors = ask(text_file, "--estimator", "gradient")
    assert code == 0, errors
    assert "attribute: 5 parts at once" in errors


def test_standard_input_is_read(ask, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\xef\xbb\xbfOne. Two. Three.")))
    code, out, errors = ask("-", "--json", "--threads", 1)
    assert code == 0, errors
    assert [row["text"] for row in json.loads(out)["units"]] == ["One. ", "Two. ", "Three."]


def test_gists_take_the_place_of_blocks(ask, text_file):
    code, out, errors = ask(text_file, "--against", "gist", "--block-size", 8, "--json")
    assert code == 0, errors
    assert json.loads(out)["unit"] == "block"
    assert json.loads(out)["gists"] == "mean"


def test_gists_that_would_not_be_used_are_refused(ask, text_file):
    code, out, errors = ask(text_file, "--gists", "smollm2-135m-k32")
    assert (code, out) == (1, "")
    assert "--against gist" in errors


def test_a_page_that_cannot_be_written_leaves_the_answer(ask, text_file, tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("cannot write it")

    monkeypatch.setattr("mctrace.attribution.page.write_page", refuse)
    code, out, errors = ask(text_file, "--out", tmp_path / "page.html", "--json")
    assert (code, errors.count("cannot write it")) == (1, 1)
    assert json.loads(out)["units"]


def test_a_terminal_shows_the_text_in_colours(tiny_model_folder):
    found = attribute(TEXT + " \x1b[31m", model=sharp_model(tiny_model_folder), target="x")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system="truecolor", no_color=False)
    print_attribution(found, console, top=3)
    shown = screen.getvalue()
    assert "\x1b[30;48;2;" in shown
    assert "␛[31m" in shown
    assert "misleads" in shown


def test_what_cannot_be_used_is_one_line_each_and_nothing_is_written(tmp_path):
    inputs = [bad for bad in bad_inputs() if bad.arguments[:1] == ("attribute",)]
    num_tried, unclear = try_all(tmp_path, inputs)
    assert num_tried > 25
    assert not unclear
