"""Tables of README and docs/results.md say what the committed tables behind them say."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import matfl
from matfl.paper.studies.base import setting, sizes

ROOT = Path(__file__).resolve().parent.parent
COMPARED = {
    "five": ("scenes", "outdoor5"),
    "nine": ("scenes", "scenes9"),
    "photographs": ("photos", "photos8"),
    "ImageNet": ("photos_imagenet", "photos8"),
}
METHODS = {
    "single-task FL": "single_task",
    "plain many-task FL": "fedavg",
    "FedProx": "fedprox",
    "MaT-FL": "matfl",
    "soft groups by one cosine over the voting layers": "soft_grouping",
}
TYPES = {
    "segmentation": "semseg",
    "human parts": "human_parts",
    "saliency": "sal",
    "normals": "normals",
    "edges": "edge",
    "depth": "depth",
}
COSINES = ("same task", "same type in the other domain", "other type in the same domain")
NUMBER = re.compile(r"[+-]?\d*\.?\d+")


def tables(page: str) -> dict[str, pd.DataFrame]:
    """The page's tables by the words of their heads, rows by the first column."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", (ROOT / page).read_text(encoding="utf-8"), re.M):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        cells, names = [row[1:] for row in rows], [row[0] for row in rows]
        found[" ".join(head)] = pd.DataFrame(cells, columns=head[1:], index=names)
    return found


def table(page: str, *words: str) -> pd.DataFrame:
    (chosen,) = (frame for head, frame in tables(page).items() if all(word in head for word in words))
    return chosen


def assert_shown(cell: str, measured: list[float]) -> None:
    """The numbers of a cell are the measured ones, rounded as shown; after `<` stands a bound."""
    shown = NUMBER.findall(cell)
    assert len(shown) == len(measured), cell
    for text, value in zip(shown, measured):
        if f"< {text}" in cell:
            assert value < float(text), cell
        else:
            digits = len(text.partition(".")[2])
            assert abs(float(text) - value) <= 0.5 * 10**-digits + 1e-9, f"{cell}: {value}"


def records(preset: str, name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "figures" / preset / f"{name}.csv")


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_matfl_against_the_others(page):
    shown = table(page, "MaT-FL", "against", "nine")
    assert list(shown.index) == ["plain many-task FL", "FedProx", "single-task FL"]
    for column in shown:
        preset, tasks = COMPARED[column.split()[0].rstrip(",")]
        measured = records(preset, "02_methods_table_compare").set_index(["tasks", "against"])
        for against, cell in shown[column].items():
            row = measured.loc[tasks, METHODS[against]]
            assert_shown(cell, [row["mean"], row["low"], row["high"], row["p_holm"]])


def test_ours_against_the_others():
    shown = table("docs/results.md", "ours against")
    for column, preset in zip(shown, ("scenes", "photos"), strict=True):
        measured = records(preset, "11_our_best_table_compare")
        cells = shown[column][shown[column] != ""]
        assert len(cells) == len(measured)
        for (against, cell), (_, row) in zip(cells.items(), measured.iterrows()):
            assert METHODS[re.sub(r"^beside .*: | at .*", "", against)] == row["against"]
            p = [] if pd.isna(row["p_holm"]) else [row["p_holm"]]
            assert_shown(cell, [row["difference"], row["low"], row["high"], *p])


def test_steps_of_their_own():
    shown = table("docs/results.md", "its step", "gain")
    measured = records("scenes", "08_server_step_table_steps").set_index(["tasks", "method"])
    entries = [str(name).split(" tasks: ") for name in shown.index]
    assert {(COMPARED[tasks][1], METHODS[method]) for tasks, method in entries} == set(measured.index)
    for (tasks, method), (_, cells) in zip(entries, shown.iterrows()):
        row = measured.loc[(COMPARED[tasks][1], METHODS[method])]
        for cell, value in zip(cells, (row["own_step"], row["step_1"], row["own"])):
            assert_shown(cell, [value])
        assert_shown(cells["gain"], [row["gain"], row["low"], row["high"]])


def test_every_rival():
    there = [float(text) for text in NUMBER.findall(" ".join(table("docs/results.md", "delta_m")["delta_m"]))]
    measured = records("scenes", "02_methods_table_methods").set_index(["tasks", "method"]).loc["outdoor5"]["delta_m"]
    others = measured.drop("single_task").dropna().sort_values(ascending=False)
    assert len(there) == len(others)
    assert (abs(others.to_numpy() - there) <= 0.05).all()


def thousandths(value: float) -> str:
    """.012 as docs/results.md writes it."""
    return f"{value:.3f}".replace("0.", ".", 1)


def test_the_papers_own_measures():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = pd.concat([records(preset, "02_methods_table_measures") for preset in ("scenes", "photos")])
    found = found.set_index(["tasks", "pair", "method", "against"]).sort_index()
    sets = [("outdoor5", "outdoor"), ("scenes9", "outdoor"), ("photos8", "people")]
    seg, sal = (
        [found.loc[(tasks, f"{domain}/{task}")] for tasks, domain in sets] for task in ("semseg", "sal")
    )  # one a task set, rows (method, against)
    others = [("matfl", "fedavg"), ("matfl", "fedprox")]
    mean, p = (
        lambda rows, keys, column=column: [*rows.loc[keys, column].map(thousandths)] for column in ("mean", "p_holm")
    )

    assert len({*mean(seg[0], others)}) == len({*p(seg[0], others)}) == 1
    words = (
        "it is segmentation: {} above plain many-task FL and above FedProx on five tasks (p {} each), {} and "
        "{} on nine (p {} and {})"
    )
    assert (
        words.format(mean(seg[0], others)[0], p(seg[0], others)[0], *mean(seg[1], others), *p(seg[1], others)) in text
    )
    single, plain = [("matfl", "single_task")], [("fedavg", "single_task")]
    words = "from single-task FL it is not told apart ({} and {}; p {} and {})"
    assert words.format(*(f(rows, single)[0] for f in (mean, p) for rows in seg[:2])) in text
    assert all((rows["p_holm"] > 0.05).all() for rows in sal[:2]), "told apart from none there"
    assert (sal[0].loc["matfl", "mean"] < 0).all(), "the lowest of the four"
    words = (
        "it is saliency: {} above plain many-task FL and {} above FedProx (p {} and {}); segmentation ({} "
        "and {}; p {} each)"
    )
    assert len({*p(seg[2], others)}) == 1
    shown = [*mean(sal[2], others), *p(sal[2], others), *mean(seg[2], others), p(seg[2], others)[0]]
    assert words.format(*shown) in text
    assert all(rows.loc[single, "p_holm"].item() > 0.05 for rows in (seg[2], sal[2])), "in neither is MaT-FL told apart"
    words = (
        "below single-task FL's on all three ({}, {} and {}; p {}, {} and {}), where the paper has {} on "
        "five tasks and {} on nine"
    )
    paper = [f"{rows.loc[plain, 'paper'].item():+.3f}".replace("0.", ".", 1) for rows in seg[:2]]
    assert words.format(*(f(rows, plain)[0] for f in (mean, p) for rows in seg), *paper) in text

    keys = ["pair", "against", "clients_per_task"]
    clients = records("scenes", "03_clients_per_task_table_measures").set_index(keys).sort_index()
    ahead = clients.loc[("outdoor/semseg", "fedavg")]
    shown = [*ahead["mean"].map(thousandths), *ahead["p_holm"].map(thousandths)]
    words = "above plain many-task FL's on rendered scenes ({} and {}; p {} and {}; Table 03.4); nothing else passes"
    assert words.format(*shown) in text
    assert set(clients.index[clients["p_holm"] < 0.05]) == {("outdoor/semseg", "fedavg", count) for count in (1, 2)}
    assert (records("photos", "03_clients_per_task_table_measures")["p_holm"] > 0.05).all(), "on photographs nothing"


def test_other_readings_in_training():
    paper, results, readme = (
        (ROOT / page).read_text(encoding="utf-8") for page in ("docs/paper.md", "docs/results.md", "README.md")
    )
    found = records("scenes", "02_methods_table_readings").set_index(["reading", "tasks", "method"])
    mixed, kept = found.loc["the trained models are mixed"], found.loc["Adam's moments go on between rounds"]
    kept = kept.loc["outdoor5"]
    five, nine = (mixed.loc[tasks] for tasks in ("outdoor5", "scenes9"))
    lead, change = ["lead", "lead_low", "lead_high"], ["change", "low", "high"]

    def three(rows: pd.DataFrame, method: str, columns: list[str]) -> list[str]:
        first, *bounds = rows.loc[method, columns]
        return [f"{first:+.1f}", *(f"{value:.1f}" for value in bounds)]

    def before(rows: pd.DataFrame, method: str) -> str:
        return f"{rows.loc[method, 'usual_lead']:+.1f}"

    words = (
        "MaT-FL {} ({} to {}) on five tasks, {} ({} to {}) on nine; single-task FL and plain many-task FL are the "
        "same by construction, so MaT-FL against plain many-task FL {}, {} to {}, instead of {}, and {}, {} to {}, "
        "instead of {}"
    )
    shown = [*three(five, "matfl", change), *three(nine, "matfl", change)]
    shown += [x for rows in (five, nine) for x in (*three(rows, "fedavg", lead), before(rows, "fedavg"))]
    assert words.format(*shown) in paper
    for name in ("single_task", "fedavg", "matfl"):
        title = next(words for words, method in METHODS.items() if method == name)
        assert "{} {} ({} to {})".format(title, *three(kept, name, change)) in paper
    words = (
        "(MaT-FL against plain many-task FL {}, {} to {}, instead of {}; against single-task FL {}, {} to {}, "
        "instead of {})"
    )
    shown = [x for name in ("fedavg", "single_task") for x in (*three(kept, name, lead), before(kept, name))]
    assert words.format(*shown) in paper
    assert {n: set(rows["seeds"]) for n, rows in (("mixed", mixed), ("kept", kept))} == {"mixed": {5}, "kept": {3}}
    words = (
        "MaT-FL's lead over the former is {} ({} to {}) and {} ({} to {}) instead of {} and {}, and it stands "
        "{:.1f} ({:.1f} to {:.1f}) and {:.1f} points ({:.1f} to {:.1f}) below the latter"
    )
    leads = [text.lstrip("+") for rows in (five, nine) for text in three(rows, "fedavg", lead)]
    usual = [before(rows, "fedavg").lstrip("+") for rows in (five, nine)]
    below = [x for rows in (five, nine) for x in -rows.loc["single_task", ["lead", "lead_high", "lead_low"]]]
    assert words.format(*leads, *usual, *below) in results
    ends = "MaT-FL ends at {:+.1f} on five tasks and at {:+.1f} on nine (five seeds"
    assert ends.format(*(rows.loc["matfl", "delta_m"] for rows in (five, nine))) in results
    words = (
        "MaT-FL's lead over plain many-task FL is {} ({} to {}) instead of {} on five rendered tasks and {} ({} to {}) "
        "instead of {} on nine"
    )
    assert words.format(*leads[:3], usual[0], *leads[3:], usual[1]) in readme


def test_deviations_name_what_the_presets_have():
    """Cells that hang on a preset's values, of the columns of `scenes`, `photos` and the paper's presets."""
    names = {"here, `scenes`": "scenes", "here, `photos`": "photos", "here, `paper_*` presets": "paper_9"}
    configs = [matfl.preset(name) for name in names.values()]
    scenes, photos, papers = configs
    shown = table("docs/paper.md", "authors' code", "here, `photos`")

    def cells(row: str) -> list[str]:
        """The three columns, with what a cell refers to in its place."""
        first, second, third = shown.loc[row, list(names)]
        of_paper = {"the paper's": "paper", "as in the paper": "paper", "as in the authors' code": "authors' code"}
        found = [first, first if second in ("as `scenes`", "the same") else second]
        return [
            *found,
            first if third in ("as `scenes`", "the same") else shown.loc[row].get(of_paper.get(third), third),
        ]

    def expected(say: Callable[[matfl.RunConfig], str]) -> list[str]:
        return [say(config) for config in configs]

    def power(rate: float) -> str:
        return f"{rate:.0e}".replace("e-0", "e-")

    assert cells("DeepLab head") == expected(
        lambda c: f"{c.head_channels} channels, rates {', '.join(map(str, c.aspp_rates))}"
    )
    assert cells("learning rate, epochs, rounds") == expected(lambda c: f"{power(c.lr)}, {c.local_epochs}, {c.rounds}")
    assert cells("decay of the learning rate a round") == expected(lambda c: f"{c.lr_decay:g}")
    assert cells("images a step") == expected(lambda c: str(c.batch_size))
    assert cells("FedProx's mu") == [f"{matfl.METHODS['fedprox'].mu:g}"] * 3
    assert cells("loss weights") == expected(lambda c: {"field": "the field's", "none": "none"}[c.loss_weights])
    assert cells("validation pictures") == expected(lambda c: f"{c.images_val} a domain" if c.images_val else "all")
    sizes_shown = expected(lambda c: f"{c.size}x{c.size}" if c.size else "512x512, 480x640")
    assert [cell.partition(";")[0] for cell in cells("picture size")] == sizes_shown
    moves = {"averaged within the task (`heads`)": "task", "averaged": "task"}
    assert [moves[cell] for cell in cells("heads in a round")] == expected(lambda c: c.heads)
    assert all(cell.startswith("equal wherever") for cell in cells("heads at the start"))
    assert {config.head_start for config in configs} == {"shared"}
    assert all(cell.startswith("updates") for cell in cells("what is mixed (`mixes`)"))
    assert {config.mixes for config in configs} == {"updates"}
    assert {config.client_moments for config in configs} == {"anew"}
    assert "made anew every round" in shown.loc["optimiser", "authors' code"]
    assert f"L2 term {power(scenes.weight_decay)}," in shown.loc["optimiser", "authors' code"]
    assert len({config.weight_decay for config in configs}) == 1
    assert cells("optimiser")[0].startswith("the same (")
    images = scenes.images_per_client * scenes.clients_per_task
    assert cells("training pictures")[0].startswith(f"{images} a task, dealt to its one, two or four clients")
    assert (photos.images_train, photos.images_per_client, papers.images_train, papers.images_per_client) == (0,) * 4
    rules = {"outdoor": "pascal", "indoor": "fixed_camera", "people": "pascal", "nyuv2": "nyud"}
    assert {name: matfl.DOMAINS[name].augmentation for name in rules} == rules
    assert cells("augmentation")[0].startswith("outdoor as PASCAL-Context; indoor, whose cameras are fixed")
    assert cells("augmentation")[1] == "people as PASCAL-Context, NYUv2 as NYUD"
    assert cells("tasks, clients a task")[:2] == ["5 or 9; 1, 2 or 4", "8; 1 or 2"]
    assert [sizes(name).clients for name in ("scenes", "photos")] == [(1, 2, 4), (1, 2)]

    def k_of(config: matfl.RunConfig, tasks: str, count: int) -> tuple[int, int]:
        found = setting(config, tasks, clients_per_task=count)
        return found.k, found.num_clients

    of_scenes = [k_of(scenes, "scenes9", 2), *(k_of(scenes, "outdoor5", count) for count in (2, 1, 4))]
    of_photos = [k_of(photos, "photos8", count) for count in (2, 1)]
    assert cells("K") == [
        "{} of {} clients with nine tasks; {} of {} with five, of {} and of {} too".format(
            *of_scenes[0], *of_scenes[1], of_scenes[2][1], of_scenes[3][1]
        ),
        "{} of {}; {} of {} with one client a task".format(*of_photos[0], *of_photos[1]),
        "{}; {} of {} with one client a task".format(papers.k, *k_of(papers, "pascal5", 1)),
    ]
    assert len({k for k, _ in of_scenes[1:]}) == 1
    assert (scenes.width, scenes.output_stride, papers.width) == (16, 8, 64)
    assert cells("network")[0] == "ResNet18 at width 16, stride 8"


def test_who_is_last_without_the_task_that_was_not_learnt():
    gains = records("scenes", "02_methods_table_gains").set_index(["tasks", "method"]).loc["outdoor5"]
    names = [name for name in gains if name.startswith("outdoor/") and not name.endswith(" sd")]
    assert gains[names].mean(axis=1).idxmin() == "fedhca2"
    assert gains[names].drop(columns="outdoor/normals").mean(axis=1).idxmin() == "fedhca2"


def test_each_difference_of_the_papers_protocol():
    shown = table("docs/results.md", "as in the paper")
    measured = records("scenes", "02_methods_table_one_by_one").set_index(["as in the paper", "method"])
    assert list(shown.index) == list(dict.fromkeys(measured.index.get_level_values(0)))
    for words, cells in shown.iterrows():
        for method, cell in cells.items():
            assert_shown(cell, list(measured.loc[(words, METHODS[method]), ["delta_m", "low", "high"]]))
    assert (measured.xs("fedavg", level="method")["high"] < 0).all()
    assert (measured.xs("matfl", level="method")["high"] > 0).all()
    level = measured.xs("single_task", level="method")["outdoor/semseg"]
    assert (round(level["none"], 3), round(level["10 local epochs at 1e-4"], 3)) == (0.148, 0.113)
    assert (level.drop(["10 local epochs at 1e-4", "all of these"]) >= 0.145).all()


def test_rivals_on_photographs():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    compared = records("photos", "02_methods_table_compare").set_index("against")
    for against, words in (("local", "local training"), ("pcgrad", "PCGrad"), ("fedhca2", "FedHCA2")):
        row = compared.loc[against]
        assert "{} ({:+.1f}; {:.1f} to {:.1f})".format(words, *row[["mean", "low", "high"]]) in text
        assert f"{row['p_holm']:.3f}" == "0.016"
    after, before = (
        records("photos", f"02_methods_table_{name}").set_index("method")["delta_m"] for name in ("methods", "local")
    )
    assert f"stands {-after['local']:.1f} points above local training" in text
    assert "plain many-task FL ({fedavg:.1f}) and PCGrad ({pcgrad:.1f})".format(**after) in text
    assert f"FedHCA2's {after['fedhca2']:.1f}" in text
    assert "it stands at {fedhca2:.1f} and MaT-FL at {matfl:.1f}".format(**before) in text


def test_what_is_so_at_other_rounds():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")

    def moments(preset, tasks, against):
        found = records(preset, "02_methods_table_over_rounds").set_index(["tasks", "against", "points"]).sort_index()
        return found.loc[(tasks, against)]

    five, nine = (moments("scenes", tasks, "single_task") for tasks in ("outdoor5", "scenes9"))
    below = [name for name in five if name.startswith("round") and five.loc["to", name] < 0]
    assert below == ["round 30", "round 60"]
    assert "below 0 at rounds 30 and 60 alone" in text
    late = [five[f"round {at}"] for at in (40, 50)]
    assert {f"{values['difference']:.1f}" for values in late} == {"-0.2"}
    bounds = "; ".join("{:.1f} to {:.1f}".format(*values[["95 % from", "to"]]) for values in late)
    assert f"-0.2 at rounds 40 and 50 ({bounds})" in text
    shown = ["difference", "95 % from", "to"]
    before = five.loc[shown, "round 60 before aggregation"]
    assert "{:.1f} before the last aggregation ({:.1f} to {:.1f})".format(*before) in text
    rounds = nine.drop(columns="round 60 before aggregation")
    assert (rounds.loc["to"] < 0).all()
    reach = f"{rounds.loc['difference'].max():.1f} to {rounds.loc['difference'].min():.1f} at every round"
    assert f"On nine tasks it is {reach}" in text
    early = moments("photos", "photos8", "single_task").loc[shown, "round 30"]
    assert "on photographs {:.1f} at round 30 ({:.1f} to {:.1f})".format(*early) in text
    for tasks in ("outdoor5", "scenes9"):
        for against in ("fedavg", "fedprox"):
            assert (moments("scenes", tasks, against).loc["95 % from"] > 0).all()


def test_from_imagenets_weights():
    """The paragraphs about `photos_imagenet`, and what README says of it."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    def found(name: str, *index: str) -> pd.DataFrame:
        return records("photos_imagenet", f"02_methods_table_{name}").set_index(list(index)).sort_index()

    ahead = found("compare", "against")[["mean", "low", "high"]]
    words = "by {:.1f} and {:.1f} points, and not told apart from single-task FL: {:+.1f} ({:.1f} to {:.1f})"
    assert words.format(*ahead.loc[["fedavg", "fedprox"], "mean"], *ahead.loc["single_task"]) in text
    rounds = found("over_rounds", "against", "points").loc["single_task"].loc[["difference", "95 % from", "to"]]
    words = "at round 10 {:.1f} ({:.1f} to {:.1f}), before the last aggregation {:.1f} ({:.1f} to {:.1f};"
    before = rounds["round 20 before aggregation"]
    assert words.format(*rounds["round 10"], *before) in text
    assert "(before it: {:.1f}; {:.1f} to {:.1f})".format(*before) in readme

    judged = json.loads((ROOT / "figures" / "photos_imagenet" / "02_methods.json").read_text(encoding="utf-8"))
    evidence = {claim["claim"].removeprefix("photos8: "): claim["evidence"] for claim in judged["claims"]}
    numbers = r"points: (\S+) \(95 % interval (\S+) to (-?[\d.]+), n = 3(?:, Holm p 0(\.\d+))?"
    mean, low, high, p = re.search(numbers, evidence["Plain many-task FL beats single-task FL."]).groups()
    worse = [number.removeprefix("-") for number in (mean, high, low)]
    assert "Plain many-task FL is {} points below single-task FL ({} to {}; p {})".format(*worse, p) in text
    prox = re.search(numbers, evidence["FedProx gains less than a point over plain many-task FL."]).groups()
    assert "is undecided: {} ({} to {})".format(*prox) in text

    by_task = found("by_task", "against", "pair")
    assert (by_task.loc["fedavg", "low"] > 0).all(), "there in each of the eight tasks"
    for against, words in (
        ("fedavg", "{:.1f} to {:.1f} points (p {} at most)"),
        ("fedprox", "{:.1f} to {:.1f} (p {} at most;"),
    ):
        rows = by_task.loc[against]
        assert words.format(rows["without"].min(), rows["without"].max(), thousandths(rows["p_holm"].max())) in text
        assert rows["p_holm"].max() < 0.05, "at `photos_imagenet` it hangs on no single task"

    measures = found("measures", "pair", "method", "against").loc[:, ["mean", "p_holm"]].map(thousandths)
    seg, sal = (measures.loc[f"people/{task}"].loc["matfl"].loc[["fedavg", "fedprox"]] for task in ("semseg", "sal"))
    assert "({}; p {}) and not against FedProx ({}; p {})".format(*sal.to_numpy().ravel()) in text
    assert "segmentation ({} and {}; p {} and {}) does not pass".format(*seg["mean"], *seg["p_holm"]) in text

    level = found("methods", "method")
    alone, constant = level.loc["single_task"], level.loc["constant answer"]
    edges = ["people/edge", "nyuv2/edge"]
    words = "({} for single-task FL, the constant {}; NYUv2's {} and {})"
    assert words.format(*(thousandths(row[pair]) for pair in edges for row in (alone, constant))) in text
    parts = [thousandths(level.loc[method, "people/human_parts"]) for method in ("fedprox", "constant answer")]
    assert "as is FedProx in human parts ({} and {})".format(*parts) in text
    others = found("gains", "method").loc[["matfl", "fedavg"]].filter(regex="^[a-z0-9]+/[a-z_]+$").drop(columns=edges)
    assert others.shape == (2, 6)
    assert "MaT-FL's mean is {:.1f} and plain many-task FL's {:.1f}".format(*others.mean(axis="columns")) in text


def test_who_chooses_whom_from_imagenets_weights():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    def percent(value: float) -> str:
        return f"{100 * value:.0f}"

    here, there = (
        records(name, "05_grouping_frequency_table_rounds").set_index("round").map(percent)
        for name in ("photos_imagenet", "photos")
    )
    first, last, shorter = here["self_weight"][1], here["self_weight"][20], there["self_weight"]
    words = f"{first} % of a client's weights stay with its own update in round 1 and {last} % in round 20"
    assert f"{words}, where `photos` begins at {shorter[1]} and has {shorter[20]} in round 20" in text
    assert f"{last} to {first} % of a client's weights stay with its own update" in readme

    judged = json.loads((ROOT / "figures" / "photos_imagenet" / "05_grouping_frequency.json").read_text("utf-8"))
    partners, apart = (
        [100 * float(number) for number in re.findall(r"-?[01]\.\d\d", claim["evidence"])]
        for claim in judged["claims"][:2]
    )
    words = "in {:.0f} % of the cases over all rounds ({:.0f} to {:.0f}; by chance 47 %)"
    assert f"{words.format(*partners)} and in {here['correctness'][20]} % in the last" in text
    assert f"but gets {here['partner_weight'][20]} % of the weight" in text
    assert (
        "in {:.0f} %, by chance 47, but with {} % of the weight".format(partners[0], here["partner_weight"][20])
        in readme
    )
    words = "how popular the chosen are ({:+.0f}, {:.0f} to {:.0f}; {:+.0f}, {:.0f} to {:.0f})"
    assert f"(1 and 94 %) is not told apart from {words.format(*apart)}" in text

    choices = records("photos_imagenet", "05_grouping_frequency_table_choices").set_index("choosing client")
    chosen = choices.set_axis(choices.columns)  # rows are the same pairs in the same order
    people, rooms = ([pair for pair in chosen if pair.startswith(domain)] for domain in ("people", "nyuv2"))
    among, popular = chosen.loc[people, people].stack(), chosen.loc[rooms, "people/semseg"]
    others = chosen.loc[rooms, rooms].mask(np.eye(len(rooms), dtype=bool)).stack()
    words = "choose each other in {} to {} % of the rounds, whatever the task; NYUv2's choose people's segmentation"
    assert words.format(percent(among.min()), percent(among.max())) in text
    words = "in {} to {} % and another task of NYUv2 in at most {} %"
    assert words.format(percent(popular.min()), percent(popular.max()), percent(others.max())) in text


@pytest.mark.parametrize(("preset", "all_tasks"), [("scenes", "with all nine"), ("photos", "with all eight")])
def test_what_sharing_gives_without_federation(preset, all_tasks):
    shown = table("docs/results.md", "with its domain's tasks", all_tasks)
    measured = records(preset, "00_benchmark_transfer").groupby(["sharing", "pair"])["gain"].mean()
    means = records(preset, "00_benchmark_table_mean_gains").set_index(["over", "trained centrally"]).loc["all tasks"]
    pairs = [
        f"{domain.lower()}/{TYPES[task]}"
        for names in shown.index[1:]
        for domain, tasks in re.findall(r"(indoor|outdoor|people|NYUv2) ([^;]+)", names)
        for task in tasks.split(", ")
    ]
    assert sorted(pairs) == sorted(measured["domain"].index)
    for column, sharing in zip(shown, ("domain", "all"), strict=True):
        arrangement = column if sharing == "domain" else "with all tasks"
        assert_shown(shown[column].iloc[0], list(means.loc[arrangement, ["mean", "low", "high"]]))
        assert_shown("; ".join(shown[column].iloc[1:]), [measured[sharing, pair] for pair in pairs])


def test_what_hangs_on_one_task():
    """Differences without a task, and mean gains by domain, stand in the text as the tables by task have them."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for study, against in (("02_methods", "fedavg"), ("11_our_best", "Plain Many-Task FL, step 2.24")):
        by_task = records("photos", f"{study}_table_by_task").set_index(["against", "pair"])
        row = by_task.loc[(against, "nyuv2/semseg")]
        assert "{:+.1f} ({:.1f} to {:.1f}".format(*row[["without", "without_low", "without_high"]]) in text
    ours = records("scenes", "11_our_best_table_by_task").set_index(["against", "pair"])
    for pair, words in (
        ("outdoor/edge", "edges (+{:.1f} %; {:.1f} to {:.1f})"),
        ("outdoor/semseg", "(+{:.1f}; {:.1f} to {:.1f})"),
    ):
        row = ours.loc[("Plain Many-Task FL, step 2.24", pair)]
        assert words.format(*row[["gain", "low", "high"]]) in text
        assert row["p_holm"] > 0.05
    assert (ours.loc["Soft groups of updates, step 1.41"]["p_holm"] > 0.05).all()
    means = records("scenes", "00_benchmark_table_mean_gains").set_index(["trained centrally", "over"])
    alone = means.loc["with its domain's tasks"][["mean", "low", "high"]]
    assert "indoor tasks gain {:.1f} % ({:.1f} to {:.1f})".format(*alone.loc["those of indoor scenes"]) in text
    assert "nothing ({:.1f}; {:.1f} to {:.1f})".format(*alone.loc["those of outdoor scenes"]) in text
    least = alone.loc["all but Seg. (outdoor)"]
    assert "without outdoor segmentation, which loses most, {:.1f} ({:.1f} to {:.1f}".format(*least) in text
    assert "without indoor depth {:.1f} ({:.1f} to {:.1f}".format(*alone.loc["all but Depth (indoor)"]) in text


def test_what_hangs_on_one_task_of_photographs():
    text, readme = ((ROOT / page).read_text(encoding="utf-8") for page in ("docs/results.md", "README.md"))
    means = records("photos", "00_benchmark_table_mean_gains").set_index(["trained centrally", "over"])
    domain, both = (means.loc[f"with {name}"][["mean", "low", "high"]] for name in ("its domain's tasks", "all tasks"))
    judged = json.loads((ROOT / "figures" / "photos" / "00_benchmark.json").read_text(encoding="utf-8"))["claims"]
    p_domain, p_both = (float(re.search(r"Holm p ([\d.]+)\)", claim["evidence"]).group(1)) for claim in judged)
    assert [claim["verdict"] for claim in judged] == ["held", "undecided"]
    assert f"from its domain's others (p {p_domain:.3f} over".replace("0.", ".") in text
    assert f"From all others it is not decided (p {p_both:.2f})".replace("0.", ".") in text
    for row, words in (
        (domain.loc["those of people"], "(people's tasks {:.1f} %, {:.1f} to {:.1f};"),
        (domain.loc["those of NYUv2"], "NYUv2's {:.1f}, {:.1f} to {:.1f})"),
        (domain.loc["all but Seg. (NYUv2)"], "which gains most, {:.1f} ({:.1f} to {:.1f};"),
        (both.loc["those of people"], "people's tasks stand at {:.1f} ({:.1f} to {:.1f})"),
        (both.loc["those of NYUv2"], "NYUv2's at {:+.1f} ({:.1f} to {:.1f})"),
    ):
        assert words.format(*row) in text
    shown = "gains {:.1f} % on average over one each ({:.1f} to {:.1f}; ".format(*domain.loc["all tasks"])
    shown += f"p {p_domain:.3f}; without NYUv2 segmentation, left out after it was seen, ".replace("0.", ".")
    shown += "{:.1f}, {:.1f} to {:.1f})".format(*domain.loc["all but Seg. (NYUv2)"])
    assert f"{shown}, one for both domains {{:+.1f}} ({{:.1f}} to {{:.1f}})".format(*both.loc["all tasks"]) in readme


def test_how_updates_cluster():
    shown = table("docs/results.md", "1e-4", "1e-3")
    measured = records("scenes", "01_update_tsne_table_variants").set_index("statistic")
    rows = {
        "silhouette by task": ["silhouette by task"],
        "nearest update is of the same task": ["nearest update of the same task"],
        "mean cosine": [f"cosine, {kind}" for kind in COSINES],
        "cosine with the starting weights": ["cosine with the starting weights"],
    }
    assert [name.partition(":")[0] for name in shown.index] == list(rows)
    for column, rate in zip(shown, ("0.0001", "0.001"), strict=True):
        values = measured[f"heads equal where shapes are, learning rate {rate}"]
        for cell, names in zip(shown[column], rows.values(), strict=True):
            unit = 100 if "%" in cell else 1
            assert_shown(re.sub(r"\(.*?\)", "", cell), [unit * values[name] for name in names])


def test_what_attacks_leave():
    shown = table("docs/results.md", "attack", "Krum")
    deltas = records("scenes", "10_scale_privacy_attacks_deltas").groupby(["attack", "defence"])["all"].mean()
    attacks = ("none", "flip", "copy", "votes")
    defences = ("single_task", "fedavg", "matfl", "matfl, clipped", "median", "krum")
    for (_, cells), attack in zip(shown.iterrows(), attacks, strict=True):
        for cell, defence in zip(cells, defences, strict=True):
            assert_shown(cell, [deltas[attack, defence]])


def test_what_attacks_leave_before_the_last_aggregation():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = records("scenes", "10_scale_privacy_attacks_table_attacked_before").set_index(["attack", "defence"])
    copies = found.loc["copy", "all"]
    names = ("Single-Task FL", "Plain Many-Task FL", "MaT-FL", "MaT-FL, clipped")
    words = "single-task FL at {:.1f}, plain averaging at {:.1f}, MaT-FL at {:.1f} and clipped MaT-FL at {:.1f}"
    assert words.format(*(copies[name] for name in names)) in text
    others = found.loc["copy", ["others", "others sd"]]
    assert "at +{:.1f} (sd {:.1f}) under plain averaging".format(*others.loc["Plain Many-Task FL"]) in text
    assert "at {:.1f} (sd {:.1f}) under MaT-FL".format(*others.loc["MaT-FL"]) in text
    assert f"stands at {found.loc[('any', 'constant answer'), 'all']:.1f} then" in text


def test_clients_a_task_on_photographs():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    judged = json.loads((ROOT / "figures" / "photos" / "03_clients_per_task.json").read_text(encoding="utf-8"))
    found = {claim["claim"]: claim["evidence"] for claim in judged["claims"]}
    number = r"a task: (-?[\d.]+) .*?Holm p 0(\.\d+)"
    for title, words in (
        ("plain many-task FL", "above plain many-task FL by {} and {} (p {} and {})"),
        ("FedProx", "above FedProx by {} and {} (p {} and {})"),
    ):
        (claim,) = (claim for claim in found if f"MaT-FL beats {title}" in claim)
        means, ps = zip(*re.findall(number, found[claim]))
        assert words.format(*means, *ps) in text
    (claim,) = (claim for claim in found if "MaT-FL beats single-task FL" in claim)
    (one, _), (two, p) = re.findall(number, found[claim])
    low, high = re.search(r"1 a task: .*?interval (\S+) to ([\d.]+)", found[claim]).groups()
    assert f"({one}, {low} to {high}, with one client; {two}, p {p}, with two)" in text
    segmentation = next(evidence for claim, evidence in found.items() if "segmentation gets worse" in claim)
    ours = re.findall(r"0(\.\d{3}) with", segmentation)
    alone = re.findall(r"0(\.\d{3})", segmentation.partition("single-task FL")[2])
    assert "(mIoU {} and {}; single-task FL's {} and {})".format(*ours, *alone) in text


def test_models_under_attack_that_learnt_one_task_and_not_another():
    above = records("scenes", "10_scale_privacy_attacks_table_above_floor").set_index(["attack", "defence"])
    tasks = above[[name for name in above if "/" in name and not name.endswith(" sd")]].drop(columns="indoor/depth")
    mixed = (tasks.gt(0).any(axis=1) & tasks.lt(0).any(axis=1)).xs("MaT-FL", level="defence")
    assert mixed[["flip", "votes"]].all()
    assert above.loc["none", "indoor/depth"].le(0).all(), "not above it without attackers either"


def test_what_is_so_of_one_task_or_round_of_the_sweeps():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    depth = records("scenes", "04_k_sweep_table_by_task").set_index("pair").loc["indoor/depth"]
    assert "indoor depth is {:.1f} % worse at K = 2 ({:.1f} to {:.1f};".format(*-depth[["gain", "high", "low"]]) in text
    own = records("scenes", "04_k_sweep_table_own_step").set_index("method")["delta_m"]
    swept = [f"{own[f'MaT-FL, K = {k}']:+.1f}" for k in (2, 4, 8, 12, 18)]
    others = [f"{own[name]:+.1f}" for name in ("Single-Task FL", "Plain Many-Task FL")]
    words = (
        "MaT-FL stands at {}, {}, {}, {} and {} where single-task FL is at {} and plain many-task FL and FedProx at {}"
    )
    assert words.format(*swept, *others) in text
    assert abs(own["FedProx"] - own["Plain Many-Task FL"]) < 0.05
    two = records("scenes", "06_layer_voting_table_over_rounds").set_index(["voting_layers", "points"]).loc[2]
    order = ["difference", "to", "95 % from"]
    for words, at in (("by {:.1f} points at round 10 ({:.1f} to {:.1f})", 10), ("{:.1f} at 20 ({:.1f} to {:.1f};", 20)):
        assert words.format(*abs(two.loc[order, f"round {at}"])) in text
    many = records("scenes", "03_clients_per_task_table_over_rounds")
    one = many[(many["clients_per_task"] == 1) & (many["against"] == "fedprox")]
    late = one.set_index("points")["round 50"]
    assert "with one client {:.1f} to {:.1f} at 50".format(late["95 % from"], late["to"]) in text
    courses = records("scenes", "09_why_table_courses").set_index(["method", "server_lr"])
    first, own = courses.loc[("matfl", 1.0)], courses.loc[("matfl", 1.4142)]
    assert f"in {first['chosen_last']:.0%}".replace("%", " %") in text
    assert f"in {own['chosen_last']:.0%}".replace("%", " %") in text
    assert f"ends at {own['partners_last']:.2f} instead of {first['partners_last']:.2f}" in text
    assert f"({courses.loc[('local', 1.0), 'partners_first']:.2f} instead of {first['partners_first']:.2f};" in text


def test_number_of_friends_on_photographs():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    mean = records("photos", "04_k_sweep_table_k").set_index("method")["delta_m"]
    ks = (2, 4, 8, 12, 16)
    *first, last = (f"{-mean[f'MaT-FL, K = {k}']:.1f}" for k in ks)
    assert f"is {', '.join(first)} and {last} points below single-task FL's at K = 2, 4, 8, 12 and 16" in text
    leads = [mean[f"MaT-FL, K = {k}"] - mean[other] for k in ks[1:] for other in ("Plain Many-Task FL", "FedProx")]
    judged = json.loads((ROOT / "figures" / "photos" / "04_k_sweep.json").read_text(encoding="utf-8"))
    better, small = (
        next(claim["evidence"] for claim in judged["claims"] if words in claim["claim"])
        for words in ("every baseline (delta_m)", "extremely small K")
    )
    words = "by {:.1f} to {:.1f} points at every K from 4 (Table 04.1); one of these eight differences passes Holm"
    assert words.format(min(leads), max(leads)) in text
    assert "Of 8 comparisons with the others 1 are above 0" in better
    passing = [
        (k, p)
        for k, p in re.findall(r"K = (\d+), over Single-Task FL: .*?Holm p 0(\.\d+)\)", better)
        if float(p) < 0.05
    ]
    (one, p_one), (other, p_other) = passing
    assert f"at K = {one} and {other} (p {p_one} and {p_other}); K = 2 is above" in text
    gain = mean["MaT-FL, K = 2"] - np.mean([mean[f"MaT-FL, K = {k}"] for k in ks[1:]])
    interval = re.search(r"95 % interval (\S+) to (\S+), n = 3\)", small).groups()
    shown = "{:.1f} ({:.1f} to {:.1f})".format(gain, *map(float, interval))
    assert f"K = 2 is above the mean of the larger ones by {shown}, against the paper" in text
    assert f"on photographs at step 1 by {shown}" in readme


def test_voting_layers_on_photographs():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    judged = json.loads((ROOT / "figures" / "photos" / "06_layer_voting.json").read_text(encoding="utf-8"))
    alike, _ = (claim["evidence"] for claim in judged["claims"])
    middle, low, high = re.search(r"\(median\): (\S+) \(95 % interval (\S+) to (\S+), n = 3\)", alike).groups()
    early, late = re.search(r"The median is (\S+) in the first 5 rounds and (\S+) after them", alike).groups()
    words = f"half of the pairs of layers are above {middle} ({low} to {high}), {early} in the first five rounds"
    assert f"{words} and {late} after them" in text
    ends = records("photos", "06_layer_voting_table_layers").set_index("voting_layers")["delta_m"]
    apart = records("photos", "06_layer_voting_table_over_rounds").set_index(["voting_layers", "points"])["round 60"]
    two, many = (apart.loc[n, ["difference", "95 % from", "to"]] for n in (2, 16))
    assert two.abs().max() < 1 < many.abs().max()
    words = "With the last 2, 8 and 16 of them MaT-FL ends at {:.1f}, {:.1f} and {:.1f}: two instead of eight change it"
    assert words.format(*ends.loc[[2, 8, 16]]) in text
    shown = "by less than a point ({:.1f}; {:.1f} to {:.1f}), of sixteen that is not decided ({:.1f}; {:.1f} to {:.1f})"
    assert shown.format(*two, *many) in text


def test_core_hours_of_the_presets():
    index = (ROOT / "notebooks" / "index.ipynb").read_text(encoding="utf-8")
    hours = [
        float(each) for row in re.findall(r"all, each once.*", index) for each in re.findall(r"([\d.]+) h \(", row)
    ]
    presets = table("docs/howto/commands.md", "preset", "size")["size"]
    for name, measured in zip(("scenes", "photos", "photos_imagenet"), hours[1:], strict=True):
        assert f"({measured:.0f} core-hours)" in presets[f"`{name}`"]


def test_another_number_is_found_out():
    with pytest.raises(AssertionError):
        assert_shown("+3.5 (3.2 to 3.6; p < .001)", [3.405, 3.22, 3.59, 1e-5])
    with pytest.raises(AssertionError):
        assert_shown("+3.4 (3.2 to 3.6; p < .001)", [3.405, 3.22, 3.59, 2e-3])
