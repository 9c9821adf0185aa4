"""Arrays of another size than expected are refused by their header, before anything is made of them."""

import io
import tracemalloc

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord
from test_hostile import server_of
from tiny import tiny

from matfl.flower.arrays import Wire, from_arrays, to_arrays
from matfl.server.layout import Layout


def claiming(shape, dtype="<f4", data=b""):
    """An array whose header says something that its bytes do not hold."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": shape, "fortran_order": False, "descr": dtype})
    return Array(str(np.dtype(dtype)), shape, "numpy.ndarray", head.getvalue() + data)


def wire():
    server, state = server_of(tiny())
    head = state.models.heads["outdoor/semseg"]
    parts = {
        "backbone": server.layout,
        "head": Layout.of(head, parameters=[n for n in head if "running" not in n and head[n].is_floating_point()]),
    }
    return Wire(parts=parts), server.dispatch(state, 0)


@pytest.mark.parametrize(
    "array, message",
    [
        (claiming((10**12,)), r"array 'backbone' holds 0 bytes, not those of float32 of shape \(1000000000000,\)"),
        (claiming((3,), data=bytes(64)), "array 'backbone' holds 64 bytes, not those of float32"),
        (
            Array(np.zeros(50_000_000, np.uint8)),
            r"array 'backbone' is uint8 of shape \(50000000,\), but this network's",
        ),
        (Array(np.zeros((2, 3), np.float32)), r"array 'backbone' is float32 of shape \(2, 3\)"),
        (Array("float32", (3,), "numpy.ndarray", b"nothing"), "array 'backbone' cannot be read"),
        (Array("float32", (3,), "numpy.ndarray", b""), "array 'backbone' cannot be read"),
        (claiming((1,), "|O", bytes(8)), "array 'backbone' holds 8 bytes"),
    ],
    ids=["claims", "too long", "far too large", "shape", "no header", "empty", "objects"],
)
def test_a_model_of_another_size_is_refused_before_memory_is_taken(array, message):
    travels, state = wire()
    record = travels.encode(state, "fp32")
    record["backbone"] = array
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        travels.decode(record, "fp32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_message_of_another_shape_or_name_is_not_read():
    record = ArrayRecord({"a": Array(np.ones(3, np.float32)), "b": Array(np.ones(10**6)), "c": Array(np.ones(10**6))})
    tracemalloc.start()
    found = from_arrays(record, shapes={"a": (3,), "b": (2,)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(found["a"], torch.ones(3))
    assert found["b"].is_meta
    assert found["c"].is_meta
    assert tuple(found["b"].shape) == (10**6,)
    assert peak < 1 << 20
    everything = from_arrays(to_arrays({"x": torch.arange(3)}))
    assert torch.equal(everything["x"], torch.arange(3))
    with pytest.raises(ValueError, match="array 'x' holds 0 bytes"):
        from_arrays(ArrayRecord({"x": claiming((10**12,))}))
