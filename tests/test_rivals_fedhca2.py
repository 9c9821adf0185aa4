"""FedHCA2 over several rounds, against a transcription with whole vectors and lists of layers."""

import numpy as np
import pytest
import torch
from rounds import HEAD, begun, make_round
from test_rivals import close

from matfl.core.conflicts import conflict_averse
from matfl.server.methods import fedhca2
from matfl.server.mixing import mix

LAYERS = (("conv.weight", "conv.bias"),)


class Transcription:
    """The paper's server: models of tasks, learned weights of clients."""

    def __init__(self, tasks, share=0.1, lr=0.01, momentum=0.9):
        self.tasks, self.lr, self.momentum = tasks, lr, momentum
        n = len(tasks)
        self.a, self.va = [share] * n, [0.0] * n
        self.b, self.vb = [share] * n, [0.0] * n
        self.direction, self.gathered = None, [None] * n
        self.moved = [False] * n

    def step(self, clients, g, h):
        """(the movement of each client's backbone, and of its head's layer) from updates by client."""
        for i in clients:
            if self.moved[i]:
                self.va[i] = self.momentum * self.va[i] - g[i] @ self.direction
                self.a[i] = min(max(self.a[i] - self.lr * self.va[i], 0.0), 1.0)
                if self.gathered[i] is not None:
                    self.vb[i] = self.momentum * self.vb[i] - h[i] @ self.gathered[i]
                    self.b[i] = min(max(self.b[i] - self.lr * self.vb[i], 0.0), 1.0)
        whole = torch.from_numpy(np.stack([g[i] for i in clients]))
        self.direction = (conflict_averse(whole @ whole.T, 0.4, rescale=True) @ whole).numpy()
        backbones, heads = {}, {}
        for i in clients:
            partners = [g[j] for j in clients if self.tasks[j] == self.tasks[i]]
            backbones[i] = sum(partners) / len(partners) + self.a[i] * self.direction
            scores = np.array([np.exp(h[i] @ h[j] / np.sqrt(len(h[i]))) for j in clients])
            self.gathered[i] = sum(score * h[j] for score, j in zip(scores / scores.sum(), clients))
            heads[i] = h[i] + self.b[i] * self.gathered[i]
        moving = {self.tasks[i] for i in clients}
        self.moved = [task in moving for task in self.tasks]
        return backbones, heads


def flat(head):
    return torch.cat([head[name].flatten() for name in LAYERS[0]]).numpy()


def test_fedhca2_follows_its_transcription_over_rounds_with_absent_clients(monkeypatch):
    monkeypatch.setattr(fedhca2, "_layers", lambda config: LAYERS)
    tasks = "aabbc"
    method = fedhca2.FedHCA2(lr=0.001)
    expected = Transcription(tasks, lr=0.001)
    models = state = None
    for number, clients in enumerate([(0, 1, 2, 3, 4), (0, 2, 3), (0, 1, 2, 4), (0, 1, 2, 3, 4)], 1):
        drawn = make_round(tasks, clients=clients, seed=number, heads=True, number=number)
        models = models or drawn.models
        state = state or begun(method, drawn)
        round = drawn.__class__(**{**drawn.__dict__, "models": models, "state": state})
        mixing = method.mix(round)
        after = models.copy()
        after.heads.update({owner: {n: t.clone() for n, t in head.items()} for owner, head in models.heads.items()})
        mix(after, round.updates, mixing, round.tasks)
        g = dict(zip(clients, round.updates.updates_NP.numpy()))
        h = {i: flat(head) - flat(models.heads[tasks[i]]) for i, head in zip(clients, round.updates.heads)}
        backbones, heads = expected.step(clients, g, h)
        for task in "abc":
            mine = [i for i in clients if tasks[i] == task]
            row = models.row(task)
            moved = (after.theta_CP - models.theta_CP)[row].numpy()
            close(moved, np.mean([backbones[i] for i in mine], 0) if mine else 0 * moved, 1e-9)
            if mine:
                close(flat(after.heads[task]) - flat(models.heads[task]), np.mean([heads[i] for i in mine], 0), 1e-9)
                last = [head["last.weight"] for i, head in zip(clients, round.updates.heads) if i in mine]
                close(after.heads[task]["last.weight"], torch.stack(last).mean(0))
        close(mixing.state["a"], expected.a, 1e-9)
        close(mixing.state["b"][:, 0], expected.b, 1e-9)
        models, state = after, dict(mixing.state)
    assert len({round_(value) for value in expected.a}) > 1  # they did learn
    assert HEAD.keys() > set(LAYERS[0])


def round_(value):
    return round(value, 6)


def test_fedhca2_learns_to_take_the_direction_that_helps():
    """An update along the last round's direction raises a; one against it lowers it; both stay within 0..1."""
    round = make_round("ab", method="fedhca2")
    method = fedhca2.FedHCA2(lr=1.0, momentum=0.0)
    direction = torch.ones(round.models.layout.P, dtype=torch.float64)
    state = begun(method, round) | {"direction": direction, "moved": torch.ones(2)}
    round = make_round("ab", state=state)
    round.updates.updates_NP.copy_(torch.stack([direction, -direction]))
    assert method.mix(round).state["a"].tolist() == [1.0, 0.0]
    small = fedhca2.FedHCA2(lr=0.001, momentum=0.0)
    expected = [0.1 + 0.001 * round.models.layout.P, max(0.1 - 0.001 * round.models.layout.P, 0)]
    assert small.mix(round).state["a"].tolist() == pytest.approx(expected)


def test_heads_of_the_network_are_split_into_layers_without_the_last():
    from tiny import TINY

    layers = fedhca2._layers(TINY)
    names = [name for names in layers for name in names]
    assert ("norm.weight", "norm.bias") in layers
    assert not any(name.startswith("last") or "running" in name for name in names)
    assert len(names) == len(set(names))
