"""Edge measurement against skimage's thinning, scipy's maximum flow per threshold, and a plain numpy suppression."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.morphology import thin as skimage_thin

from matfl.bench.edges import main as bench
from matfl.bench.edges import reference, scene
from matfl.data.decode import laplacian_edges
from matfl.tasks.edges import (
    PROTOCOLS,
    Counts,
    EdgeMeter,
    boundaries,
    evaluate_map,
    measure_map,
    nms,
    thin,
    truth,
)
from matfl.tasks.task import DOMAINS, IGNORE, pair

TENTHS = np.arange(1, 20, 2) / 20


def reach(pixels, shape):
    """The share of the diagonal that allows a distance in pixels."""
    return pixels / math.hypot(*shape)


def assert_as_reference(strength, truth, thresholds, max_distance, *, strict=False):
    ours = evaluate_map(strength, truth, thresholds, max_distance, strict=strict)
    theirs = reference(strength, truth, thresholds, max_distance, strict=strict, thin=skimage_thin)
    np.testing.assert_array_equal(ours.predicted_T, theirs.predicted_T)
    np.testing.assert_array_equal(ours.matched_T, theirs.matched_T)
    assert ours.true == truth.sum()
    return ours


def random_map(rng, shape, kind):
    noise = rng.random(shape)
    if kind == "noise":
        return noise
    if kind == "steps":  # few levels: whole regions appear at once
        return np.round(gaussian_filter(noise, 1) * 10) / 10
    smooth = gaussian_filter(noise, rng.uniform(1, 3))
    return (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)


# --- Thinning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_thin_equals_skimage(kind):
    rng = np.random.default_rng(0)
    for _ in range(40):
        strength = random_map(rng, rng.integers(1, 140, 2), kind)
        mask = strength > np.quantile(strength, rng.random())
        np.testing.assert_array_equal(thin(mask), skimage_thin(mask))


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (64, 1), (2, 63), (3, 65), (40, 128), (129, 70)])
def test_thin_full_and_empty_maps(shape):
    np.testing.assert_array_equal(thin(np.ones(shape)), skimage_thin(np.ones(shape)))
    assert not thin(np.zeros(shape)).any()


def test_thin_is_idempotent_and_leaves_its_input():
    mask = random_map(np.random.default_rng(1), (80, 90), "smooth") > 0.5
    before = mask.copy()
    lines = thin(mask)
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(thin(lines), lines)
    assert (lines <= mask).all()


def test_thin_rejects_batches():
    with pytest.raises(ValueError, match="call it once per map"):
        thin(np.ones((2, 5, 5)))


# --- Matching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["noise", "smooth", "steps"])
@pytest.mark.parametrize("strict", [False, True])
def test_counts_equal_maximum_flow(kind, strict):
    rng = np.random.default_rng([strict, len(kind)])
    for _ in range(8):
        shape = rng.integers(1, 40, 2)
        truth = rng.random(shape) < rng.uniform(0, 0.4)
        assert_as_reference(random_map(rng, shape, kind), truth, TENTHS, rng.uniform(0, 0.2), strict=strict)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (65, 63)])
def test_odd_sizes(shape):
    rng = np.random.default_rng(2)
    assert_as_reference(rng.random(shape), rng.random(shape) < 0.5, TENTHS, 0.1)


def _stress(name):
    n = 48
    y, x = np.mgrid[:n, :n]
    rng = np.random.default_rng(3)
    noise = rng.random((n, n))
    return {
        "checkerboard": ((x + y) % 2 * noise, (x + y) % 2 == 0),
        "gratings": (np.where(x % 4 == 0, 0.5, np.where(x % 4 == 2, 0.4 * noise, 0)), x % 4 == 2),
        "all true": (noise, noise >= 0),
        "scarce on the left": (np.where(noise < x / n, rng.random((n, n)), 0), rng.random((n, n)) < 1 - x / n),
        "crowded": (noise, rng.random((n, n)) < 0.45),
        "rings": (0.5 + 0.5 * np.sin(np.hypot(y - 20, x - 25)), np.hypot(y - 20, x - 25) % 6 < 1),
    }[name]


@pytest.mark.parametrize("name", ["checkerboard", "gratings", "all true", "scarce on the left", "crowded", "rings"])
def test_stress_cases(name):
    strength, truth = _stress(name)
    assert_as_reference(strength, truth, TENTHS, reach(5.43, truth.shape))


def test_a_long_shifted_line_needs_augmenting_paths_along_its_whole_length():
    # Each end holds pixels without a counterpart, so the nearest partner is the wrong one along the whole line.
    n, shift = 3000, 5
    truth, strength = np.zeros((3, n), bool), np.zeros((3, n))
    truth[1, : n - shift] = True
    strength[1, shift:] = np.linspace(0.9, 0.2, n - shift)
    counts = assert_as_reference(strength, truth, [0.1, 0.5], reach(shift, truth.shape))
    assert counts.matched_T[0] == n - shift
    fewer = evaluate_map(strength, truth, [0.1], reach(shift - 0.01, truth.shape))
    assert fewer.matched_T[0] == n - shift - 1


def test_distance_is_compared_as_a_closed_disk():
    strength, truth = np.zeros((30, 40)), np.zeros((30, 40), bool)  # diagonal 50
    strength[10, 10], truth[13, 14] = 1, True  # 5 pixels away
    assert evaluate_map(strength, truth, [0.5], 0.1).matched_T[0] == 1
    assert evaluate_map(strength, truth, [0.5], 0.0999).matched_T[0] == 0


@pytest.mark.parametrize("shift,f", [(3, 1.0), (6, 0.0)])
def test_a_shifted_prediction_counts_within_the_tolerance_only(shift, f):
    truth = np.zeros((60, 80), bool)
    truth[:, 40] = True
    counts = evaluate_map(np.roll(truth, shift, axis=1).astype(float), truth, [0.5], 0.05)  # 5 pixels
    assert counts.f_T[0] == f


def test_one_true_pixel_is_matched_once():
    strength, truth = np.zeros((20, 20)), np.zeros((20, 20), bool)
    strength[5, 5] = strength[5, 9] = 1
    truth[5, 7] = True
    counts = evaluate_map(strength, truth, [0.5], reach(2, truth.shape))
    assert (counts.matched_T[0], counts.predicted_T[0]) == (1, 2)


def test_conventions_of_empty_maps():
    none, line = np.zeros((9, 9)), np.eye(9)
    nothing_found = evaluate_map(none, line, [0.5], 0.1)
    nothing_there = evaluate_map(line, none, [0.5], 0.1)
    neither = evaluate_map(none, none, [0.5], 0.1)
    found = [
        (float(c.precision_T[0]), float(c.recall_T[0]), float(c.f_T[0]))
        for c in (nothing_found, nothing_there, neither)
    ]
    assert found == [(1, 0, 0), (0, 1, 0), (1, 1, 0)]


def test_constant_map_is_the_same_at_every_threshold_it_passes():
    truth = np.zeros((20, 31), bool)
    truth[10] = True
    counts = assert_as_reference(np.full((20, 31), 0.5), truth, TENTHS, 0.1)
    assert len(set(counts.predicted_T[TENTHS <= 0.5])) == 1
    assert (counts.predicted_T[TENTHS > 0.5] == 0).all()


def test_counts_follow_the_threshold_s_own_map_not_the_order_of_the_thresholds():
    strength, truth = _stress("crowded")
    together = evaluate_map(strength, truth, TENTHS, 0.1)
    alone = [evaluate_map(strength, truth, [t], 0.1) for t in TENTHS]
    np.testing.assert_array_equal(together.matched_T, [c.matched_T[0] for c in alone])
    np.testing.assert_array_equal(together.predicted_T, [c.predicted_T[0] for c in alone])


def test_more_tolerance_and_more_truth_never_match_less():
    rng = np.random.default_rng(4)
    strength, truth = random_map(rng, (40, 50), "smooth"), rng.random((40, 50)) < 0.1
    matched = [evaluate_map(strength, truth, TENTHS, d).matched_T for d in (0, 0.02, 0.05, 0.1)]
    more = evaluate_map(strength, truth | (rng.random((40, 50)) < 0.1), TENTHS, 0.1).matched_T
    assert all((a <= b).all() for a, b in zip(matched, [*matched[1:], more]))


def test_only_the_order_of_strengths_counts():
    strength, truth = _stress("crowded")
    a = evaluate_map(strength, truth, TENTHS, 0.05)
    b = evaluate_map(strength**2, truth, TENTHS**2, 0.05)
    np.testing.assert_array_equal(a.matched_T, b.matched_T)


def test_transposing_thinned_maps_changes_nothing():
    rng = np.random.default_rng(5)
    strength, truth = np.where(thin(rng.random((40, 60)) < 0.2), rng.random((40, 60)), 0), rng.random((40, 60)) < 0.1
    strength[::2] = 0  # rows apart: thinning leaves them in either direction
    strength[:, ::2] = 0
    a, b = (evaluate_map(s, t, TENTHS, 0.05) for s, t in ((strength, truth), (strength.T, truth.T)))
    np.testing.assert_array_equal(a.matched_T, b.matched_T)


@pytest.mark.parametrize(
    "strength,match",
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 1.01), "sigmoid"),
        (np.full((4, 4), -0.1), r"\[0, 1\]"),
        (np.ones((1, 4, 4)), "shape"),
        (np.ones((4, 5)), "resize the prediction"),
        (np.ones((0, 4)), "at least one pixel"),
    ],
)
def test_bad_strengths(strength, match):
    with pytest.raises(ValueError, match=match):
        evaluate_map(strength, np.ones((4, 4)), [0.5], 0.1)


def test_one_nan_is_enough():
    strength = np.full((6, 6), 0.5)
    strength[3, 2] = np.nan
    for call in (lambda: evaluate_map(strength, strength > 0, [0.5], 0.1), lambda: nms(strength, radius=1)):
        with pytest.raises(ValueError, match="NaN"):
            call()


@pytest.mark.parametrize(
    "thresholds,distance,match",
    [
        ([], 0.1, "at least one"),
        ([0.5, 0.5], 0.1, "increasing"),
        ([0.6, 0.5], 0.1, "increasing"),
        ([0.5], 5.4, "share of the image diagonal"),
        ([0.5], -0.1, "share"),
        ([0.5], math.nan, "share"),
    ],
)
def test_bad_thresholds_and_distances(thresholds, distance, match):
    with pytest.raises(ValueError, match=match):
        evaluate_map(np.ones((4, 4)), np.ones((4, 4)), thresholds, distance)


# --- Suppression ------------------------------------------------------------------------------------------------------


def triangle(strength, radius):
    kernel = np.r_[1 : radius + 1, radius + 1 : 0 : -1] / (radius + 1) ** 2
    padded = np.pad(strength, radius, mode="symmetric")
    rows = np.apply_along_axis(np.convolve, 0, padded, kernel, mode="valid")
    return np.apply_along_axis(np.convolve, 1, rows, kernel, mode="valid")


def plain_nms(strength, *, radius, smoothing=0, levels=None):
    """From the definition, pixel by pixel, with the orientation as an angle."""
    if smoothing:
        strength = triangle(strength, smoothing)
    down, across = np.gradient(triangle(strength, 4))
    xx = np.gradient(across, axis=1)
    yy, xy = np.gradient(down)
    angle = np.mod(np.arctan(yy * np.sign(-xy) / (xx + 1e-5)), np.pi)
    height, width = strength.shape
    result = strength.copy()
    for y in range(height):
        for x in range(width):
            d = np.array([k for k in range(-radius, radius + 1) if k])
            line = [
                np.clip(y + d * np.sin(angle[y, x]), 0, height - 1),
                np.clip(x + d * np.cos(angle[y, x]), 0, width - 1),
            ]
            if 1.01 * strength[y, x] < map_coordinates(strength, line, order=1).max():
                result[y, x] = 0
    for k in range(5):
        result[[k, -1 - k]] *= k / 5
        result[:, [k, -1 - k]] *= k / 5
    return result if levels is None else np.floor(result * levels + 0.5) / levels


@pytest.mark.parametrize("options", [{"radius": 1}, {"radius": 4, "smoothing": 1, "levels": 255}])
@pytest.mark.parametrize("shape", [(40, 53), (33, 12)])
def test_nms_equals_the_definition(options, shape):
    for seed in range(3):
        strength = random_map(np.random.default_rng(seed), shape, "smooth")
        np.testing.assert_allclose(nms(strength, **options), plain_nms(strength, **options), atol=1e-12)


def test_nms_keeps_the_crest_of_a_blurred_line():
    y, x = np.mgrid[:41, :41]
    kept = nms(np.exp(-((x - y) ** 2) / 8), radius=4) > 0
    assert kept[8:-8, 8:-8].sum() == 25
    assert np.diagonal(kept)[8:-8].all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 9), (11, 11)])
@pytest.mark.parametrize("name", ["astmt", "fedhca2"])
def test_nms_of_tiny_maps(shape, name):
    result = PROTOCOLS[name].suppress(np.ones(shape))
    assert result.shape == shape
    # The damped border is at most half of the map; of two pixels, both are outermost.
    assert result.max() == (shape != (2, 2))
    if min(shape) >= 2:
        assert (result[0] == 0).all()


@pytest.mark.parametrize("options", [{"radius": 0}, {"radius": 1, "smoothing": -1}, {"radius": 1, "border": -1}])
def test_nms_bad_options(options):
    with pytest.raises(ValueError, match="radius is at least 1"):
        nms(np.ones((5, 5)), **options)


# --- Protocols and the meter ------------------------------------------------------------------------------------------


def batch(n=4, size=48):
    scenes = [scene(size, regions=8, seed=seed) for seed in range(n)]
    target = torch.tensor(np.stack([truth for truth, _ in scenes]).astype(np.uint8))
    return torch.tensor(np.stack([strength for _, strength in scenes])).float(), target


def test_protocols():
    assert list(PROTOCOLS) == ["mtl", "astmt", "fedhca2"]
    assert [len(p.thresholds) for p in PROTOCOLS.values()] == [99, 101, 99]
    assert [p.strict for p in PROTOCOLS.values()] == [False, True, False]
    assert [DOMAINS["nyud"].max_distance(name) for name in PROTOCOLS] == [0.0075, 0.011, 0.011]
    assert {DOMAINS["pascal"].max_distance(name) for name in PROTOCOLS} == {0.0075}
    assert PROTOCOLS["fedhca2"].thresholds[19] == 51 / 255  # 0.2 is an 8-bit strength: >= includes it


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("max_distance", [0.0075, 0.011])
def test_meter_equals_the_definition(name, max_distance):
    prediction, target = batch()
    edge_meter, protocol = EdgeMeter(name, max_distance), PROTOCOLS[name]
    edge_meter.update(prediction[:1], target[:1])
    edge_meter.update(prediction[1:], target[1:])
    strengths = prediction.double().numpy()
    counts = []
    for strength, true in zip(strengths, target.numpy() == 1):
        kept = protocol.suppress(strength) if protocol.suppress else strength
        counts.append(reference(kept, true, protocol.thresholds, max_distance, strict=protocol.strict))
    matched = sum(c.matched_T for c in counts)
    precision = matched / np.maximum(sum(c.predicted_T for c in counts), 1)
    recall = matched / sum(c.true for c in counts)
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    found = edge_meter.compute()
    assert found["odsF"] == pytest.approx(f.max(), abs=1e-12)
    own = [int(np.argmax(2 * c.matched_T / (c.predicted_T + c.true))) for c in counts]
    hits = sum(int(c.matched_T[t]) for c, t in zip(counts, own))
    all_pixels = sum(int(c.predicted_T[t]) + c.true for c, t in zip(counts, own))
    assert found["oisF"] == pytest.approx(2 * hits / all_pixels, abs=1e-12)
    best = int(f.argmax())
    assert found["ods_threshold"] == protocol.thresholds[best]
    assert (found["ods_precision"], found["ods_recall"]) == pytest.approx((precision[best], recall[best]), abs=1e-12)
    curve = edge_meter.curve()
    assert (curve.protocol, curve.best) == (name, best)
    np.testing.assert_allclose(curve.f_T, f, atol=1e-12)


def test_an_image_with_nothing_true_and_nothing_predicted_is_not_perfect():
    """SEISM gives it an F of 0, and pooling passes over it: it neither raises nor lowers OIS-F."""
    line = torch.zeros(1, 20, 20, dtype=torch.uint8)
    line[0, 10] = 1
    nothing = EdgeMeter("mtl")
    nothing.update(torch.zeros(1, 20, 20), torch.zeros(1, 20, 20, dtype=torch.uint8))
    assert (nothing.compute()["odsF"], nothing.compute()["oisF"]) == (0, 0)
    half = 0.9 * line.float()
    half[0, :, 10:] = 0
    both, alone = EdgeMeter("mtl"), EdgeMeter("mtl")
    both.update(torch.cat([half, torch.zeros(1, 20, 20)]), torch.cat([line, torch.zeros_like(line)]))
    alone.update(half, line)
    assert both.compute()["oisF"] == alone.compute()["oisF"] == pytest.approx(2 / 3)


def test_ois_pools_counts():
    """A small image that is right and a large one that is half right: pixels count, not images."""
    meter = EdgeMeter("mtl")
    small, large = torch.zeros(1, 20, 20, dtype=torch.uint8), torch.zeros(1, 20, 20, dtype=torch.uint8)
    small[0, 10, 8:12] = 1
    large[0, 10] = 1
    found = 0.9 * large.float()
    found[0, :, 10:] = 0
    meter.update(torch.cat([0.9 * small.float(), found]), torch.cat([small, large]))
    assert meter.compute()["oisF"] == pytest.approx(2 * (4 + 10) / (4 + 10 + 4 + 20))
    assert meter.compute()["oisF"] < (1 + 2 / 3) / 2


# --- truth ------------------------------------------------------------------------------------------------------------


def seism_boundaries(regions):
    """seg2bmap by its words: right, lower and lower-right neighbour; border cases; the corner never."""
    height, width = regions.shape
    result = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            here = regions[y, x]
            neighbours = []
            if x < width - 1:
                neighbours.append(regions[y, x + 1])
            if y < height - 1:
                neighbours.append(regions[y + 1, x])
            if x < width - 1 and y < height - 1:
                neighbours.append(regions[y + 1, x + 1])
            result[y, x] = any(other != here for other in neighbours)
    return result


@pytest.mark.parametrize("seed", range(4))
def test_truth_is_seisms(seed):
    """BSDS-like maps: smooth regions with straight and round boundaries, also along the borders."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:41, :57]
    regions = np.zeros((41, 57), int)
    for label in range(1, 7):
        cy, cx, r = generator.uniform(0, 41), generator.uniform(0, 57), generator.uniform(4, 22)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < r**2 if label % 2 else (y > cy) & (x > cx)
        regions[inside] = label
    expected = seism_boundaries(regions)
    np.testing.assert_array_equal(boundaries(regions), expected)
    np.testing.assert_array_equal(truth(regions), skimage_thin(expected))
    doubled = truth(skimage_thin(expected).astype(np.uint8))
    np.testing.assert_array_equal(doubled, skimage_thin(seism_boundaries(skimage_thin(expected))))


def test_truth_at_the_borders():
    last = np.zeros((4, 5), int)
    last[:, 4] = 1  # the last column differs: its own pixels have no right neighbour
    assert boundaries(last)[:, 3].all()
    assert not boundaries(last)[:, 4].any()
    corner = np.zeros((3, 3), int)
    corner[2, 2] = 1
    assert boundaries(corner).astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match="one map"):
        boundaries(np.zeros((2, 3, 4)))


def test_truth_is_not_the_training_label():
    y, x = np.mgrid[:64, :64]
    regions = (x > 31).astype(int) + 2 * (y > 20)
    assert (truth(regions) != laplacian_edges(regions)).any()


def test_perfect_prediction():
    target = thin(scene(64, regions=8)[0])
    edge_meter = EdgeMeter("mtl")
    edge_meter.update(torch.tensor(target[None]).float(), torch.tensor(target[None].astype(np.uint8)))
    assert edge_meter.compute()["odsF"] == edge_meter.compute()["oisF"] == 1


def test_threads_batches_and_order_change_nothing():
    prediction, target = batch(5)
    results = []
    threads = torch.get_num_threads()
    try:
        for count, order in ((1, [0, 1, 2, 3, 4]), (2, [3, 0, 4, 2, 1])):
            torch.set_num_threads(count)
            edge_meter = EdgeMeter()
            edge_meter.update(prediction[order], target[order])
            results.append(edge_meter.compute())
    finally:
        torch.set_num_threads(threads)
    assert results[0] == pytest.approx(results[1], abs=1e-12)


def test_ignored_pixels_are_neither_predicted_nor_true():
    prediction, target = batch(1)
    target[:, :, :20] = IGNORE
    edge_meter = EdgeMeter("mtl")
    edge_meter.update(prediction, target)
    cleared = EdgeMeter("mtl")
    prediction[..., :20] = 0
    cleared.update(prediction, target.where(target == 1, 0))
    assert edge_meter.compute() == cleared.compute()


def test_images_without_labels_do_not_count():
    prediction, target = batch(2)
    one, two = EdgeMeter(), EdgeMeter()
    one.update(prediction[:1], target[:1])
    target[1] = IGNORE
    two.update(prediction, target)
    assert one.compute() == two.compute()
    empty = EdgeMeter()
    empty.update(prediction[1:], target[1:])
    assert all(math.isnan(value) for value in empty.compute().values())
    with pytest.raises(ValueError, match="call update first"):
        empty.curve()


def test_half_precision_and_the_registered_meter():
    prediction, target = batch(2)
    edge_meter = pair("indoor/edge").meter(edge_protocol="astmt")
    edge_meter.update(prediction.bfloat16(), target)
    assert (edge_meter.protocol.name, edge_meter.max_distance) == ("astmt", 0.011)
    assert 0.3 < edge_meter.compute()["odsF"] <= 1


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda p, t: (p[:, None], t), "edges take probabilities"),
        (lambda p, t: (p, t[:, 1:]), r"Task.answer\(output, size\) makes them"),
        (lambda p, t: (p * math.nan, t), "NaN"),
        (lambda p, t: (p, t * 3), "binarise"),
    ],
)
def test_bad_batches(change, match):
    with pytest.raises(ValueError, match=match):
        EdgeMeter().update(*change(*batch(1)))


def test_bad_names():
    with pytest.raises(ValueError, match="choose from mtl, astmt, fedhca2"):
        EdgeMeter("seism")
    with pytest.raises(ValueError, match=r"max_distance=1.5: give a share of the image diagonal, in \[0, 1\)"):
        EdgeMeter(max_distance=1.5)


def test_a_protocol_of_one_s_own():
    truth, strength = scene(48, regions=8)
    coarse = replace(PROTOCOLS["mtl"], name="coarse", thresholds=(0.25, 0.75))
    counts = measure_map(strength, truth, coarse, 0.05)
    np.testing.assert_array_equal(counts.matched_T, evaluate_map(strength, truth, (0.25, 0.75), 0.05).matched_T)


def test_counts_add_up():
    one = Counts(np.array([1, 2]), np.array([2, 2]), 4)
    both = one + one
    assert (both.matched_T.tolist(), both.predicted_T.tolist(), both.true) == ([2, 4], [4, 4], 8)
    np.testing.assert_array_equal(both.precision_T, [0.5, 1])
    np.testing.assert_array_equal(both.recall_T, [0.25, 0.5])


# --- Plot and bench ---------------------------------------------------------------------------------------------------


def test_precision_recall_plot():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    from matfl.paper.plots import precision_recall

    edge_meter = EdgeMeter("mtl")
    edge_meter.update(*batch(1))
    ax = precision_recall(edge_meter.curve(), label="model", ax=Figure().subplots())
    guides = [line for line in ax.lines if line.get_gid()]
    precision_recall(edge_meter.curve(), ax=ax)
    assert len(ax.lines) == len(guides) + 4  # the lines of equal F are there once
    for line in guides:
        recall, precision = line.get_data()
        assert np.ptp(2 * precision * recall / (precision + recall)) < 1e-9
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0].startswith("model: ODS-F 0.")
    assert labels[0].endswith("(mtl)")


def test_bench(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("matfl.bench.edges.race.__kwdefaults__", {"seconds": 0, "repeats": 1, "device": "cpu"})
    assert bench(["sharp", "--loaded", "--size", "40", "--repeats", "1", "--json", str(tmp_path / "record.json")]) == 0
    assert "scipy's maximum flow" in capsys.readouterr().out
    assert (tmp_path / "record.json").exists()
    with pytest.raises(SystemExit):
        bench(["blunt"])
