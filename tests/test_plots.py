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

from matfl.paper import names, plots
from matfl.paper.plots import style
from matfl.server.methods import METHODS
from matfl.tasks.edges import Curve
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
    assert names.pair_title("pascal/semseg") == "Seg. (PASCAL-Context)"
    assert names.pair_title("outdoor/normals") == "Norm. (outdoor)"
    assert names.method_title("my_method") == "my_method"
    assert names.layer_title("layer4.0.conv2.weight") == "4.0.conv2"


def test_task_sets_are_called_by_their_words_and_their_role() -> None:
    assert names.set_title("outdoor5") == "Outdoor scenes, 5 tasks (PASCAL-Context's part in the paper)"
    assert names.set_title("scenes9", role=False) == "Outdoor and indoor scenes, 9 tasks"
    assert names.set_title("outdoor/sal") == "Outdoor scenes, 1 task"
    assert names.set_title("pascal5") == "PASCAL-Context, 5 tasks"
    assert [names.table_title(name) for name in ("outdoor5", "pascal5")] == ["Outdoor scenes (5)", "Pascal-Context (5)"]


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
    assert ax.get_ylabel() == "RMSE (m) ↓"
    assert list(ax.lines[1].get_ydata()) == [0.8, 1.0], "the seeds' range at the end"
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
    assert [text.get_text() for text in other.texts] == ["at random"]


def test_grouping_graph_labels_the_frequencies(ax: Axes) -> None:
    frequency = np.zeros((18, 18))
    frequency[3, [2, 7, 12]] = [1.0, 0.42, 0.05]
    plots.grouping_graph(frequency, 3, PAIRS, chance=0.41, ax=ax)
    assert len(ax.texts) == 17, "every other client has its number"
    assert {text.get_text() for text in ax.texts if text.get_color() == "black"} == {"1.00", ".42"}
    assert {text.get_text() for text in ax.texts if text.get_color() != "black"} == {".05", "0"}
    assert [text.get_text() for text in ax.texts if text.get_weight() == "bold"] == ["1.00"]
    positions = np.array([text.get_position() for text in ax.texts])
    assert (np.hypot(*positions.T) > 1).all(), "labels lie outside the ring, whatever the client's number"
    assert ax.get_title() == "H.Parts (outdoor)"


def test_votes_and_agreement(ax: Axes) -> None:
    votes = np.arange(36.0).reshape(2, 18)
    plots.votes(votes, 0, PAIRS, top=8, ax=ax)
    assert ax.collections[0].get_clim() == (0, 7), "K is what a client gives itself alone"
    drawn = np.ma.filled(ax.collections[0].get_array(), np.nan).reshape(2, 18)
    assert np.isnan(drawn[:, 0]).all()
    assert drawn[:, 1:] == pytest.approx(votes[:, 1:])
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["Seg. O", "H.Parts O"]
    assert len(ax.get_xticklabels()) == 9
    _, other = plots.figure("single", height=2)
    plots.layer_agreement(np.eye(3), ax=other)
    assert [text.get_text() for text in other.texts[:2]] == ["1.00", ".00"]
    plots.layer_agreement(np.eye(2), layers=["layer4.0.conv1.weight", "layer4.0.conv2.weight"], ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["4.0.conv1", "4.0.conv2"]


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


def test_gallery_classes_and_transfer(ax: Axes) -> None:
    _, axes = plots.figure("double", height=2, rows=1, cols=2, squeeze=False)
    plots.gallery([("image", [np.zeros((3, 4, 4), np.uint8)]), ("outdoor/sal", [np.ones((4, 4), np.uint8)])], axes)
    assert [a.get_title() for a in axes[0]] == ["image", "Sal."]
    _, other = plots.figure("single", height=2)
    plots.class_frequencies(pd.DataFrame({"class_name": ["a", "b"], "share": [0.9, 0.1], "images": [1, 0.5]}), ax=other)
    images, pixels = (line.get_xdata().tolist() for line in other.lines)
    assert (images, pixels) == ([100, 50], [90, 10])
    _, third = plots.figure("single", height=2)
    gains = pd.DataFrame(
        {"pair": "outdoor/sal", "sharing": ["domain", "domain", "all"], "seed": [0, 1, 0], "gain": [1.0, 3.0, -1.0]}
    )
    plots.transfer(gains, ax=third)
    means = {line.get_marker(): line.get_ydata()[0] for line in third.lines if line.get_marker() in ("o", "s")}
    assert means == {"o": 2.0, "s": -1.0}
    assert [text.get_text() for text in third.get_legend().get_texts()] == ["with its domain's tasks", "with all tasks"]
    low, high = third.get_ylim()
    arrows = [line for line in third.lines if line.get_marker() in ("v", "^")]
    assert sorted(line.get_ydata()[0] for line in arrows) == [low, high], (
        "two seeds' interval leaves the axes on both sides"
    )


def test_depth_says_how_far_its_colours_reach() -> None:
    _, axes = plots.figure("double", height=2, rows=1, cols=1, squeeze=False)
    plots.gallery([("indoor/depth", [np.array([[0.0, 1.5], [2.0, 6.5]], np.float16)])], axes)
    assert [text.get_text() for text in axes[0, 0].texts] == ["1.5 to 6.5 m"]
    handles = plots.class_key({"semseg": ("background", "person")}, ["outdoor/semseg", "outdoor/sal"])
    assert [handle.get_label() for handle in handles] == ["Seg. background", "Seg. person"]


def test_the_edges_of_precision_and_recall_end_where_the_curves_do(ax: Axes) -> None:
    recall = np.array([0.0, 0.05, 0.1])
    curve = Curve(
        protocol="mtl",
        thresholds_T=np.array([0.9, 0.5, 0.1]),
        precision_T=np.array([1.0, 0.2, 0.1]),
        recall_T=recall,
        f_T=np.array([0.0, 0.08, 0.1]),
    )
    plots.precision_recall(curve, pair="outdoor/edge", ax=ax)
    assert ax.get_xlim()[1] == pytest.approx(0.25)
    assert all(line.get_ydata().min() >= 0 and line.get_ydata().max() <= 0.25 for line in ax.lines)
    plots.precision_recall(curve, pair="indoor/edge", ax=ax)
    assert [text.get_text() for text in ax.texts].count("F=0.10") == 1, "guides are drawn anew"


def test_costs(ax: Axes) -> None:
    frame = pd.DataFrame(
        {"clients": [2, 4] * 2, "way": ["ours"] * 2 + ["naive"] * 2, "seconds": [1.0, 2, 4, 16], "gigabytes": 1.0}
    )
    plots.server_step(frame, ax=ax)
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines["naive (all pairs of clients)"] == [4, 16]
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["~ N", "~ N²"]
    _, other = plots.figure("single", height=2)
    sent = pd.DataFrame(
        {"level": [-5.0, -5, -1, -1], "method": "matfl", "seed": [0, 1] * 2, "gigabytes": [1.0, 3.0, 4.0, np.nan]}
    )
    plots.bytes_to_quality(sent, ax=other)
    marks = {
        (line.get_marker(), round(float(line.get_xdata()[0]), 6)) for line in other.lines if len(line.get_xdata()) == 1
    }
    assert ("o", 2.0) in marks
    assert (">", 4.4) in marks, "a seed never reaches -1 %"
    _, third = plots.figure("single", height=2)
    plots.throughput(pd.DataFrame({"machine": ["a"], "way": ["matfl"], "images_per_second": [1234.0]}), ax=third)
    assert third.texts[0].get_text().strip() == "1,234"
    beaten = {"machine": ["a"], "way": ["floor"], "images_per_second": [330.0], "doubtful": ["beaten: bounds nothing"]}
    plots.throughput(pd.DataFrame(beaten), ax=ax)
    assert ax.get_yticklabels()[0].get_text() == "floor, beaten: bounds nothing"
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
