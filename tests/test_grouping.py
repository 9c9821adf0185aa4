"""Similarity, votes, friends and weights against a naive transcription of Algorithm 1, closed forms and invariants."""

import naive
import pytest
import torch

from matfl.server import kernels
from matfl.server.grouping import cosine, friends, gram, normalise, similarity, similarity_weights, votes, whole_updates
from matfl.server.updates import Layout, Updates

SIZES = {"first": (5, 3), "second": (7,), "third": (2, 2, 2)}
LAYERS = ("first", "third")


def updates_of(matrix_NP, sizes=None):
    """Clients 0, 1, ... whose layers are cut from the columns."""
    sizes = sizes or SIZES
    layout = Layout.of({name: torch.zeros(shape) for name, shape in sizes.items()}, parameters=sizes)
    n = len(matrix_NP)
    return Updates(
        layout=layout, clients=tuple(range(n)), updates_NP=matrix_NP, buffers_NB=torch.zeros(n, 0), heads=({},) * n
    )


def draw(n, generator, dtype=torch.float32):
    return torch.randn(n, 30, generator=generator, dtype=torch.float64).to(dtype)


def random_similarity(kind, n, layers, generator):
    """(L, N, N), symmetric with ones on the diagonal: all values distinct, many equal, mostly negative, or blocks."""
    s = torch.rand(layers, n, n, generator=generator) * 2 - 1
    if kind == "tied":
        s = (s * 2).round() / 2
    if kind == "negative":
        s = -s.abs()
    if kind == "blocks":
        group = torch.arange(n) // 3
        s = torch.where(group[:, None] == group, 0.5, -0.25).repeat(layers, 1, 1)
    s = s.triu(1) + s.triu(1).transpose(1, 2)
    s.diagonal(dim1=1, dim2=2).fill_(1)
    return s


@pytest.mark.parametrize("kind", ["distinct", "tied", "negative", "blocks"])
def test_agrees_with_the_transcription_for_any_n_and_k(kind):
    generator = torch.Generator().manual_seed(1)
    for n in range(1, 41):
        for k in {1, 2, n // 3 + 1, n // 2 + 1, n} & set(range(1, n + 1)):
            s = random_similarity(kind, n, 1 + n % 4, generator)
            expected_votes = naive.votes(s.tolist(), k)
            expected_friends = naive.friends(expected_votes, s.tolist(), k)
            v = votes(s, k)
            f = friends(v, k, similarity=s)
            assert v.tolist() == expected_votes, (n, k)
            assert [{j for j in range(n) if f[i, j]} for i in range(n)] == expected_friends, (n, k)
            expected = torch.tensor(naive.weights(s.tolist(), expected_friends))
            torch.testing.assert_close(similarity_weights(s, f), expected, rtol=0, atol=1e-6)


def test_agrees_with_the_transcription_from_the_updates_on():
    generator = torch.Generator().manual_seed(2)
    for n in (1, 2, 3, 7, 18, 25):
        matrix = draw(n, generator, torch.float64)
        u = updates_of(matrix)
        cut = [[row[:15].tolist(), row[22:].tolist()] for row in matrix]
        s = similarity(u, LAYERS)
        torch.testing.assert_close(s, torch.tensor(naive.similarity(cut), dtype=torch.float64), rtol=0, atol=1e-12)
        k = n // 2 + 1
        v = naive.votes(naive.similarity(cut), k)
        assert votes(s, k).tolist() == v
        chosen = naive.friends(v, naive.similarity(cut), k)
        weights = torch.tensor(naive.weights(naive.similarity(cut), chosen), dtype=torch.float64)
        torch.testing.assert_close(similarity_weights(s, friends(votes(s, k), k, similarity=s)), weights)


def test_a_client_leads_its_own_vote_before_an_identical_one():
    row = torch.randn(30, generator=torch.Generator().manual_seed(0))
    s = similarity(updates_of(row.repeat(4, 1)), LAYERS)
    assert (s == 1).all()
    assert votes(s, 4)[0].tolist() == [[4, 3, 2, 1], [3, 4, 2, 1], [3, 2, 4, 1], [3, 2, 1, 4]]
    f = friends(votes(s, 2), 2, similarity=s)
    assert f.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, False, True, False],
        [True, False, False, True],
    ]


def test_friends_break_ties_by_summed_similarity_then_by_index():
    v = torch.tensor([[[3, 1, 2, 0]] * 4, [[3, 2, 1, 0]] * 4])
    s = torch.zeros(2, 4, 4)
    assert friends(v, 2, similarity=s)[0].tolist() == [True, True, False, False]
    s[0, 0, 2] = 0.1
    assert friends(v, 2, similarity=s)[0].tolist() == [True, False, True, False]
    assert friends(v, 2)[0].tolist() == [True, True, False, False]


def test_k_is_n_makes_everyone_a_friend_and_k_is_1_nobody_else():
    s = random_similarity("distinct", 9, 3, torch.Generator().manual_seed(3))
    assert friends(votes(s, 9), 9, similarity=s).all()
    alone = friends(votes(s, 1), 1, similarity=s)
    assert torch.equal(alone, torch.eye(9, dtype=torch.bool))
    assert torch.equal(similarity_weights(s, alone), torch.eye(9))


def test_permuting_clients_permutes_everything():
    generator = torch.Generator().manual_seed(4)
    matrix, order = draw(11, generator), torch.randperm(11, generator=generator)
    a, b = similarity(updates_of(matrix), LAYERS), similarity(updates_of(matrix[order]), LAYERS)
    torch.testing.assert_close(b, a[:, order][:, :, order])
    fa, fb = (friends(votes(s, 4), 4, similarity=s) for s in (a, b))
    assert torch.equal(fb, fa[order][:, order])
    torch.testing.assert_close(similarity_weights(b, fb), similarity_weights(a, fa)[order][:, order])


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 3.0, 1e19, 1e30])
@pytest.mark.parametrize("compile_from", [0, 1 << 22])
def test_similarity_does_not_depend_on_scale_even_where_squares_leave_float32(scale, compile_from, monkeypatch):
    monkeypatch.setattr(kernels, "_COMPILE_FROM", compile_from)
    matrix = draw(6, torch.Generator().manual_seed(5)).double()
    factors = torch.tensor([scale, 1, scale, 2.5, 1, scale], dtype=torch.float64)[:, None]
    expected = similarity(updates_of(matrix), LAYERS).float()
    torch.testing.assert_close(similarity(updates_of((matrix * factors).float()), LAYERS), expected, atol=1e-6, rtol=0)


def test_rows_of_weights_sum_to_one_and_are_never_negative():
    generator = torch.Generator().manual_seed(6)
    for kind in ("distinct", "negative", "tied"):
        s = random_similarity(kind, 12, 3, generator)
        w = similarity_weights(s, torch.rand(12, 12, generator=generator) < 0.4)
        torch.testing.assert_close(w.sum(1), torch.ones(12))
        assert (w >= 0).all()


def test_a_row_without_a_positive_entry_keeps_its_own_update():
    s = -torch.ones(2, 3, 3)
    assert torch.equal(similarity_weights(s), torch.eye(3))
    nobody = torch.zeros(3, 3, dtype=torch.bool)
    assert torch.equal(similarity_weights(torch.ones(2, 3, 3), nobody), torch.eye(3))
    assert normalise(torch.tensor([[0.0, -1], [3, 1]])).tolist() == [[1, 0], [0.75, 0.25]]


def test_a_layer_without_a_positive_entry_has_no_say():
    s = torch.tensor([[[-1.0, -1], [1, 1]], [[1, 3], [1, 1]]])
    assert similarity_weights(s)[0].tolist() == [0.25, 0.75]


def test_a_zero_update_is_similar_to_itself_alone():
    matrix = draw(4, torch.Generator().manual_seed(7))
    matrix[1] = 0
    matrix[3] = 0
    s = similarity(updates_of(matrix), LAYERS)
    for i in (1, 3):
        expected = torch.zeros(4)
        expected[i] = 1
        assert torch.equal(s[0, i], expected)
        assert torch.equal(s[1, :, i], expected)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-6), (torch.float16, 1e-6), (torch.float32, 1e-6)])
def test_half_precision_updates_are_multiplied_in_float32_or_better(dtype, tolerance):
    sizes = {"layer": (40_000,)}
    matrix = (torch.randn(3, 40_000, generator=torch.Generator().manual_seed(8)) + 0.3).to(dtype)
    s = similarity(updates_of(matrix, sizes), ["layer"])
    exact = matrix.double() @ matrix.double().T
    norm = exact.diagonal().sqrt()
    assert s.dtype == torch.float32
    torch.testing.assert_close(s[0].double(), exact / norm / norm[:, None], atol=tolerance, rtol=0)


def test_dtype_follows_the_updates():
    matrix = draw(3, torch.Generator().manual_seed(9))
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        s = similarity(updates_of(matrix.to(dtype)), LAYERS)
        assert s.dtype == similarity_weights(s).dtype == expected
    assert votes(s, 2).dtype == torch.int64
    assert friends(votes(s, 2), 2).dtype == torch.bool


def test_no_clients_are_no_problem():
    s = similarity(updates_of(torch.zeros(0, 30)), LAYERS)
    assert s.shape == (2, 0, 0)
    f = friends(votes(s, 1), 1, similarity=s)
    assert f.shape == similarity_weights(s, f).shape == (0, 0)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range_is_an_error(k):
    s = torch.ones(2, 3, 3)
    with pytest.raises(ValueError, match=rf"k={k}: choose 1\.\.3"):
        votes(s, k)
    with pytest.raises(ValueError, match=rf"k={k}: choose 1\.\.3"):
        friends(votes(s, 1), k)


def test_unknown_and_missing_layers_are_errors():
    u = updates_of(torch.zeros(2, 30))
    with pytest.raises(ValueError, match=r"'fc' is not a parameter.*voting_layers"):
        similarity(u, ["fc"])
    with pytest.raises(ValueError, match=r"no voting layers.*voting="):
        gram(u, [])


def test_cosine_of_a_gram_matrix():
    assert cosine(torch.tensor([[4.0, 2], [2, 1]]))[0].tolist() == [1, 1]
    assert cosine(torch.tensor([[0.0, 0], [0, 9]])).tolist() == [[1, 0], [0, 1]]


def test_whole_updates_see_weight_decay_and_each_other():
    generator = torch.Generator().manual_seed(10)
    theta = torch.randn(2, 30, generator=generator)
    u = updates_of(torch.stack([-0.1 * theta[0], 2 * theta[1], torch.zeros(30), -0.1 * theta[0]]))
    found, products = whole_updates(u, theta, [0, 1, 1, 1])
    expected = torch.tensor([-1, 1, 0, -torch.cosine_similarity(theta[0], theta[1], dim=0)])
    torch.testing.assert_close(found, expected)
    rows = torch.stack([-0.1 * theta[0], 2 * theta[1], torch.zeros(30), -0.1 * theta[0]]).double()
    torch.testing.assert_close(products, rows @ rows.T)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 18])
def test_compiled_products_equal_plain_ones(n, threads, monkeypatch):
    """Odd numbers of rows and columns, rows that are far apart, several tiles, threads and dtypes."""
    monkeypatch.setattr(kernels, "_COMPILE_FROM", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = torch.randn(n, 9001, generator=torch.Generator().manual_seed(n))
        for block in (whole, whole[:, 3:8500], whole.bfloat16(), whole.double(), whole.T.contiguous().T):
            found = torch.full((n, n), 2.0, dtype=torch.float64)
            kernels.add_gram(found, block, kernels.product_dtype(block.dtype))
            exact = block.double() @ block.double().T + 2
            torch.testing.assert_close(found, exact, atol=0.02 if block.dtype != torch.float64 else 1e-9, rtol=0)
            out = torch.ones(4, 10_000)[:, : block.shape[1]]
            weights = torch.randn(4, n, generator=torch.Generator().manual_seed(1))
            kernels.add_mixed(out, weights, block)
            torch.testing.assert_close(out, (1 + weights.double() @ block.double()).float(), atol=1e-5, rtol=1e-5)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_rows_start_on_cache_lines_in_different_sets():
    rows = kernels.empty_rows(5, 4096, dtype=torch.float32)
    assert rows.shape == (5, 4096)
    assert rows.stride(0) % 16 == 0
    assert rows.stride(0) // 16 % 2 == 1


@pytest.mark.parametrize("n", [1, 2, 7, 18])
@pytest.mark.parametrize("compile_from", [0, 1 << 60])
def test_products_and_mixes_of_trained_models_are_those_of_whole_vectors(monkeypatch, compile_from, n):
    """With more columns than a tile, and a number of rows and columns that fits no loop's steps."""
    monkeypatch.setattr(kernels, "_COMPILE_FROM", compile_from)
    generator = torch.Generator().manual_seed(n)
    columns, rows = 20_011, [*range(n - 1), 0]
    starts = kernels.empty_rows(n, columns, dtype=torch.float32).normal_(generator=generator)
    updates = kernels.empty_rows(n, columns, dtype=torch.float32).normal_(generator=generator)
    trained = (starts[rows] - starts[rows[0]] + updates).double()
    for origin in (False, True):
        expected = torch.cat([trained, starts[rows[0]].double()[None]]) if origin else trained
        found = torch.zeros((n + origin,) * 2, dtype=torch.float64)
        kernels.add_trained_gram(found, starts, rows, updates, origin=origin, columns=columns)
        torch.testing.assert_close(found, expected @ expected.T, rtol=1e-4, atol=0.05)
    weights = torch.rand(n, n, generator=generator, dtype=torch.float64)
    expected = weights @ (starts.double() + updates.double())
    kernels.remix(starts, weights, weights, updates)
    torch.testing.assert_close(starts.double(), expected, rtol=1e-5, atol=1e-5)
