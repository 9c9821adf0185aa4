"""Layouts, updates in memory and updates streamed from files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from matfl.server.updates import ClientUpdate, Layout, Rows, Updates, save_update


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 2)


def net(seed):
    """A network whose parameters and batch-norm statistics are drawn from `seed`."""
    module, generator = Net(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
            else:
                tensor.fill_(seed)
    return module


LAYOUT = Layout.of(Net(), voting=["conv.weight"])
START = LAYOUT.flatten(net(100)).detach()


def client_update(client, **changes):
    state = {name: tensor.clone() for name, tensor in net(client).state_dict().items()}
    head = {"weight": torch.full((2, 3), float(client)), "count": torch.tensor(client)}
    return ClientUpdate(**{"client": client, "state": state, "start_P": START, "head": head} | changes)


def files_of(folder, clients):
    paths = {client: folder / f"client-{client}.safetensors" for client in clients}
    for client, path in paths.items():
        save_update(path, LAYOUT, client_update(client))
    return paths


def whole(updates):
    """The update matrix, put together from its column pieces."""
    pieces = [(start, block.clone()) for start, block in updates.columns()]
    assert [start for start, _ in pieces] == [0, *torch.tensor([b.shape[1] for _, b in pieces]).cumsum(0)[:-1].tolist()]
    return torch.cat([block for _, block in pieces], 1)


def test_layout_keeps_the_state_dict_order_and_tells_kinds_apart():
    assert list(LAYOUT.parameters) == ["conv.weight", "norm.weight", "norm.bias", "last.weight", "last.bias"]
    assert list(LAYOUT.buffers) == ["norm.running_mean", "norm.running_var"]
    assert LAYOUT.integers == ("norm.num_batches_tracked",)
    assert (LAYOUT.P, LAYOUT.B) == (216 + 8 + 8 + 16 + 2, 16)
    assert LAYOUT.parameters["norm.bias"].start == 224
    names = [name for name, _ in Net().named_parameters()]
    assert Layout.of(Net().state_dict(), parameters=names, voting=["conv.weight"]) == LAYOUT


def test_layout_of_resnet18_holds_every_parameter():
    from matfl.models.backbone import voting_layers
    from matfl.models.resnet import ResNet

    with torch.device("meta"):
        backbone = ResNet()
    layout = Layout.of(backbone, voting=voting_layers(backbone, 8))
    assert layout.P == sum(p.numel() for p in backbone.parameters()) == 11_176_512
    assert sum(layout.parameters[name].stop - layout.parameters[name].start for name in layout.voting) == 10_321_920


def test_layout_asks_for_what_it_cannot_know():
    with pytest.raises(ValueError, match=r"pass parameters="):
        Layout.of(Net().state_dict())
    with pytest.raises(ValueError, match=r"'norm\.running_mean' is not a floating-point parameter"):
        Layout.of(Net(), voting=["norm.running_mean"])
    with pytest.raises(ValueError, match="'fc' is not a floating-point parameter"):
        Layout.of(Net().state_dict(), parameters=["fc"])


def test_flatten_and_unflatten_are_inverse_and_unflatten_copies_nothing():
    module = net(1)
    row_P, row_B = LAYOUT.flatten(module), LAYOUT.flatten_buffers(module.state_dict())
    views = LAYOUT.unflatten(row_P, row_B)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(views[name], tensor)
    row_P[0] = 7
    assert views["conv.weight"].flatten()[0] == 7
    assert module.conv.weight.flatten()[0] != 7
    assert set(LAYOUT.unflatten(row_P)) == set(LAYOUT.parameters)


def test_flatten_writes_into_the_given_row_in_its_dtype():
    rows = LAYOUT.empty(3, dtype=torch.float64)
    assert LAYOUT.flatten(net(1), out=rows[1]).data_ptr() == rows[1].data_ptr()
    torch.testing.assert_close(rows[1].float(), LAYOUT.flatten(net(1)))


def test_flatten_does_not_depend_on_memory_format():
    module = net(1)
    expected = LAYOUT.flatten(module).clone()
    assert torch.equal(LAYOUT.flatten(module.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_updates_are_local_minus_dispatched(dtype):
    replies = [client_update(c, state=net(c).to(dtype)) for c in (4, 2)]
    updates = Updates.of(LAYOUT, replies)
    assert updates.clients == (4, 2)
    for row, client in enumerate((4, 2)):
        assert torch.equal(updates.updates_NP[row], LAYOUT.flatten(net(client).to(dtype)).float() - START)
        assert torch.equal(updates.buffers_NB[row], LAYOUT.flatten_buffers(net(client).to(dtype)).float())
    assert updates.heads[1]["weight"][0, 0] == 2


def test_updates_can_be_kept_in_half_precision():
    updates = Updates.of(LAYOUT, [client_update(1)], dtype=torch.bfloat16)
    assert updates.dtype == torch.bfloat16
    torch.testing.assert_close(
        updates.updates_NP[0].float(), (LAYOUT.flatten(net(1)) - START).detach(), atol=4e-3, rtol=0
    )


def test_replies_of_one_reused_model_are_copied_as_they_come():
    module = net(0)
    head = {"weight": torch.zeros(2)}
    rows = Rows(LAYOUT, 3)
    for client in range(3):
        module.load_state_dict(net(client).state_dict())
        head["weight"].fill_(client)
        rows.add(ClientUpdate(client=client, state=module, start_P=START, head=head))
    updates = rows.updates()
    assert updates.clients == (0, 1, 2)
    for client in range(3):
        assert torch.equal(updates.updates_NP[client], (LAYOUT.flatten(net(client)) - START).detach())
        assert updates.heads[client]["weight"][0] == client
    with pytest.raises(ValueError, match="capacity=3: more replies came"):
        rows.add(client_update(4))


def test_a_reply_of_wrong_shape_leaves_its_row_to_the_next():
    rows = Rows(LAYOUT, 2)
    with pytest.raises(ValueError, match=r"client 3: tensor 'norm.running_var' is missing"):
        rows.add(client_update(3, state={n: t for n, t in net(3).state_dict().items() if n != "norm.running_var"}))
    rows.add(client_update(1))
    assert rows.updates().clients == (1,)
    torch.testing.assert_close(rows.updates().updates_NP[0], (LAYOUT.flatten(net(1)) - START).detach())


def test_no_replies():
    updates = Updates.of(LAYOUT, [])
    assert len(updates) == 0
    assert updates.updates_NP.shape == (0, LAYOUT.P)


def test_wrong_shapes_name_client_and_tensor(tmp_path):
    bad = client_update(3).state | {"last.weight": torch.zeros(3, 8)}
    missing = {name: t for name, t in client_update(3).state.items() if name != "norm.running_var"}
    for state, message in (
        (bad, r"client 3: tensor 'last.weight' has shape \(3, 8\), but the backbone's is \(2, 8\)"),
        (missing, r"client 3: tensor 'norm.running_var' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            Updates.of(LAYOUT, [client_update(1), client_update(3, state=state)])
    paths = files_of(tmp_path, (1, 3))
    stored = load_file(paths[3])
    stored["update/conv.weight"] = stored["update/conv.weight"][:4].clone()
    save_file(stored, paths[3])
    with pytest.raises(ValueError, match=r"client 3: tensor 'conv.weight' has shape \(4, 3, 3, 3\)"):
        Updates.stream(LAYOUT, paths)
    del stored["update/conv.weight"]
    save_file(stored, paths[3])
    with pytest.raises(ValueError, match=r"client 3: tensor 'conv\.weight' is missing"):
        Updates.stream(LAYOUT, paths)


def test_updates_check_their_parts():
    good = Updates.of(LAYOUT, [client_update(1), client_update(2)])
    parts = {
        "layout": LAYOUT,
        "clients": (1, 2),
        "updates_NP": good.updates_NP,
        "buffers_NB": good.buffers_NB,
        "heads": good.heads,
    }
    with pytest.raises(ValueError, match=r"updates_NP has shape .* but 2 clients"):
        Updates(**parts | {"updates_NP": good.updates_NP[:, 1:]})
    with pytest.raises(ValueError, match=r"buffers_NB has shape"):
        Updates(**parts | {"buffers_NB": good.buffers_NB[:1]})
    with pytest.raises(ValueError, match="give each client once"):
        Updates(**parts | {"clients": (1, 1)})


@pytest.mark.parametrize("memory", [1, 1 << 20])
@pytest.mark.parametrize("threads", [1, 2])
def test_streamed_columns_equal_those_in_memory(tmp_path, memory, threads, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for module in ("files", "updates"):
        monkeypatch.setattr(f"matfl.server.{module}.WINDOW", 7)
    paths = files_of(tmp_path, (3, 1, 2))
    streamed, held = (
        Updates.stream(LAYOUT, paths, memory=memory),
        Updates.of(LAYOUT, [client_update(c) for c in (3, 1, 2)]),
    )
    assert streamed.clients == held.clients == (3, 1, 2)
    assert torch.equal(whole(streamed), held.updates_NP)
    assert torch.equal(streamed.buffers_NB, held.buffers_NB)
    assert torch.equal(torch.cat([b.clone() for _, b in streamed.columns(215, 233)], 1), held.updates_NP[:, 215:233])
    for found, expected in zip(streamed.heads, held.heads):
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    some = streamed.select([2, 0])
    assert some.clients == (2, 3)
    assert torch.equal(whole(some), held.updates_NP[[2, 0]])
    assert len(whole(streamed.select([]))) == 0
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_in_other_precisions(tmp_path, dtype):
    paths = files_of(tmp_path, (1, 2))
    stored = {name: t.to(dtype) if t.is_floating_point() else t for name, t in load_file(paths[2]).items()}
    save_file(stored, paths[2])
    streamed = Updates.stream(LAYOUT, paths)
    assert streamed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = (LAYOUT.flatten(net(2)) - START).detach().to(dtype).to(streamed.dtype)
    assert torch.equal(whole(streamed)[1], expected)


def test_absent_and_damaged_files_are_named_and_left_out(tmp_path):
    paths = files_of(tmp_path, (0, 1, 2, 3))
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:-10])
    paths[3].write_bytes(b"\xff" * 100)
    updates = Updates.stream(LAYOUT, paths)
    assert updates.clients == (0,)
    assert set(updates.unreadable) == {1, 2, 3}
    assert "No such file" in updates.unreadable[1]
    assert "client-2.safetensors is not a whole safetensors file" in updates.unreadable[2]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    paths = files_of(tmp_path, (0,))
    updates = Updates.stream(LAYOUT, paths)
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    with pytest.raises(OSError, match=r"client-0.safetensors ends early"):
        whole(updates)


def test_saving_leaves_one_file_that_any_reader_understands(tmp_path):
    paths = files_of(tmp_path, (1,))
    assert [path.name for path in tmp_path.iterdir()] == ["client-1.safetensors"]
    stored = load_file(paths[1])
    assert torch.equal(stored["update/last.bias"], (net(1).last.bias - net(100).last.bias).detach())
    assert torch.equal(stored["buffer/norm.running_mean"], net(1).norm.running_mean)
    assert torch.equal(stored["head/count"], torch.tensor(1))
    size = int.from_bytes(paths[1].read_bytes()[:8], "little")
    assert json.loads(paths[1].read_bytes()[8 : 8 + size])["update/conv.weight"]["dtype"] == "F32"
