"""The numbers of real photographs: found where they are stored, and shown without the photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import own_data
import pytest
import torch.nn.functional as F

from matfl.config.run_config import override, preset
from matfl.data import load_split
from matfl.paper.studies import benchmark, constants, photographs
from matfl.paper.studies.store import Record, job_name, load_or_compute, write_record
from matfl.paper.studies.training import constant_scores
from matfl.tasks.task import DOMAINS, TASKS


def record() -> Record:
    job = photographs.Photographs(config=preset("photos"))
    classes = {"class_name": ["wall", "other prop"], "share": [1.0, 0.0], "images": [0.5, 0.0]}
    values = {
        "images": {"train": 7, "val": 3},
        "classes": {"nyuv2/semseg": classes},
        "constant": {"nyuv2/semseg": 0.02, "nyuv2/normals": 44.0},
    }
    return Record(
        path=Path(job_name(job)), spec=job.spec(), values={"domains": {"nyuv2": values}}, arrays={}, provenance={}
    )


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """Neither a checkout nor data."""
    monkeypatch.setattr("matfl.runs.workspace.checkout", lambda: None)
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MATFL_DATA", str(tmp_path))
    return tmp_path


def test_a_row_says_which_labels_are_derived() -> None:
    table = photographs.table([record()]).set_index("pair")
    assert table.loc["nyuv2/normals", "labels"] == "derived"
    assert table.loc["nyuv2/semseg", "labels"] == "published"
    assert table.loc["nyuv2/semseg", ["training", "validation", "metric", "constant"]].tolist() == [7, 3, "mIoU", 0.02]
    assert photographs.table([]).empty


def test_ignored_classes_are_left_out() -> None:
    assert photographs.class_tables([record()])["nyuv2/semseg"]["class_name"].tolist() == ["wall"]


def test_they_are_told_from_the_transfer_test() -> None:
    central = Record(path=Path("central-0"), spec={}, values={}, arrays={}, provenance={})
    numbers = record()
    assert benchmark.apart([central, numbers]) == ([central], [numbers])


def test_they_are_planned_only_where_they_can_be_had(nowhere) -> None:
    assert photographs.jobs_at_hand() == ()
    write_record(nowhere / "runs", record())
    (job,) = photographs.jobs_at_hand()
    (found,) = load_or_compute([job], runs_dir=nowhere / "runs")
    assert found.values == record().values


def test_photographs_at_hand_are_enough(nowhere) -> None:
    (nowhere / "people" / "photos").mkdir(parents=True)
    assert photographs.jobs_at_hand() == (), "one data set of two"


def test_scores_are_drawn_without_the_photographs_themselves(monkeypatch) -> None:
    monkeypatch.delenv("MATFL_DATA", raising=False)
    assert benchmark.splits("photos") == {}
    assert benchmark.class_tables({}) == {}
    sentence = benchmark.partition_sentence(benchmark.shares({}, "photos"))
    assert "`matfl data fetch` brings them" in sentence.text


def test_a_partition_is_counted_from_the_pictures_that_are_there(nowhere) -> None:
    found = benchmark.splits(
        "smoke", "tasks=outdoor/human_parts,outdoor/sal; images_per_client=0; images_train=16; k=2"
    )
    shares = benchmark.shares(found, "smoke", "tasks=outdoor/human_parts,outdoor/sal; images_per_client=0; k=2")
    usual = shares["images"].mode()[0]
    text = benchmark.partition_sentence(shares).text
    assert f"{(shares['images'] == usual).sum()} clients have {usual} training images each" in text


def test_no_photograph_is_committed() -> None:
    root = Path(__file__).parents[1]
    assert not [path for path in root.glob("figures/photos*/**/*") if "gallery" in path.name]


def test_constant_answers_are_stored_once_a_seeds_pictures(nowhere) -> None:
    settings = "tasks=outdoor/sal,indoor/depth; images_train=12; images_val=4; k=2"
    planned = constants.jobs("smoke", seeds=2, settings=settings)
    assert constants.levels([record()]).empty
    found = load_or_compute(planned, runs_dir=nowhere / "runs", jobs=1)
    level = constants.levels([record(), *found]).set_index("pair")["chance"]
    assert list(level.index) == ["outdoor/sal", "indoor/depth"]
    each = [constant_scores(job.config) for job in planned]
    assert each[0] != each[1], "every seed has pictures of its own"
    assert level["indoor/depth"] == pytest.approx((each[0]["indoor/depth"] + each[1]["indoor/depth"]) / 2)
    assert len(list((nowhere / "runs").glob("constants-*"))) == 2
    assert len(constants.jobs("photos")) == 1


def test_constant_answers_are_measured_where_models_are_at_native_size(nowhere) -> None:
    own_data.register(size=64)
    try:
        config = override(
            preset("smoke"), tasks="slopes/height,slopes/bright", size=32, k=1, images_train=0, images_val=0
        )
        found = constant_scores(config)
        learned = np.asarray(load_split(config, DOMAINS.find("slopes"), "train").labels["height"])
        constant = TASKS.find("height").constant(learned, 1)
        large = F.interpolate(constant, (64, 64), mode="bilinear", align_corners=False).numpy()[0, 0]
        truth = own_data.arrays(4, 1, 64)["height"]
        assert found["slopes/height"] == pytest.approx(np.sqrt(np.nanmean((large - truth) ** 2)), rel=1e-4)
    finally:
        own_data.forget()
