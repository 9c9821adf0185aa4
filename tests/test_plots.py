"""Figures: what is on the axes is what was in the frame, colours and markers are consistent, files are stable."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from PIL import Image

from matfl.paper import plots
from matfl.paper.plots import style
from matfl.server.methods import METHODS
from matfl.tasks.task import DOMAINS, TASKS, pairs

PAIRS = [pair.name for pair in pairs("scenes9") for _ in range(2)]


@pytest.fixture
def ax() -> Axes:
    _, axes = plots.figure("single", height=2)
    yield axes
    plt.close("all")


def luminance(color: str) -> float:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_task_and_method_has_a_colour_of_its_own() -> None:
    colors = {name: task.color for name, task in TASKS.items()}
    assert len(set(colors.values())) == len(TASKS)
    methods = [style.method_color(name) for name in METHODS]
    assert len(set(methods)) == len(METHODS)
    assert style.method_color("unheard_of") == "#777777"
    assert max(map(luminance, colors.values())) < 0.75, "pale colours vanish on white"


def test_the_same_task_has_one_colour_in_every_domain_and_domains_their_markers() -> None:
    assert style.pair_color("outdoor/edge") == style.pair_color("nyud/edge")
    assert {style.marker(f"{name}/semseg") for name, domain in DOMAINS.items() if domain.indoor} == {"s"}
    assert {style.marker(f"{name}/semseg") for name, domain in DOMAINS.items() if not domain.indoor} == {"o"}
    assert style.pair_title("pascal/semseg") == "Seg. (PASCAL-Context)"
    assert style.pair_title("outdoor/depth") == "Depth (outdoor)"
    assert style.method_title("my_method") == "my_method"


def test_figures_have_a_columns_width() -> None:
    fig, axes = plots.figure("double", height=3, cols=2)
    assert fig.get_size_inches().tolist() == [7.0, 3.0]
    assert len(axes) == 2
    with pytest.raises(ValueError, match="columns='triple'"):
        plots.figure("triple", height=3)  # type: ignore[arg-type]
    plt.close("all")


def test_files_carry_their_provenance_and_are_stable(tmp_path: Path) -> None:
    provenance = {"study": "04", "hash": "abc", "seeds": [0, 1]}
    contents = []
    for folder in ("a", "b"):
        fig, axes = plots.figure("single", height=2)
        axes.plot([0, 1], [1, 0])
        pdf, png = plots.save(fig, tmp_path / folder / "name", provenance)
        contents.append((pdf.read_bytes(), png.read_bytes()))
        plt.close("all")
    assert contents[0] == contents[1]
    with Image.open(tmp_path / "a" / "name.png") as image:
        assert image.text["Description"] == '{"hash": "abc", "seeds": [0, 1], "study": "04"}'  # type: ignore[attr-defined]
    assert b"/Keywords" in contents[0][0]
    assert b"CreationDate" not in contents[0][0]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["name.pdf", "name.png"]


def test_tsne_shows_every_model_in_its_tasks_colour_and_domains_marker(ax: Axes) -> None:
    points = pd.DataFrame({"x": np.arange(18.0), "y": np.arange(18.0), "pair": PAIRS})
    plots.update_tsne(points, ax=ax)
    assert len(ax.collections) == 9
    for collection, pair in zip(ax.collections, dict.fromkeys(PAIRS)):
        assert len(collection.get_offsets()) == 2
        assert to_hex(collection.get_facecolor()[0][:3]).upper() == style.pair_color(pair)
        assert len(collection.get_paths()[0].vertices) == (5 if pair.startswith("indoor") else 26)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["Seg.", "H.Parts", "Sal.", "Norm.", "Edge", "Depth", "outdoor scenes", "indoor scenes"]


def test_cosine_matrix_is_symmetric_around_zero_and_frames_equal_types(ax: Axes) -> None:
    names = list(dict.fromkeys(PAIRS))
    matrix = pd.DataFrame(np.linspace(-0.2, 0.6, 81).reshape(9, 9), index=names, columns=names)
    plots.cosine_matrix(matrix, ax=ax)
    assert ax.collections[0].get_clim() == pytest.approx((-0.6, 0.6))
    assert len(ax.patches) == 9 + 2 * 3  # itself, and Seg., Norm. and Edge across the two domains
    assert len(ax.texts) == 81


def test_k_sweep_draws_the_means_and_the_baselines(ax: Axes) -> None:
    frame = pd.DataFrame(
        {
            "method": ["matfl"] * 4 + ["fedavg"] * 2,
            "k": [2, 2, 8, 8, 8, 8],
            "seed": [0, 1] * 3,
            "value": [0.1, 0.3, 0.4, 0.6, 0.2, 0.4],
        }
    )
    plots.k_sweep(frame, ax=ax)
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["MaT-FL"].get_xydata().tolist() == pytest.approx(np.array([[2, 0.2], [8, 0.5]]))
    assert list(lines[METHODS["fedavg"].title].get_ydata()) == pytest.approx([0.3, 0.3])
    assert ax.get_xlabel() == "$K$"
    assert [int(x) for x in ax.get_xticks()] == [2, 8]


def test_methods_show_every_seed_and_no_interval_for_one(ax: Axes) -> None:
    frame = pd.DataFrame({"method": ["fedavg", "fedavg", "matfl"], "seed": [0, 1, 0], "delta_m": [-6.0, -8.0, 1.0]})
    plots.methods(frame, ax=ax)
    drawn = np.concatenate([line.get_xdata() for line in ax.lines])
    assert {-6.0, -8.0, -7.0, 1.0} <= set(drawn.tolist())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["MaT-FL", METHODS["fedavg"].title]
    assert (
        sum(
            len(line.get_xdata()) == 2 and line.get_linestyle() == "-" and line.get_color() != "black"
            for line in ax.lines
        )
        == 1
    )


def test_learning_curves_mark_the_direction(ax: Axes) -> None:
    frame = pd.DataFrame(
        {
            "method": "matfl",
            "seed": [0, 1] * 2,
            "round": [1, 1, 4, 4],
            "pair": "indoor/depth",
            "value": [2.0, 1.0, 1.0, 0.8],
        }
    )
    plots.learning_curves(frame, "indoor/depth", ax=ax)
    assert ax.get_ylabel() == "rmse ↓"
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([1.5, 0.9])


def test_clients_and_layers(ax: Axes) -> None:
    frame = pd.DataFrame(
        {
            "method": ["matfl"] * 4,
            "clients_per_task": [1, 1, 4, 4],
            "voting_layers": [1, 1, 8, 8],
            "seed": [0, 1] * 2,
            "delta_m": [0.0, 1.0, 2.0, 3.0],
            "correctness": 1.0,
            "chance": 0.3,
        }
    )
    plots.clients_per_task(frame, value="delta_m", label="d", ax=ax)
    assert ax.lines[1].get_ydata().tolist() == [0.5, 2.5]
    _, other = plots.figure("single", height=2)
    plots.layers_sweep(frame, value="correctness", label="c", ax=other)
    assert other.get_ylim()[0] == 0
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["at random"]


def test_grouping_graph_labels_the_frequencies(ax: Axes) -> None:
    frequency = np.zeros((18, 18))
    frequency[3, [2, 7, 12]] = [1.0, 0.42, 0.05]
    plots.grouping_graph(frequency, 3, PAIRS, ax=ax)
    assert {text.get_text() for text in ax.texts} == {"1.00", ".42"}
    assert [text.get_text() for text in ax.texts if text.get_weight() == "bold"] == ["1.00"]
    positions = np.array([text.get_position() for text in ax.texts])
    assert (np.hypot(*positions.T) > 1).all(), "labels lie outside the ring, whatever the client's number"
    assert ax.get_title() == "H.Parts (outdoor)"


def test_votes_and_agreement(ax: Axes) -> None:
    votes = np.arange(36.0).reshape(2, 18)
    plots.votes(votes, 0, PAIRS, top=8, ax=ax)
    assert ax.collections[0].get_clim() == (0, 8)
    assert np.asarray(ax.collections[0].get_array()).reshape(2, 18) == pytest.approx(votes)
    assert len(ax.get_xticklabels()) == 18
    _, other = plots.figure("single", height=2)
    plots.layer_agreement(np.eye(3), ax=other)
    assert [text.get_text() for text in other.texts[:2]] == ["1.00", "0.00"]


def test_rounds(ax: Axes) -> None:
    frame = pd.DataFrame(
        {
            "round": [1, 2],
            "seed": 0,
            "correctness": [1.0, 0.5],
            "chance": 0.4,
            "self_weight": [0.9, 0.8],
            "partner_weight": 0.1,
            "other_weight": [0.0, 0.1],
        }
    )
    plots.grouping_correctness(frame, ax=ax)
    assert ax.lines[1].get_ydata()[0] == 0.4
    _, other = plots.figure("single", height=2)
    plots.weight_shares(frame, ax=other)
    assert other.get_ylim() == (0, 1)
    names = list(dict.fromkeys(PAIRS))
    plots.choice_matrix(pd.DataFrame(np.eye(9), index=names, columns=names), ax=ax)


def test_gallery_partition_classes_and_transfer(ax: Axes) -> None:
    _, axes = plots.figure("double", height=2, rows=1, cols=2, squeeze=False)
    plots.gallery([("image", [np.zeros((3, 4, 4), np.uint8)]), ("outdoor/sal", [np.ones((4, 4), np.uint8)])], axes)
    assert [a.get_title() for a in axes[0]] == ["image", "Sal."]
    plots.partition(pd.DataFrame({"client": [0, 1], "pair": ["outdoor/sal"] * 2, "images": [5, 7]}), ax=ax)
    assert [bar.get_height() for bar in ax.patches] == [5, 7]
    _, other = plots.figure("single", height=2)
    plots.class_frequencies(pd.DataFrame({"class_name": ["a", "b"], "share": [0.9, 0.1], "images": [1, 0.5]}), ax=other)
    assert [bar.get_width() for bar in other.patches] == [1, 0.5, 0.9, 0.1]
    _, third = plots.figure("single", height=2)
    gains = pd.DataFrame(
        {"pair": "outdoor/sal", "sharing": ["domain", "domain", "all"], "seed": [0, 1, 0], "gain": [1.0, 3.0, -1.0]}
    )
    plots.transfer(gains, ax=third)
    assert [bar.get_height() for bar in third.patches[:2]] == [2, -1]


def test_costs(ax: Axes) -> None:
    frame = pd.DataFrame(
        {"clients": [2, 4] * 2, "way": ["ours"] * 2 + ["naive"] * 2, "seconds": [1.0, 2, 4, 16], "gigabytes": 1.0}
    )
    plots.server_step(frame, ax=ax)
    assert ax.lines[1].get_ydata().tolist() == [4, 16]
    assert ax.get_yscale() == "log"
    _, other = plots.figure("single", height=2)
    sent = pd.DataFrame({"method": "matfl", "gigabytes": [1.0, 1.0, 2.0], "delta_m": [-4.0, -2.0, 0.0]})
    plots.bytes_to_quality(sent, ax=other)
    assert other.lines[0].get_ydata().tolist() == [-3, 0]
    _, third = plots.figure("single", height=2)
    plots.throughput(pd.DataFrame({"machine": ["a"], "way": ["matfl"], "images_per_second": [1234.0]}), ax=third)
    assert third.texts[0].get_text().strip() == "1,234"
    _, fourth = plots.figure("single", height=2)
    plots.memory(frame, ax=fourth)
    assert len(fourth.lines) == 2


def test_legends() -> None:
    fig, axes = plots.figure("double", height=2, cols=2)
    for ax in axes:
        ax.plot([0], [0], label="same")
    plots.shared_legend(fig, axes)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["same"]
    plots.legend_below(fig, plots.task_legend(["outdoor/sal"]))
    assert [text.get_text() for text in fig.legends[1].get_texts()] == ["Sal.", "outdoor scenes"]
    plt.close("all")
