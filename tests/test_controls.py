"""Controls: small multiples on paper, sliders only where somebody looks, and pictures that follow the choice."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_runs import fake_run

from matfl.config.run_config import smoke
from matfl.paper import controls, plots
from matfl.paper.controls import Control, Picker
from matfl.paper.studies import how_matfl_decides
from matfl.paper.studies.base import setting
from matfl.server.grouping import friends, similarity_weights, votes

CONFIG = setting(smoke(), "scenes9", method="matfl")


@pytest.fixture
def counted() -> Any:
    """A picker whose pictures are counted."""
    drawn: list[tuple[int, str]] = []

    def draw(number: int, word: str) -> Any:
        drawn.append((number, word))
        fig, ax = plots.figure("single", height=1)
        ax.plot([0, number])
        ax.set_title(word)
        return fig

    return Picker(choices={"number": [1, 2, 3], "word": ["a", "b"]}, draw=draw, start={"number": 2}), drawn


def test_a_picture_follows_the_choice_and_is_drawn_once(counted: Any) -> None:
    picker, drawn = counted
    first = picker.picture(number=1, word="a")
    assert first.startswith(b"\x89PNG")
    assert picker.picture(number=2, word="a") != first
    assert picker.picture(number=1, word="a") is first
    assert drawn == [(1, "a"), (2, "a")]
    with pytest.raises(ValueError, match="number=9: choose from 1, 2, 3"):
        picker.picture(number=9, word="a")


def test_nothing_is_shown_in_a_batch(
    counted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picker, drawn = counted
    monkeypatch.setenv("MATFL_LIVE", "0")
    picker.show()
    assert (drawn, capsys.readouterr().out) == ([], "")


def test_without_widgets_one_sentence_says_so(
    counted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picker, drawn = counted
    monkeypatch.setenv("MATFL_LIVE", "1")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    picker.show()
    assert capsys.readouterr().out.strip() == controls.WITHOUT_WIDGETS
    assert drawn == []


def test_moving_a_slider_changes_the_picture(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets")
    picker, drawn = counted
    shown: list[Any] = []
    monkeypatch.setenv("MATFL_LIVE", "1")
    monkeypatch.setattr("IPython.display.display", shown.append)
    picker.show()
    (box,) = shown
    (slider, words), picture = box.children[0].children, box.children[1]
    before = picture.value
    assert drawn == [(2, "a")]
    slider.value = 3
    assert picture.value != before
    words.value = "b"
    assert drawn == [(2, "a"), (3, "a"), (3, "b")]


def shades(control: Control, value: int) -> np.ndarray:
    """The matrix that a control draws for a value."""
    ax = control.single(value).axes[0]
    return np.asarray(ax.images[0].get_array())


def test_rounds_show_that_rounds_weights_and_votes() -> None:
    run = fake_run(CONFIG)
    chosen = controls.choices_by_round(run)
    assert list(chosen.values) == [1, 2, 3, 4]
    for number in (1, 3):
        assert shades(chosen, number) == pytest.approx(run.diagnostics["weights"][number - 1], abs=1e-6)
    cast = controls.votes_by_round(run)
    expected = run.diagnostics["votes"][1].sum(0).astype(float)
    np.fill_diagonal(expected, 0)
    assert shades(cast, 2) == pytest.approx(expected)
    assert len(chosen.figure().axes) >= 3


def test_friends_at_any_k_are_the_librarys() -> None:
    run = fake_run(CONFIG)
    decided = how_matfl_decides.stored_round(run, 2)  # type: ignore[arg-type]
    control = controls.friends_by_k(decided)
    assert list(control.values) == list(range(1, 19))
    for k in (2, 5, 18):
        similarity_LNN = torch.from_numpy(run.diagnostics["similarity"][1].astype(np.float32))
        friends_NN = friends(votes(similarity_LNN, k), k, similarity=similarity_LNN)
        assert shades(control, k) == pytest.approx(similarity_weights(similarity_LNN, friends_NN).numpy(), abs=1e-6)
        assert (friends_NN.sum(1) == k).all()


def test_small_multiples_span_the_values() -> None:
    drawn: list[int] = []
    control = Control(name="n", values=[1], draw=lambda value, ax: drawn.append(value), still=[4], words="w")
    control.figure()
    assert drawn == [4]
    assert control.caption.text == "w Panels: n 4."
    assert controls._spread([4]) == [4]
    assert [controls._spread(list(range(1, 61)))[i] for i in (0, -1)] == [1, 60]
