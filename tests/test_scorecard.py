"""The index: verdicts as the notebooks left them, deviations from configs, hours from records."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import fake_run
from test_reproduce import write_run

from matfl.config.run_config import override, smoke
from matfl.core.manifest import write_files
from matfl.paper.studies import Plan, scorecard
from matfl.paper.studies.base import setting
from matfl.paper.studies.paper_claims import PAPER_CLAIMS
from matfl.paper.studies.stock import seconds_of


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Folders of figures in which a test leaves verdicts: `left(preset, study, {claim's text: verdict})`."""
    monkeypatch.setattr("matfl.runs.workspace.checkout", lambda: tmp_path)
    monkeypatch.delenv("MATFL_FIGURES", raising=False)

    def leave(preset: str, study: str, found: dict[str, str]) -> Path:
        folder = tmp_path / "figures" / preset
        folder.mkdir(parents=True, exist_ok=True)
        claims = [{"claim": text, "verdict": word, "evidence": "d < 3"} for text, word in found.items()]
        content = {"claims": claims, "provenance": {"preset": preset}}
        (folder / f"{study}.json").write_text(json.dumps(content))
        return folder

    return leave


def row(card: scorecard.Scorecard, words: str) -> dict[str, str]:
    frame = card.frame().reset_index()
    return dict(frame[frame["claim"] == words].iloc[0])


PLAIN = "Plain many-task FL gains over single-task FL by unifying more data."


def test_without_results_nothing_is_claimed(left: Any) -> None:
    card = scorecard.scorecard()
    assert len(card.rows) == len(PAPER_CLAIMS)
    assert (card.counts().loc["not computed"] == len(PAPER_CLAIMS)).all()
    assert card._repr_html_().count("not computed yet") == 3 * len(PAPER_CLAIMS)


def test_verdicts_of_several_regimes_say_which(left: Any) -> None:
    text = "Updates cluster by task."
    folder = left("scenes", "01_update_tsne", {})
    claims = [
        {"claim": text, "verdict": word, "evidence": "d", "regime": f"at 64x64, learning rate {rate}"}
        for word, rate in (("not held", 0.001), ("held", 0.0001))
    ]
    (folder / "01_update_tsne.json").write_text(json.dumps({"claims": claims, "provenance": {"preset": "scenes"}}))
    shown = row(scorecard.scorecard(), "Updates are well clustered by tasks.")["rendered scenes"]
    assert shown == "not held (lr 0.001); held (lr 0.0001)"


def test_verdicts_of_several_task_sets_stand_side_by_side(left: Any) -> None:
    text = "Plain many-task FL beats single-task FL."
    left("scenes", "02_methods", {f"outdoor5: {text}": "held", f"scenes9: {text}": "not held"})
    left("photos", "02_methods", {f"photos8: {text}": "undecided"})
    found = row(scorecard.scorecard(), PLAIN)
    assert found["rendered scenes"] == "held (outdoor5); not held (scenes9)"
    assert found["photographs"] == "undecided (photos8)"
    assert found["photographs, ImageNet start"] == "not computed"
    counts = scorecard.scorecard().counts()["rendered scenes"]
    assert dict(counts) == {"held": 1, "not held": 1, "undecided": 0, "not computed": len(PAPER_CLAIMS) - 1}
    assert "d &lt; 3" in scorecard.scorecard()._repr_html_()


def test_a_look_stands_in_until_scenes_are_computed_and_says_so(left: Any) -> None:
    text = "A majority of layers make similar choices."
    left("quick", "06_layer_voting", {text: "undecided"})
    assert row(scorecard.scorecard(), text)["rendered scenes"] == "undecided [a look: quick]"
    assert "a look (preset quick)" in scorecard.scorecard()._repr_html_()
    left("scenes", "06_layer_voting", {text: "held"})
    assert row(scorecard.scorecard(), text)["rendered scenes"] == "held"
    left("scenes", "06_layer_voting", {text: "not computed"})
    assert row(scorecard.scorecard(), text)["rendered scenes"] == "undecided [a look: quick]"


def test_figures_become_small_pictures_that_link_to_their_notebooks(left: Any) -> None:
    folder = left("scenes", "04_k_sweep", {"An extremely small K (2) is worse than larger ones.": "held"})
    pixels = np.random.default_rng(0).integers(0, 255, (400, 900, 3)).astype("uint8")
    Image.fromarray(pixels).save(folder / "04_k_sweep_k.png")
    shown = scorecard.scorecard()._repr_html_()
    assert shown.count("<img") == 1
    assert '<a href="04_k_sweep.ipynb"><img src="data:image/png;base64,' in shown


def test_every_claim_is_worded_as_its_notebook_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed verdicts of the look hold every claim: a changed wording would fall out of the index."""
    monkeypatch.delenv("MATFL_FIGURES", raising=False)
    card = scorecard.scorecard("quick")
    absent = [claim.judged_as for claim, found in card.rows if not found["rendered scenes"]]
    assert absent == []


def test_deviations_are_the_configs() -> None:
    table = scorecard.deviations()
    assert table.loc["lr"].to_dict() == {
        "paper": "0.0001",
        "quick": "0.001",
        "scenes": "0.001",
        "photos": "0.001",
        "photos_imagenet": "0.001",
    }
    assert table.loc["local_epochs", ["paper", "scenes"]].tolist() == ["10", "1"]
    assert table.loc["rounds", ["paper", "quick", "scenes"]].tolist() == ["100", "12", "60"]
    assert {"heads", "loss_weights", "backbone", "width", "size", "start", "tasks", "K on five tasks"} <= set(
        table.index
    )
    assert "batch_size" not in table.index, "10 as in the paper"
    assert not {"seed", "preset", "method"} & set(table.index)


def test_costs_are_recorded_hours_shared_runs_once(left: Any) -> None:
    configs = [setting(smoke(), "outdoor5", method=name, seed=0) for name in ("single_task", "fedavg")]
    folder = left("smoke", "02_methods", {})
    runs = [fake_run(config) for config in configs]
    for config, run in zip(configs, runs):
        write_run(folder / "runs", config, run)
    plans = {"a": lambda preset: Plan(configs=tuple(configs)), "b": lambda preset: Plan(configs=(configs[0],))}
    missing = setting(smoke(), "outdoor5", method="matfl", seed=9)
    plans["c"] = lambda preset: Plan(configs=(missing,))
    table = scorecard.costs(plans, ["smoke"])["smoke"]
    hours = sum(map(seconds_of, runs)) / 3600
    assert table.to_dict() == {
        "a": f"{hours:.1f} h (2 of 2)",
        "b": f"{seconds_of(runs[0]) / 3600:.1f} h (1 of 1)",
        "c": "none of 1",
        "all, each once": f"{hours:.1f} h (2 of 3)",
    }


def test_the_pace_is_seconds_over_images_that_were_trained_on(left: Any) -> None:
    configs = [setting(smoke(), "outdoor5", method=name, seed=0) for name in ("single_task", "fedavg", "matfl")]
    few = override(configs[0], participation=0.5)
    other = setting(smoke(), "outdoor/semseg,indoor/depth", method="fedavg")
    folder = left("smoke", "02_methods", {})
    assert scorecard.pace().empty
    for config, seconds in zip((*configs, few, other), (1.0, 2.0, 6.0, 99.0, 3.0), strict=True):
        rounds = [{**row, "seconds": {"train": seconds, "mix": 50.0}} for row in fake_run(config).rounds]
        path = write_run(folder / "runs", config, replace(fake_run(config), rounds=rounds))
        made_by = {"torch": "2", "matfl": "0.9", "device": "cpu"}
        write_files(path, {"provenance.json": json.dumps(made_by)})
    table = scorecard.pace()
    images = 10 * smoke().images_per_client * smoke().local_epochs
    assert table.loc["smoke", "0.9, cpu", "outdoor5"].to_list() == pytest.approx(
        [3, *(round(1000 * seconds / images, 2) for seconds in (2.0, 1.0, 6.0))]
    )
    assert table.loc["smoke", "0.9, cpu", "other sets"]["ms"] == round(3000 * 10 / images / 4, 2)


def test_the_committed_index_shows_what_the_committed_notebooks_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever redraws a notebook draws the index last."""
    monkeypatch.delenv("MATFL_FIGURES", raising=False)
    notebook = json.loads((Path(__file__).parent.parent / "notebooks" / "index.ipynb").read_text(encoding="utf-8"))
    shown = {
        "".join(cell["source"]): "".join(cell["outputs"][0]["data"]["text/html"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "".join(cell["source"]).startswith("card.")
    }
    card = scorecard.scorecard("quick")
    for source, frame in (("card.counts()", card.counts()), ("card.frame()", card.frame())):
        cells = [html.unescape(text) for text in re.findall(r"<td>(.*?)</td>", shown[source])]
        assert cells == [str(value) for value in frame.to_numpy().ravel()], source
