"""Meters against independent implementations: scikit-learn and plain numpy, image by image and pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from matfl.tasks.meters import delta_m
from matfl.tasks.task import IGNORE, TASKS, pair, pairs

NAMES = [p.name for p in pairs("scenes9") if p.task.name != "edge"]
HEIGHT, WIDTH = 18, 23


class FromOutput:
    """A pair's meter that takes the network's output, through the task's one path to answers."""

    def __init__(self, p, **options):
        self.task, self.meter = p.task, p.meter(**options)

    def update(self, output, target):
        self.meter.update(self.task.answer(output), target)

    def __getattr__(self, name):
        return getattr(self.meter, name)


meter = FromOutput


def random_batch(name, n, seed=0, height=HEIGHT, width=WIDTH):
    """Predictions that know something of the target, which has ignore regions and, for classes, absent classes."""
    rng = np.random.default_rng(seed)
    p = pair(name)
    prediction = rng.normal(size=(n, p.channels, height, width))
    if p.task.name in ("semseg", "human_parts"):
        present = [c for c in range(p.channels) if c not in (2, p.channels - 1)]
        target = rng.choice(present, size=(n, height, width)).astype(np.uint8)
        prediction += 1.5 * (np.arange(p.channels)[None, :, None, None] == target[:, None])
        prediction[:, p.channels - 1] = -9  # this class is neither labelled nor predicted
        target[rng.random(target.shape) < 0.2] = IGNORE
        if p.task.name == "human_parts":
            target[1::3] = np.where(target[1::3] == IGNORE, IGNORE, 0)  # every third image has no person
    elif p.task.name == "sal":
        target = rng.integers(0, 2, (n, height, width), dtype=np.uint8)
        prediction += 2 * target[:, None] - 0.5
        target[rng.random(target.shape) < 0.2] = IGNORE
        if n > 3:
            target[1][target[1] == 1] = 0  # nothing salient
            prediction[2] = -9  # nothing found
            target[3], prediction[3] = 0, -9  # neither
    elif p.task.name == "normals":
        target = rng.normal(size=(n, 3, height, width))
        target /= np.linalg.norm(target, axis=1, keepdims=True)
        prediction = target + 0.5 * prediction
        target = np.where(rng.random((n, 1, height, width)) < 0.2, 0, target).astype(np.float16)
    else:
        target = rng.uniform(0.4, 9, (n, height, width))
        prediction = target[:, None] + 0.6 * prediction  # some are negative
        target = np.where(rng.random(target.shape) < 0.2, 0, target).astype(np.float16)
    return p, torch.from_numpy(prediction).float(), torch.from_numpy(target)


def class_iou(prediction, target, classes, *, people_only):
    truth, found = [], []
    for scores, labels in zip(prediction.numpy(), target.numpy()):
        if people_only and not np.isin(labels, range(1, classes)).any():
            continue
        truth += [labels[labels != IGNORE]]
        found += [scores.argmax(0)[labels != IGNORE]]
    return jaccard_score(
        np.concatenate(truth), np.concatenate(found), labels=range(classes), average=None, zero_division=0
    )


def reference_classes(prediction, target, classes, people_only=False):
    return {"mIoU": class_iou(prediction, target, classes, people_only=people_only).sum() / classes}


def reference_sal(prediction, target):
    rows = []
    for logits, labels in zip(prediction[:, 0].numpy(), target.numpy()):
        probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
        y = labels[labels != IGNORE] == 1
        if not y.size:
            continue
        for t in np.linspace(0.2, 0.9, 15):
            x = probability[labels != IGNORE] > t
            both_empty = not x.any() and not y.any()
            rows.append(
                [
                    1.0 if both_empty else jaccard_score(y, x, zero_division=0),
                    precision_score(y, x, zero_division=0),
                    recall_score(y, x, zero_division=0),
                ]
            )
    iou, precision, recall = np.array(rows).reshape(-1, 15, 3).mean(0).T
    f = [2 * p * r / (p + r) if p + r else 0 for p, r in zip(precision, recall)]
    return {"mIoU": iou.max(), "maxF": max(f)}


def reference_normals(prediction, target):
    angles = []
    for x, y in zip(prediction.double().numpy(), target.double().numpy()):
        for i, j in np.ndindex(y.shape[1:]):
            if y[:, i, j].any():
                cosine = x[:, i, j] @ y[:, i, j] / np.linalg.norm(x[:, i, j]) / np.linalg.norm(y[:, i, j])
                angles.append(math.degrees(math.acos(min(1, max(-1, cosine)))))
    a = np.array(angles)
    return {
        "mean": a.mean(),
        "median": np.median(a),
        "rmse": np.sqrt((a**2).mean()),
        **{str(t): (a < t).mean() for t in (11.25, 22.5, 30)},
    }


def reference_depth(prediction, target):
    x, y = prediction[:, 0].double().numpy(), target.double().numpy()
    x, y = x[y != 0], y[y != 0]
    x = np.where(x <= 0, 1e-9, x)
    return {"rmse": np.sqrt(((x - y) ** 2).mean()), "log_rmse": np.sqrt(((np.log(x) - np.log(y)) ** 2).mean())}


def reference(p, prediction, target):
    name = p.task.name
    if name in ("semseg", "human_parts"):
        return reference_classes(prediction, target, p.channels, people_only=name == "human_parts")
    return {"sal": reference_sal, "normals": reference_normals, "depth": reference_depth}[name](prediction, target)


def close(got, expected):
    assert set(got) == set(expected)
    for key, value in expected.items():
        assert isinstance(got[key], float)
        assert got[key] == pytest.approx(value, rel=2e-5, abs=0.01 if key == "median" else 2e-6), key


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_an_independent_implementation(name, n):
    p, prediction, target = random_batch(name, n)
    m = meter(p)
    m.update(prediction, target)
    close(m.compute(), reference(p, prediction, target))


@pytest.mark.parametrize("sizes", [[1] * 9, [4, 5], [8, 1]])
@pytest.mark.parametrize("name", NAMES)
def test_any_split_into_batches_gives_the_same(name, sizes):
    p, prediction, target = random_batch(name, 9)
    whole, streamed = meter(p), meter(p)
    whole.update(prediction, target)
    for x, y in zip(prediction.split(sizes), target.split(sizes)):
        streamed.update(x, y)
    # Vector instructions round a pixel differently in the body and in the tail of a row.
    assert streamed.compute() == pytest.approx(whole.compute(), rel=1e-8)
    assert streamed.compute() == streamed.compute()


@pytest.mark.parametrize("name", NAMES)
def test_images_of_different_sizes(name):
    parts = [random_batch(name, 2, seed=s, height=h, width=w) for s, (h, w) in enumerate([(9, 14), (30, 8), (1, 1)])]
    m = meter(parts[0][0])
    for _, prediction, target in parts:
        m.update(prediction, target)
    p = parts[0][0]
    if name.endswith("sal"):
        rows = [reference(p, x, y) for _, x, y in parts]
        assert 0 < m.compute()["mIoU"] <= max(r["mIoU"] for r in rows)
        return
    flat = [
        (x.flatten(2).transpose(0, 1).flatten(1), y.flatten(1) if y.ndim == 3 else y.flatten(2)) for _, x, y in parts
    ]
    if name.endswith("human_parts"):
        parts = [(q, x[:1], y[:1]) for q, x, y in parts]  # the second images have no person and are skipped
        flat = [(x.flatten(2).transpose(0, 1).flatten(1), y.flatten(1)) for _, x, y in parts]
    prediction = torch.cat([x for x, _ in flat], 1)[None, :, None]
    if name.endswith("normals"):
        target = torch.cat([y.transpose(0, 1).flatten(1) for _, y in flat], 1)[None, :, None]
    else:
        target = torch.cat([y.flatten() for _, y in flat])[None, None]
    close(m.compute(), reference(p, prediction, target))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_target_changes_nothing(name):
    p, prediction, target = random_batch(name, 4)
    plain, padded, empty = meter(p), meter(p), meter(p)
    plain.update(prediction, target)
    nothing = torch.full_like(target, p.task.ignore)
    for m in (padded, empty):
        m.update(prediction, nothing)
    padded.update(prediction, target)
    assert padded.compute() == plain.compute()
    assert all(math.isnan(value) for value in empty.compute().values())
    assert set(empty.compute()) == set(plain.compute())


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction(name):
    p, _, target = random_batch(name, 6)
    task = p.task.name
    m = meter(p)
    if task in ("semseg", "human_parts"):
        prediction = (torch.arange(p.channels).view(1, -1, 1, 1) == target[:, None]).float()
        m.update(prediction, target)
        assert m.compute()["mIoU"] == pytest.approx((p.channels - 2) / p.channels)  # two classes never occur
        assert m.iou()[0] == 1
    elif task == "sal":
        m.update(torch.where(target == 1, 9.0, -9.0)[:, None], target)
        assert m.compute()["mIoU"] == 1
        # Precision and recall are 0 by convention in the two images without anything salient.
        assert m.compute()["maxF"] == pytest.approx(4 / 6)
    elif task == "normals":
        m.update(target.float() * 3, target)
        assert m.compute() == pytest.approx(
            {"mean": 0, "median": 0.005, "rmse": 0, "11.25": 1, "22.5": 1, "30": 1}, abs=0.006
        )
        assert m.compute()["rmse"] < 1e-4
        m = meter(p)
        m.update(-target, target)
        assert m.compute()["mean"] == pytest.approx(180)
    else:
        m.update(target[:, None], target)
        assert m.compute() == {"rmse": 0, "log_rmse": 0}


def test_known_angles():
    m = meter(pair("outdoor/normals"))
    degrees = torch.tensor([0.0, 10, 20, 25, 40, 90])
    radians = degrees.deg2rad()
    prediction = torch.stack([radians.sin(), torch.zeros(6), radians.cos()]).view(1, 3, 1, 6) * 7
    target = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 1, 6)
    m.update(prediction, target)
    expected = {
        "mean": 185 / 6,
        "median": 22.5,
        "rmse": math.sqrt(degrees.square().mean()),
        "11.25": 2 / 6,
        "22.5": 3 / 6,
        "30": 4 / 6,
    }
    assert m.compute() == pytest.approx(expected, abs=0.006)
    m.update(torch.zeros(1, 3, 1, 1), target[..., :1])  # a zero prediction has no direction: 90 degrees
    assert m.compute()["mean"] == pytest.approx((185 + 90) / 7)


def test_small_angles_are_not_lost():
    """acos in float32 gives 0 or 0.03 degrees and nothing between."""
    m = meter(pair("outdoor/normals"))
    tilt = math.radians(0.004)
    prediction = torch.tensor([math.sin(tilt), 0, math.cos(tilt)]).view(1, 3, 1, 1)
    m.update(prediction, torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1))
    assert m.compute()["mean"] == pytest.approx(0.004, rel=1e-3)


@pytest.mark.parametrize(
    "salient, other, expected",
    [
        (0.52, 0.5, 1),  # 0.5 itself is not above the threshold 0.5
        (0.93, 0.88, 1),  # the highest threshold is 0.9
        (0.22, 0.18, 1),  # the lowest is 0.2
        (0.18, 0.12, 0),
        (0.97, 0.92, 2 / 3),
    ],
)
def test_saliency_thresholds(salient, other, expected):
    m = meter(pair("outdoor/sal"))
    logits = torch.tensor([salient, salient, other, 0.99]).logit().view(1, 1, 1, 4)
    m.update(logits, torch.tensor([[[1, 1, 0, IGNORE]]], dtype=torch.uint8))
    assert m.compute()["mIoU"] == pytest.approx(expected)


def test_saliency_where_there_is_nothing():
    m = meter(pair("outdoor/sal"))
    m.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 4, dtype=torch.uint8))
    assert m.compute() == {"mIoU": 1, "maxF": 0}  # from threshold 0.5 on nothing is found, and there is nothing


def test_people_only():
    p = pair("outdoor/human_parts")
    m = meter(p)
    prediction = torch.zeros(2, 7, 1, 4)
    prediction[:, 3] = 1
    target = torch.tensor([[[0, 0, 0, 0]], [[3, 3, 0, 255]]], dtype=torch.uint8)
    m.update(prediction, target)
    assert m.iou().tolist() == pytest.approx([0, 0, 0, 2 / 3, 0, 0, 0])


def test_class_counts_are_exact_and_readable():
    p, prediction, target = random_batch("indoor/semseg", 5)
    m = meter(p)
    m.update(prediction, target)
    labelled = target.numpy() != IGNORE
    expected = confusion_matrix(target.numpy()[labelled], prediction.argmax(1).numpy()[labelled], labels=range(13))
    np.testing.assert_array_equal(m.confusion(), expected)
    assert m.confusion().dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_of_any_precision(name, dtype):
    p, prediction, target = random_batch(name, 3)
    rounded, plain = meter(p), meter(p)
    rounded.update(prediction.to(dtype), target)
    plain.update(prediction.to(dtype).float(), target)
    assert rounded.compute() == plain.compute()


@pytest.mark.parametrize("where", ["labelled", "ignored"])
@pytest.mark.parametrize("name", NAMES)
def test_nan_predictions_are_refused(name, where):
    p, prediction, target = random_batch(name, 3)
    ignored = target == p.task.ignore if target.ndim == 3 else (target == 0).all(1)
    i, y, x = torch.nonzero(ignored == (where == "ignored"))[0]
    prediction[i, :, y, x] = math.nan
    m = meter(p)
    m.update(prediction, target)
    with pytest.raises(ValueError, match="1 predicted pixels are NaN: training has diverged"):
        m.compute()


@pytest.mark.parametrize(
    "name, value", [("outdoor/semseg", 13), ("outdoor/human_parts", 9), ("outdoor/sal", 2), ("indoor/depth", -1.0)]
)
def test_illegal_labels_are_refused(name, value):
    p, prediction, target = random_batch(name, 3)
    target[0, 3, 4:6] = value
    m = meter(p)
    m.update(prediction, target)
    with pytest.raises(ValueError, match="2 target pixels are neither"):
        m.compute()


@pytest.mark.parametrize("name", ["outdoor/normals", "indoor/depth"])
def test_nan_labels_are_refused(name):
    p, prediction, target = random_batch(name, 3)
    target[0, ..., 3, 4] = math.nan
    m = meter(p)
    m.update(prediction, target)
    with pytest.raises(ValueError, match="1 target pixels are neither"):
        m.compute()


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_are_refused(name):
    p, prediction, target = random_batch(name, 3)
    answer = p.task.answer(prediction)
    for x in (prediction, answer[..., 1:], answer[:2], answer[0]):
        if x.shape != answer.shape:  # directions have the output's shape
            with pytest.raises(ValueError, match=r"Task.answer\(output, size\) makes answers"):
                p.meter().update(x, target)
    with pytest.raises(ValueError, match="seen no image"):
        meter(p).compute()


@pytest.mark.parametrize("name", NAMES)
def test_update_waits_for_no_device(name):
    """Tensors on the meta device have no values: reading one on the host, as a synchronisation does, raises."""
    p, prediction, target = random_batch(name, 3)
    m = meter(p)
    for _ in range(2):
        m.update(prediction.to("meta"), target.to("meta"))


@pytest.mark.parametrize("name", ["outdoor/semseg", "outdoor/sal"])
def test_the_histogram_of_other_devices_counts_the_same(name, monkeypatch):
    p, prediction, target = random_batch(name, 3)
    plain, forced = meter(p), meter(p)
    plain.update(prediction, target)

    def unavailable(*_, **__):
        raise AssertionError

    monkeypatch.setattr("matfl.tasks.meters._on_cpu", lambda _: False)
    monkeypatch.setattr(torch, "bincount", unavailable)
    forced.update(prediction, target)
    assert forced.compute() == plain.compute()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_the_same_on_a_gpu(name):
    p, prediction, target = random_batch(name, 5)
    here, there = meter(p), meter(p)
    here.update(prediction, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.update(prediction.to("cuda", non_blocking=True), target.to("cuda", non_blocking=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert there.compute() == pytest.approx(here.compute(), rel=1e-5, abs=0.01)


def test_every_task_has_a_meter_and_a_main_metric():
    for name in NAMES:
        p, prediction, target = random_batch(name, 2)
        m = meter(p)
        m.update(prediction, target)
        assert p.task.main_metric in m.compute()


def test_edges_are_measured_by_the_named_protocol_and_the_domain_s_tolerance():
    strict = meter(pair("outdoor/edge"), edge_protocol="astmt")
    assert (strict.protocol.name, strict.max_distance) == ("astmt", 0.0075)
    assert meter(pair("nyud/edge")).max_distance == 0.011
    with pytest.raises(ValueError, match="edge protocol 'seism': choose from mtl, astmt, fedhca2"):
        meter(pair("outdoor/edge"), edge_protocol="seism")


def test_answers_at_another_size_go_by_the_task():
    size = (40, 30)
    output = torch.randn(2, 13, 10, 6, generator=torch.Generator().manual_seed(0))
    classes = TASKS["semseg"].answer(output, size)
    rows, columns = torch.arange(40) * 10 // 40, torch.arange(30) * 6 // 30
    assert torch.equal(classes.long(), output.argmax(1)[:, rows][:, :, columns])

    logits = torch.tensor([[[[-4.0, 2.0]]]])
    got = TASKS["sal"].answer(logits, (1, 4)).flatten()
    low, high = logits.sigmoid().flatten().tolist()
    torch.testing.assert_close(got, torch.tensor([low, 0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high, high]))

    vectors = torch.tensor([[5.0, 0], [0, 1], [0, 0]]).view(1, 3, 1, 2)
    got = TASKS["normals"].answer(vectors, (1, 4))[0, :, 0]
    between = torch.nn.functional.normalize(torch.tensor([0.75, 0.25]), dim=0)
    torch.testing.assert_close(got[0], torch.tensor([1, *between, 0]))
    torch.testing.assert_close(got[1], torch.tensor([0, *between.flip(0), 1]))

    depth = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(TASKS["depth"].answer(depth, (1, 4)).flatten(), torch.tensor([1, 1.5, 2.5, 3]))


@pytest.mark.parametrize("name", [p.name for p in pairs("scenes9")])
def test_answers_keep_extremes_and_constants(name):
    p = pair(name)
    output = torch.full((1, p.channels, 5, 4), 2.0)
    assert torch.equal(p.task.answer(output, (5, 4)), p.task.answer(output))
    extreme = torch.tensor([-200.0, 200.0, -math.inf, math.inf]).view(1, 1, 2, 2).expand(1, p.channels, 2, 2)
    if p.task.name in ("sal", "edge"):
        assert p.task.answer(extreme, (2, 4))[0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])
    constant = p.task.answer(output, (9, 11))
    vector = (3,) if p.task.target_channels else ()
    assert constant.shape == (1, *vector, 9, 11)
    expected = {"normals": 3**-0.5, "depth": 2, "semseg": 0, "human_parts": 0}.get(p.task.name, 1 / (1 + math.exp(-2)))
    torch.testing.assert_close(constant, torch.full_like(constant, expected))


def test_delta_m():
    base = {"outdoor/semseg": 0.4, "outdoor/normals": 20.0, "indoor/depth": 0.5}
    assert delta_m(base, base) == 0
    better = {"outdoor/semseg": 0.44, "outdoor/normals": 18.0, "indoor/depth": 0.45}
    assert delta_m(better, base) == pytest.approx(10)
    assert delta_m({**base, "outdoor/normals": 26.0}, base) == pytest.approx(-10)
    assert math.isnan(delta_m({**base, "indoor/depth": math.nan}, base))
    assert math.isnan(delta_m(base, {**base, "outdoor/semseg": 0.0}))
    with pytest.raises(ValueError, match="the same pairs"):
        delta_m({"outdoor/semseg": 0.4}, base)
    with pytest.raises(ValueError, match="the same pairs"):
        delta_m({}, {})
    with pytest.raises(ValueError, match=r"unknown .* pair 'semseg'"):
        delta_m({"semseg": 0.4}, {"semseg": 0.4})


def test_f1_is_the_field_s_for_one_image():
    """With one image the maximal F over thresholds is scikit-learn's F1 at the best of them."""
    p, prediction, target = random_batch("outdoor/sal", 1)
    m = meter(p)
    m.update(prediction, target)
    y = target[target != IGNORE].numpy()
    probability = prediction[:, 0][target != IGNORE].sigmoid().numpy()
    assert m.compute()["maxF"] == pytest.approx(max(f1_score(y, probability > t) for t in np.linspace(0.2, 0.9, 15)))
