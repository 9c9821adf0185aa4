"""One round of a small federation, made of random numbers, for tests of what methods decide."""

import torch

from matfl.config.run_config import RunConfig, override
from matfl.server.layout import Layout
from matfl.server.methods import METHODS, Dispatch, Result, Round
from matfl.server.mixing import mix
from matfl.server.models import Models
from matfl.server.updates import Updates

SHAPES = {
    "stem.weight": (4, 3),
    "layer1.0.conv.weight": (2, 2, 3, 3),
    "layer1.0.norm.weight": (5,),
    "layer1.0.norm.mean": (5,),
    "layer1.0.norm.var": (5,),
    "layer2.0.conv.weight": (3, 2, 3, 3),
    "layer2.0.conv2.weight": (2, 3, 3, 3),
    "layer2.0.norm.mean": (4,),
    "layer2.0.norm.var": (4,),
    "count": (),
}
BUFFERS = tuple(name for name in SHAPES if name.endswith((".mean", ".var")))
VOTING = ("layer1.0.conv.weight", "layer2.0.conv.weight", "layer2.0.conv2.weight")
HEAD = {"conv.weight": (3, 4), "conv.bias": (3,), "last.weight": (2, 3)}


def layout():
    tensors = {name: torch.zeros(shape) if shape else torch.tensor(0) for name, shape in SHAPES.items()}
    parameters = [name for name, shape in SHAPES.items() if shape and name not in BUFFERS]
    return Layout.of(tensors, parameters=parameters, voting=VOTING)


def make_round(
    tasks="aabb",
    *,
    scope="task",
    method="matfl",
    seed=0,
    dtype=torch.float64,
    clients=None,
    number=2,
    state=None,
    messages=None,
    losses=None,
    steps=None,
    heads=False,
    **config,
):
    """(a `Round`): client i of `tasks` has task tasks[i]; `clients` are those that replied, default all."""
    generator = torch.Generator().manual_seed(seed)
    everyone = tuple(tasks)
    clients = tuple(range(len(everyone))) if clients is None else tuple(clients)
    owners = tuple(range(len(everyone))) if scope == "client" else tuple(dict.fromkeys(everyone))
    of, n = layout(), len(clients)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def head():
        return {name: draw(*shape) for name, shape in HEAD.items()}

    models = Models(
        layout=of,
        owners=owners,
        theta_CP=draw(len(owners), of.P).to(torch.float64 if dtype == torch.float64 else torch.float32),
        buffers_CB=draw(len(owners), of.B).abs(),
        heads={owner: head() for owner in owners} if heads else {},
    )
    updates = Updates(
        layout=of,
        clients=clients,
        updates_NP=draw(n, of.P),
        buffers_NB=draw(n, of.B).abs(),
        heads=tuple(head() if heads else {} for _ in clients),
    )
    replies = tuple(
        Result(
            client=client,
            loss=1.0 + client if losses is None else losses[row],
            images=8,
            seconds=0.1,
            steps=4 if steps is None else steps[row],
            message={} if messages is None else messages[row],
        )
        for row, client in enumerate(clients)
    )
    return Round(
        number=number,
        config=override(RunConfig(method=method, k=3), **config),
        models=models,
        client_tasks=everyone,
        participants=clients,
        state=state or {},
        updates=updates,
        tasks=tuple(everyone[client] for client in clients),
        replies=replies,
        starts=tuple(owners.index(client if scope == "client" else everyone[client]) for client in clients),
    )


def begun(method, round):
    """The state that `method` starts with, for the federation of `round`."""
    before = {name: getattr(round, name) for name in ("config", "models", "client_tasks")}
    return dict(method.start(Dispatch(number=0, **before)))


def applied(round, mixing, *, scope="task", heads="task"):
    """The models after `mixing`; those of the round stay."""
    models = round.models.copy()
    models.heads.update({owner: {n: t.clone() for n, t in head.items()} for owner, head in models.heads.items()})
    mix(models, round.updates, mixing, round.tasks, scope=scope, heads=heads)
    return models


def decided(name, round, **parameters):
    """(the mixing of the method called `name`, the models after it)."""
    method = type(METHODS[name])(**parameters)
    mixing = method.mix(round)
    return mixing, applied(round, mixing, scope=method.scope)
