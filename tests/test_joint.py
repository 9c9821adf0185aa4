"""Clients with several tasks: names, images, losses and gradients, heads, scores; whole runs, stopped and federated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load
from test_every_method import CHANGES
from tiny import contents, tiny
from torch import nn

from matfl.cli import report
from matfl.client import objective, training
from matfl.core.conflicts import conflict_averse
from matfl.core.streams import stream
from matfl.data import partition
from matfl.data.augment import draw, warp
from matfl.data.start_bias import start_biases
from matfl.models.network import Heads, Model, build, start_head, start_heads
from matfl.paper import face
from matfl.paper.names import pair_title
from matfl.paper.plots.style import pair_color, short_title, task_legend
from matfl.runs import engine
from matfl.runs.run import Run
from matfl.server.methods import METHODS
from matfl.server.server import Server
from matfl.tasks.joint import Joint, Packed
from matfl.tasks.task import Pair, pair, pairs, parts_of, task_of

TASKS = "outdoor/semseg+normals,indoor/depth+edge,indoor/depth"
CONFIG = tiny(tasks=TASKS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def splits(cache):
    return engine.load_splits(CONFIG, cache_dir=cache)


@pytest.fixture(scope="module")
def clients(splits):
    return partition(CONFIG, {name: both["train"] for name, both in splits.items()})


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_plus_joins_tasks_of_one_domain():
    chosen = pair("outdoor/semseg+outdoor/sal")
    assert chosen == pair("outdoor/semseg + sal") == pair(chosen.name)
    assert (chosen.name, chosen.channels, str(chosen)) == ("outdoor/semseg+sal", 14, "outdoor/semseg+sal")
    assert [part.name for part in chosen.parts] == ["outdoor/semseg", "outdoor/sal"]
    assert pair("outdoor/sal").parts == (pair("outdoor/sal"),)
    assert task_of("outdoor/semseg+sal").title == "Seg. + Sal."


@pytest.mark.parametrize(
    "tasks, message",
    [
        ("outdoor/semseg+indoor/depth", "two domains, 'outdoor' and 'indoor'.*list other clients after a ','"),
        ("outdoor/semseg+semseg", "names 'outdoor/semseg' twice: a client has one head for each"),
        ("outdoor/semseg+sal,outdoor/sal+semseg", "names a pair twice"),
        ("outdoor/semseg+height", "unknown .* pair 'outdoor/height'"),
        ("outdoor/semseg+", "unknown .* pair 'outdoor/'"),
        ("outdoor+indoor", "choose a set"),
        ("outdoor/semseg@semseg+sal", "a part of clients with several tasks"),
    ],
)
def test_what_cannot_be_joined(tasks, message):
    with pytest.raises(ValueError, match=message):
        pairs(tasks)


def test_a_task_that_several_kinds_of_client_have_is_named_after_its_kind():
    joint, alone = pairs("outdoor/semseg+sal,outdoor/semseg")
    assert [part.name for part in joint.parts] == ["outdoor/semseg@semseg+sal", "outdoor/sal"]
    assert alone.name == "outdoor/semseg"
    assert pair("outdoor/semseg@semseg+sal") == joint.parts[0]
    assert task_of("semseg@semseg+sal") == alone.task
    assert [part.plain for part in joint.parts] == ["outdoor/semseg", "outdoor/sal"]
    names = [part.name for part in parts_of("outdoor/semseg+sal,outdoor/semseg+edge")]
    assert names == ["outdoor/semseg@semseg+sal", "outdoor/sal", "outdoor/semseg@semseg+edge", "outdoor/edge"]


def test_figures_know_what_to_call_them():
    part, kind = "outdoor/semseg@semseg+sal", "outdoor/semseg+sal"
    assert pair_title(kind) == "Seg. + Sal. (outdoor)"
    assert (pair_title(part), short_title(part)) == ("Seg. of Seg. + Sal. (outdoor)", "Seg. of Seg. + Sal. O")
    assert pair_color(part) == pair_color("outdoor/semseg") == pair_color(kind)
    assert [handle.get_label() for handle in task_legend([kind, "outdoor/sal"])][:2] == ["Seg. + Sal.", "Sal."]


def test_a_balance_needs_something_to_balance():
    with pytest.raises(ValueError, match=r"balance='pcgrad'.*every client has one.*join tasks of a domain"):
        tiny(balance="pcgrad")
    assert tiny(tasks=TASKS, balance="pcgrad").hash != CONFIG.hash


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_client_has_images_with_all_its_labels(splits):
    config = tiny(tasks="outdoor/human_parts+edge,outdoor/sal", images_per_client=0, images_train=16)
    train = splits["outdoor"]["train"]
    dealt = partition(config, {"outdoor": train})
    assert [client.pair.name for client in dealt] == ["outdoor/human_parts+edge"] * 2 + ["outdoor/sal"] * 2
    images = [i for client in dealt for i in client.images]
    assert len(set(images)) == len(images)
    for client in dealt[:2]:
        assert train.counting("human_parts", client.images).all()
    alone = partition(replace(config, tasks="outdoor/human_parts,outdoor/sal"), {"outdoor": train})
    assert [client.images for client in dealt] == [client.images for client in alone]
    assert (
        pair("outdoor/human_parts+edge").task.counting == "shows a person" == pair("outdoor/human_parts").task.counting
    )


def test_all_labels_follow_one_warp(splits, clients):
    client = clients[0]
    images, packed = splits["outdoor"]["train"].tensors_of(client.pair, client.images)
    numbers = draw("pascal", len(images), generator=torch.Generator().manual_seed(3))
    pictures, warped = warp(images, packed, client.pair, numbers)
    assert isinstance(warped, Packed)
    for part, targets, found in zip(client.pair.parts, packed.parts, warped.parts, strict=True):
        same, expected = warp(images, targets, part, numbers)
        assert torch.equal(pictures, same)
        assert torch.equal(found, expected)


def test_heads_start_as_those_of_single_tasks(splits, clients):
    biases = start_biases(clients, splits)
    assert set(biases) == {"indoor/depth"}
    depths = np.concatenate(
        [splits["indoor"]["train"].labels["depth"][list(client.images)].astype(float).ravel() for client in clients[2:]]
    )
    assert biases["indoor/depth"] == pytest.approx((depths[depths != 0].mean(),))
    kind = clients[2].pair
    for policy in ("shared", "per_type", "per_task", "independent"):
        config = replace(CONFIG, head_start=policy)
        found = start_heads(config, kind, 2, biases=biases)
        for part in kind.parts:
            expected = start_head(config, pair(part.plain), 2, bias=biases.get(part.plain))
            own = {name: t for name, t in found.items() if name.startswith(f"{part.task.name}.")}
            assert own.keys() == {f"{part.task.name}.{name}" for name in expected}
            assert all(torch.equal(found[f"{part.task.name}.{name}"], tensor) for name, tensor in expected.items())
    assert build(CONFIG, kind).head.state_dict().keys() == found.keys()


# --- losses and gradients ---------------------------------------------------------------------------------------------


def joint_of(*chosen):
    """A pair that joins some pairs, whatever `join` says of them."""
    task = Joint(
        name="+".join(p.task.name for p in chosen), title="", parts=chosen, loss_weight=chosen[0].task.loss_weight
    )
    return Pair(chosen[0].domain, task)


def trained(config, p, model, images, targets, **options):
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = training.train(model, images, targets, p, config, round=1, client=0, **options)
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(start)
    return result, after


@pytest.mark.parametrize("weights", ["none", "field"])
def test_one_task_alone_trains_as_a_plain_client(splits, weights):
    config, p = replace(CONFIG, loss_weights=weights), pair("outdoor/normals")
    images, targets = splits["outdoor"]["train"].tensors("normals", range(4))
    plain = build(config, p)
    wrapped = Model(plain.backbone, Heads({"normals": plain.head}))
    expected, after = trained(config, p, plain, images, targets)
    found, its = trained(config, joint_of(p), wrapped, images, Packed((targets,)))
    assert found.loss == expected.loss
    assert {name.replace("normals.", ""): t.tolist() for name, t in its.items()} == {
        n: t.tolist() for n, t in after.items()
    }


def outputs_and_targets(p, n=2, side=8):
    generator = torch.Generator().manual_seed(5)
    output = torch.randn(n, p.channels, side, side, generator=generator)
    targets = {
        "semseg": torch.randint(0, 13, (n, side, side), generator=generator).to(torch.uint8),
        "sal": torch.randint(0, 2, (n, side, side), generator=generator).to(torch.uint8),
        "edge": torch.randint(0, 2, (n, side, side), generator=generator).to(torch.uint8),
    }
    return output, Packed(tuple(targets[part.task.name] for part in p.parts))


@pytest.mark.parametrize("weights, expected", [("none", (1, 1)), ("field", (1, 50))])
def test_losses_are_added_with_the_configs_weights(weights, expected):
    config, p = replace(CONFIG, loss_weights=weights), pair("outdoor/semseg+edge")
    output, target = outputs_and_targets(p)
    parts = objective.losses(output, target, p, config)
    semseg, edge = (
        part.task.loss(own, its) for part, own, its in zip(p.parts, (output[:, :13], output[:, 13:]), target.parts)
    )
    scaled = objective.loss_weight(config, p) * objective.total(parts)
    torch.testing.assert_close(scaled, expected[0] * semseg + expected[1] * edge)
    torch.testing.assert_close(p.task.loss(output, target), semseg + edge)


class Toy(nn.Module):
    """A linear backbone of 6 numbers under three linear heads."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.backbone = nn.Linear(3, 2, bias=False, dtype=dtype)
        self.heads = nn.ModuleList(nn.Linear(2, 1, dtype=dtype) for _ in range(3))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def losses(self):
        features = self.backbone(torch.tensor([[1.0, -2, 0.5], [0.3, 1, 2]], dtype=torch.float64))
        return [(head(features) - target).square().mean() for head, target in zip(self.heads, (1.0, -3.0, 2.0))]


def followed(balance):
    toy = Toy()
    objective.follow(toy.losses(), dict(toy.named_parameters()), balance)
    return {name: parameter.grad.clone() for name, parameter in toy.named_parameters()}


def rows_of_toy():
    toy = Toy()
    return torch.stack(
        [torch.autograd.grad(loss, toy.backbone.weight, retain_graph=True)[0].flatten() for loss in toy.losses()]
    )


def test_added_losses_give_the_gradient_of_the_sum():
    toy = Toy()
    sum(toy.losses()).backward()
    for name, gradient in followed(None).items():
        torch.testing.assert_close(gradient, toy.get_parameter(name).grad)
    for name, gradient in followed(lambda gram: torch.ones(3)).items():
        torch.testing.assert_close(gradient, toy.get_parameter(name).grad, msg=name)


def test_pcgrad_takes_conflicts_out_of_the_shared_gradient_alone():
    rows = rows_of_toy()
    assert (rows @ rows.T < 0).any()
    config = tiny(tasks="outdoor/semseg+sal+edge", balance="pcgrad")
    found = followed(objective.balance_of(config, pairs(config.tasks)[0], stream(7)))
    generator, expected = stream(7), torch.zeros(6, dtype=torch.float64)
    for i, order in enumerate([torch.randperm(3, generator=generator).tolist() for _ in range(3)]):
        own = rows[i].clone()
        for j in order:
            if j != i and own @ rows[j] < 0:
                own -= own @ rows[j] / (rows[j] @ rows[j]) * rows[j]
        expected += own
    torch.testing.assert_close(found["backbone.weight"].flatten(), expected)
    plain = followed(None)
    assert all(torch.equal(found[name], plain[name]) for name in plain if name.startswith("heads."))


def test_cagrad_is_as_many_times_the_direction_near_the_mean():
    config = tiny(tasks="outdoor/semseg+sal+edge", balance="cagrad")
    found = followed(objective.balance_of(config, pairs(config.tasks)[0], stream(7)))
    rows = rows_of_toy()
    torch.testing.assert_close(found["backbone.weight"].flatten(), 3 * conflict_averse(rows @ rows.T, 0.4) @ rows)


@pytest.mark.parametrize("balance, factor", [("pcgrad", 1), ("cagrad", 1.4)])
def test_equal_tasks_are_never_in_conflict(balance, factor):
    """CAGrad goes to the edge of its ball, which is 0.4 of the mean further."""
    config = tiny(tasks="outdoor/semseg+sal+edge", balance=balance)
    chosen = objective.balance_of(config, pairs(config.tasks)[0], stream(7))
    gradients = []
    for rule in (None, chosen):
        toy = Toy()
        objective.follow([toy.losses()[0] for _ in range(3)], dict(toy.named_parameters()), rule)
        gradients.append(toy.backbone.weight.grad)
    torch.testing.assert_close(gradients[1], factor * gradients[0])


def test_gradients_that_are_not_finite_are_found_out(splits, clients):
    client = clients[0]
    images, targets = splits["outdoor"]["train"].tensors_of(client.pair, client.images)
    config = tiny(tasks=TASKS, balance="cagrad")
    model = build(config, client.pair)
    with torch.no_grad():
        model.backbone.conv1.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"outdoor/semseg\+normals\): the loss is not finite"):
        training.train(model, images, targets, client.pair, config, round=1, client=0)


# --- whole runs -------------------------------------------------------------------------------------------------------

SOME = ("fedhca2",)
QUICK = [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in METHODS]


def run_of(method, **changes):
    return tiny(method=method, tasks=TASKS, balance="pcgrad", k=3, **CHANGES, **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    base, made = tmp_path_factory.mktemp("alone"), {}

    def alone(name):
        if name not in made:
            made[name] = base / name
            engine.run(run_of(name), made[name], device="cpu", cache_dir=cache)
        return made[name]

    return alone


@pytest.mark.parametrize("name", QUICK)
def test_a_run_that_stops_goes_on_bit_for_bit(name, alone, tmp_path, cache):
    config, folder = run_of(name), tmp_path / "run"
    while not (folder / "state.json").exists() or engine.store.stored_round(folder, config) < 3:
        engine.run(config, folder, device="cpu", cache_dir=cache, stop=lambda: True)
    assert contents(folder) == contents(alone(name))


@pytest.mark.parametrize("name", QUICK)
def test_a_federation_on_flower_is_the_local_run(name, alone, tmp_path, cache, monkeypatch):
    pytest.importorskip("flwr")
    from inprocess import InProcessGrid
    from test_flower import app_config, nodes_of

    from matfl.flower import Settings, client_app, federation

    monkeypatch.setattr("matfl.flower.nodes.RETRY", 0.0)
    config = run_of(name)
    app = app_config(config, **{"runs-dir": str(tmp_path), "run-name": "run"})
    federation(InProcessGrid(client_app, app, nodes_of(config, cache), order=1), Settings.of(app))
    mine, expected = contents(tmp_path / "run"), contents(alone(name))
    stored, wanted = (load(files.pop("checkpoint.safetensors")) for files in (mine, expected))
    assert mine == expected
    wanted = {key: tensor for key, tensor in wanted.items() if "/memory." not in key}
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[key], wanted[key]) for key in stored)


def test_scores_are_the_parts(alone, splits):
    run = Run(alone("matfl"))
    frame = run.metrics
    last = frame[(frame["kind"] == "global") & (frame["round"] == 3)]
    assert set(last["task"]) == {"semseg", "normals", "depth@depth+edge", "edge", "depth"}
    assert set(last["client"]) == {-1}
    assert list(run.models) == [part.name for part in parts_of(TASKS)]
    for part in parts_of(TASKS):
        split = splits[part.domain.name]["val"]
        measured = training.evaluate(run.models[part.name], split, part, run.config, device="cpu")
        mine = last[(last["domain"] == part.domain.name) & (last["task"] == part.label)]
        assert dict(zip(mine["metric"], mine["value"])) == pytest.approx(measured, rel=1e-6)


def test_a_joint_model_shares_its_backbone(alone):
    models = Run(alone("matfl")).models
    semseg, normals = models["outdoor/semseg"], models["outdoor/normals"]
    for name, tensor in semseg.backbone.state_dict().items():
        assert torch.equal(tensor, normals.backbone.state_dict()[name])
    assert semseg.head.last.out_channels == 13
    assert normals.head.last.out_channels == 3


def test_tables_reports_and_predictions_name_the_parts(alone, cache, tmp_path):
    from matfl.runs.predict import write_predictions

    baseline = tmp_path / "single"
    engine.run(run_of("single_task"), baseline, device="cpu", cache_dir=cache)
    runs = [Run(baseline), Run(alone("matfl"))]
    table = face.compare(runs)
    assert [c for c in table.columns if "/" in c] == [part.name for part in parts_of(TASKS)]
    values = {method: table.loc[(TASKS, method)] for method in ("single_task", "matfl")}
    gains = []
    for part in parts_of(TASKS):
        ours, base = (values[method][part.name] for method in ("matfl", "single_task"))
        gains.append((1 if part.task.higher_is_better else -1) * (ours - base) / base if base else np.nan)
    assert values["matfl"]["delta_m"] == pytest.approx(100 * np.mean(gains), nan_ok=True)
    assert list(face.choices(runs[1]).index) == [p.name for p in pairs(TASKS)]
    shown = report.show(runs[1])
    assert "indoor/depth@depth+edge" in shown
    from PIL import Image

    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(tmp_path / "black.png")
    written = list(write_predictions(runs[1], [tmp_path / "black.png"], tmp_path / "out", device="cpu"))
    assert [path.name for path in written] == [
        "black-outdoor-semseg.png",
        "black-outdoor-normals.png",
        "black-indoor-depth@depth+edge.png",
        "black-indoor-edge.png",
        "black-indoor-depth.png",
    ]


def test_grouping_treats_a_client_as_one_voter(alone):
    run = Run(alone("matfl"))
    assert run.diagnostics["client_pairs"].tolist() == [p.name for p in pairs(TASKS) for _ in range(2)]
    assert run.diagnostics["friends"].shape[1:] == (6, 6)


def test_bytes_are_those_of_a_backbone_and_all_heads():
    config = run_of("matfl")
    server = Server(config, [p for p in pairs(TASKS) for _ in range(2)])
    state = server.start(engine.start_backbone(config))

    def floats(p):
        return 4 * sum(t.numel() for t in build(config, p).state_dict().values() if t.is_floating_point())

    for client, p in enumerate(server.client_pairs):
        assert server.bytes_per_client(state, client) == floats(p)
