"""The readings of Algorithm 1: closed forms on small similarities, and the table of the docs from the records."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matfl.paper.studies.readings import READINGS, readings, stored, table

ROOT = Path(__file__).resolve().parent.parent
PAIRS = np.array(["outdoor/semseg", "outdoor/semseg", "outdoor/sal", "outdoor/sal"])


@dataclass
class StoredRun:
    diagnostics: dict[str, np.ndarray]
    config: SimpleNamespace


def run_of(similarity_LNN, k, present=True):
    participants = np.full((1, len(PAIRS)), True)
    participants[0, 0] = present
    arrays = {"similarity": np.array(similarity_LNN)[None], "participants": participants, "client_pairs": PAIRS}
    return StoredRun(arrays, SimpleNamespace(k=k))


def partners(cosine):
    """One layer in which partners have the given cosine and others none."""
    similarity_NN = np.eye(4)
    similarity_NN[[0, 1, 2, 3], [1, 0, 3, 2]] = cosine
    return similarity_NN[None]


def test_readings_agree_where_the_point_does_not_arise():
    found = readings([run_of(partners(0.5), k=2)])["mean"]
    assert found["each layer normalised over friends only"] == pytest.approx(0)
    assert found["negative similarities kept"] == pytest.approx(0)
    assert found["cosines averaged without normalising each layer"] == pytest.approx(0)


def test_excluding_oneself_cannot_change_a_task_of_two_partners_but_one_with_others():
    # A task's step is the mean of its clients' rows: two partners that exchange places give the same mean.
    assert readings([run_of(partners(0.5), k=2)])["mean"]["self excluded"] == pytest.approx(0)
    alone = np.eye(4)[None] + 0.2 * (1 - np.eye(4)[None])
    alone[0, :2, :2] = alone[0, 2:, 2:] = np.eye(2)
    # Own weight 1 : 0.2 : 0.2; without oneself all of a task's step comes from the other task's two clients.
    expected = 2 * 1 / 1.4
    assert readings([run_of(alone, k=4)])["mean"]["self excluded"] == pytest.approx(expected)


def test_negative_similarities_count_with_their_sign_when_kept():
    similarity_LNN = partners(-0.5)
    kept = READINGS["negative similarities kept"](torch.from_numpy(similarity_LNN), 4)
    assert kept[0].tolist() == pytest.approx([2, -1, 0, 0])


def test_rounds_with_a_missing_client_are_left_out():
    with pytest.raises(ValueError, match="no round with all clients"):
        readings([run_of(partners(0.5), k=2, present=False)])


def test_docs_show_what_the_records_give():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- readings -->\n")[2].partition("\n<!-- /readings -->")[0]
    folder = text.partition("python -m matfl.paper.studies.readings ")[2].partition("`")[0]
    assert shown == table(readings(stored(ROOT / folder)))
