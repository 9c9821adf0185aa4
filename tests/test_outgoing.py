"""What leaves a client: packed and unpacked as announced, nothing lost for good, private by the closed form, late."""

import math

import pytest
import torch
from scipy import stats
from test_hostile import server_of
from tiny import contents, tiny

from matfl.runs import engine
from matfl.runs.outgoing import leave, start_of
from matfl.runs.run import Run
from matfl.server.codecs import CODECS, codec_of, expected, learned, pack, unpack
from matfl.server.privacy import epsilon, noise_for, privatise


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def models(seed=0):
    """(what was sent to a client, what it trained)."""
    server, state = server_of(tiny())
    start = {name: tensor.clone() for name, tensor in server.dispatch(state, 0).items()}
    draw = torch.Generator().manual_seed(seed)
    trained = {
        n: t + 0.01 * torch.randn(t.shape, generator=draw).abs() if t.is_floating_point() else t + 1
        for n, t in start.items()
    }
    return start, trained


@pytest.mark.parametrize("name", CODECS)
def test_a_packed_model_has_the_announced_form_and_arrives(name):
    start, trained = models()
    codec = codec_of(tiny(codec=name, codec_share=0.1))
    packed, lost = pack(trained, start, codec, None)
    forms = expected(start, codec)
    assert {n: (tuple(t.shape), t.dtype) for n, t in packed.items()} == forms
    arrived = unpack(packed, start, codec)
    assert arrived.keys() == start.keys()
    for key in start:
        if "running_" in key:
            assert torch.equal(arrived[key], trained[key])
    change = torch.cat([(arrived[n] - start[n]).flatten() for n in learned(start)])
    whole = torch.cat([(trained[n] - start[n]).flatten() for n in learned(start)])
    torch.testing.assert_close(change + lost, whole, atol=1e-6, rtol=0)
    size = sum(t.nbytes for n, t in packed.items() if n != "statistics") / (4 * len(whole))
    assert size == pytest.approx({"bf16": 0.5, "int8": 0.25, "topk": 0.2}[name], rel=0.01)
    error = (change - whole).norm() / whole.norm()
    assert error < {"bf16": 0.003, "int8": 0.01, "topk": 0.9}[name]


def test_top_k_sends_the_largest_and_int8_rounds_to_the_nearest_of_its_steps():
    row = torch.randn(5000)
    top = codec_of(tiny(codec="topk", codec_share=0.02))
    assert set(top.encode(row)["places"].tolist()) == set(row.abs().argsort(descending=True)[:100].tolist())
    byte = codec_of(tiny(codec="int8"))
    scale = torch.stack([part.abs().max() / 127 for part in row.split(1024)]).repeat_interleave(1024)[:5000]
    assert ((byte.decode(byte.encode(row), 5000) - row).abs() <= scale / 2 + 1e-9).all()
    assert torch.equal(byte.decode(byte.encode(torch.zeros(3)), 3), torch.zeros(3))
    assert not byte.decode(byte.encode(torch.tensor([1.0, torch.nan])), 2).isfinite().all()


def test_error_feedback_loses_nothing_for_good():
    """The sum of what arrived over rounds is the sum of the updates but for what the client still holds."""
    start, trained = models()
    whole = torch.cat([(trained[n] - start[n]).flatten() for n in learned(start)])
    for name, few in (("topk", 0.05), ("int8", 0.5)):
        codec, lost, total = codec_of(tiny(codec=name, codec_share=few)), None, 0
        for _ in range(30):
            packed, lost = pack(trained, start, codec, lost)
            arrived = unpack(packed, start, codec)
            total = total + torch.cat([(arrived[n] - start[n]).flatten() for n in learned(start)])
        torch.testing.assert_close(total + lost, 30 * whole, atol=1e-3, rtol=1e-3)
        assert lost.norm() < (16 if name == "topk" else 0.1) * whole.norm()


def test_what_is_packed_wrongly_is_refused():
    start, trained = models()
    codec = codec_of(tiny(codec="topk"))
    packed, _ = pack(trained, start, codec, None)
    with pytest.raises(ValueError, match="packed 'values' is missing or no"):
        unpack({n: t for n, t in packed.items() if n != "values"}, start, codec)
    with pytest.raises(ValueError, match=r"packed 'places' is missing or no torch.int32"):
        unpack({**packed, "places": packed["places"].long()}, start, codec)
    with pytest.raises(ValueError, match="a place outside 0"):
        unpack({**packed, "places": packed["places"] + 10**8}, start, codec)


def test_a_codec_that_is_not_known_here_names_those_that_are():
    with pytest.raises(ValueError, match=r"codec='zip' is unknown here: .*'bf16', 'int8', 'topk'; one from a plug-in"):
        server_of(tiny(codec="zip"))
    with pytest.raises(ValueError, match="codec='a b': choose"):
        tiny(codec="a b")


def test_privacy_clips_and_adds_the_stated_noise():
    row = torch.randn(40_000)
    draw = torch.Generator().manual_seed(0)
    assert torch.equal(privatise(row, clip=1e9, noise=0.0, generator=draw), row)
    assert privatise(row, clip=2.0, noise=0.0, generator=draw).norm() == pytest.approx(2.0, rel=1e-4)
    noise = privatise(row, clip=2.0, noise=3.0, generator=draw) - privatise(row, clip=2.0, noise=0.0, generator=draw)
    assert noise.std() == pytest.approx(6.0, rel=0.02)
    assert torch.equal(privatise(torch.zeros(3), clip=1.0, noise=0.0, generator=draw), torch.zeros(3))


def test_epsilon_is_that_of_the_analytic_gaussian_mechanism():
    """Balle and Wang 2018, theorem 8, with the sensitivity of T releases."""
    pytest.importorskip("dp_accounting")
    for noise, releases in ((1.0, 1), (2.0, 10), (8.0, 60)):
        found = epsilon(noise, releases, delta=1e-5)
        mu = math.sqrt(releases) / noise
        delta = stats.norm.cdf(mu / 2 - found / mu) - math.exp(found) * stats.norm.cdf(-mu / 2 - found / mu)
        assert delta == pytest.approx(1e-5, rel=0.05)
        assert noise_for(found, releases) == pytest.approx(noise, rel=0.01)
    assert epsilon(0.0, 3) == math.inf
    assert epsilon(1.0, 0) == 0
    assert noise_for(math.inf, 5) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: noise_for(0.0, 5), "epsilon=0.0: choose a positive number"),
        (lambda: noise_for(-1.0, 5), "epsilon=-1.0: choose a positive number"),
        (lambda: noise_for(math.nan, 5), "epsilon=nan: choose a positive number"),
        (lambda: epsilon(1.0, 5, delta=0.0), "delta=0.0: choose a chance above 0"),
        (lambda: epsilon(-1.0, 5), "noise=-1.0: choose 0"),
        (lambda: epsilon(1.0, -5), "releases=-5: choose 0 or more"),
        (lambda: tiny(dp_noise=1.0), "dp_noise=1 with dp_clip=0: .*set dp_clip too"),
    ],
)
def test_wrong_privacy_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_private_model_is_clipped_as_a_whole_and_keeps_its_variances_positive():
    start, trained = models()
    config = tiny(dp_clip=0.5, dp_noise=0.0)
    gone = leave(trained, start, start, config, {}, round=1, client=0).state
    floating = [n for n, t in start.items() if t.is_floating_point()]
    assert math.sqrt(sum(float((gone[n] - start[n]).square().sum()) for n in floating)) == pytest.approx(0.5, rel=1e-3)
    loud = leave(trained, start, start, tiny(dp_clip=5.0, dp_noise=1.0), {}, round=1, client=0).state
    assert all((t > 0).all() for n, t in loud.items() if n.endswith("running_var"))
    again = leave(trained, start, start, tiny(dp_clip=5.0, dp_noise=1.0), {}, round=1, client=0).state
    other = leave(trained, start, start, tiny(dp_clip=5.0, dp_noise=1.0), {}, round=2, client=0).state
    assert torch.equal(loud["backbone.conv1.weight"], again["backbone.conv1.weight"])
    assert not torch.equal(loud["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_a_late_client_trains_on_the_model_before_and_its_change_arrives():
    old, _ = models()
    now = {n: t + 1 if t.is_floating_point() else t for n, t in old.items()}
    config = tiny(late=1.0)
    assert start_of(old, config, {}, round=1, client=0) is old
    kept = leave(old, old, old, config, {}, round=1, client=0).kept
    start = start_of(now, config, kept, round=2, client=0)
    assert torch.equal(start["backbone.conv1.weight"], old["backbone.conv1.weight"])
    trained = {n: t + 0.25 if t.is_floating_point() else t for n, t in start.items()}
    gone = leave(trained, start, now, config, kept, round=2, client=0).state
    torch.testing.assert_close(gone["backbone.conv1.weight"], now["backbone.conv1.weight"] + 0.25)
    assert start_of(now, tiny(), kept, round=2, client=0) is now
    half = [start_of(now, tiny(late=0.5), kept, round=r, client=0) is now for r in range(60)]
    assert 15 < sum(half) < 45


CASES = {
    "lie": {"attack": "lie", "attackers": 1, "tasks": "outdoor/semseg,outdoor/sal"},
    "topk": {"codec": "topk", "codec_share": 0.1},
    "late and private": {"late": 0.7, "dp_clip": 1.0, "dp_noise": 0.001, "codec": "bf16"},
    "flip": {"attack": "flip", "attackers": 1},
    "int8": {"codec": "int8", "method": "ditto"},
}
SLOW = [pytest.param(name, marks=() if name in ("topk", "lie") else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", SLOW)
def test_a_run_goes_on_bit_for_bit_and_on_flower_is_the_local_one(name, tmp_path, cache, monkeypatch):
    pytest.importorskip("flwr")
    from inprocess import InProcessGrid
    from safetensors.torch import load
    from test_flower import app_config, nodes_of

    from matfl.flower import Settings, client_app, federation

    monkeypatch.setattr("matfl.flower.nodes.RETRY", 0.0)
    config = tiny(**CASES[name])
    while (
        not (tmp_path / "stopped" / "state.json").exists()
        or engine.store.stored_round(tmp_path / "stopped", config) < config.rounds
    ):
        engine.run(config, tmp_path / "stopped", device="cpu", cache_dir=cache, stop=lambda: True)
    engine.run(config, tmp_path / "whole", device="cpu", cache_dir=cache)
    expected_files = contents(tmp_path / "whole")
    assert contents(tmp_path / "stopped") == expected_files
    app = app_config(config, **{"runs-dir": str(tmp_path), "run-name": "flower"})
    federation(InProcessGrid(client_app, app, nodes_of(config, cache), order=1), Settings.of(app))
    found = contents(tmp_path / "flower")
    stored, wanted = (load(files.pop("checkpoint.safetensors")) for files in (found, expected_files))
    assert found == expected_files
    wanted = {key: tensor for key, tensor in wanted.items() if "/memory." not in key}
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[key], wanted[key]) for key in stored)
    for field in ("participants", "excluded", "bytes_up", "attackers"):
        rows = [[row.get(field) for row in Run(tmp_path / name).rounds] for name in ("whole", "flower")]
        assert rows[0] == rows[1], field
        if field == "excluded":
            assert rows[0] == [{}] * config.rounds
    if config.codec != "none":
        first = Run(tmp_path / "flower").rounds[0]
        assert first["bytes_up"] <= first["wire"]["up"] < 1.05 * first["bytes_up"] + 4 * 2000
        assert first["bytes_up"] < 0.7 * first["bytes_down"]
