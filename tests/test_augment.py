"""The batched warp against a per-sample reference in scipy, and against what geometry says."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from matfl.data.augment import RULES, Warp, augment, draw, normalise, warp
from matfl.scenes import render
from matfl.tasks.task import IGNORE, pair, pairs

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NAMES = [p.name for p in pairs("scenes9")]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_vectors(rng, n, height, width):
    raw = rng.normal(size=(n, 3, height, width))
    raw = ndimage.gaussian_filter(raw, (0, 0, 2, 2))
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def batch(name, n=6, height=40, width=56, seed=0):
    rng = np.random.default_rng(seed)
    p = pair(name)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8))
    if p.task.name == "normals":
        vectors = smooth_vectors(rng, n, height, width)
        vectors[:, :, 5:15, 10:20] = 0
        return p, images, torch.from_numpy(vectors).half()
    if p.task.name == "depth":
        depth = rng.uniform(0.5, 9, (n, height, width))
        depth[:, 5:15, 10:20] = 0
        return p, images, torch.from_numpy(depth).half()
    labels = rng.integers(0, max(2, p.channels), (n, height, width), dtype=np.uint8)
    labels[:, 5:15, 10:20] = IGNORE
    return p, images, torch.from_numpy(labels)


def source_positions(shape, flip, angle, scale, aspect):
    """Where each output pixel (row, column) is read: pixels of the picture at its original aspect, one by one."""
    height, width = shape
    tall = aspect * width / height  # rows are this much longer than columns in the original picture
    rows, columns = np.zeros(shape), np.zeros(shape)
    for i in range(height):
        for j in range(width):
            right, up = j - (width - 1) / 2, -(i - (height - 1) / 2) * tall
            # The content at this place was carried here by a counter-clockwise turn and a zoom: undo both.
            back = complex(right, up) / (scale * complex(math.cos(angle), math.sin(angle)))
            x = -back.real if flip else back.real
            rows[i, j] = -back.imag / tall + (height - 1) / 2
            columns[i, j] = x + (width - 1) / 2
    return np.stack([rows, columns])


def reference(name, image, target, flip, angle, scale, aspect):
    """One sample, in float64; also the mask of pixels whose nearest neighbour does not hang on the last digit."""
    where = source_positions(image.shape[1:], flip, angle, scale, aspect)
    normal = (image / 255.0 - MEAN[:, None, None]) / STD[:, None, None]
    picture = np.stack([ndimage.map_coordinates(c, where, order=1, mode="grid-constant", cval=0) for c in normal])
    clear = (np.abs(where % 1 - 0.5) > 1e-3).all(0)
    task = name.split("/")[1]
    if task == "normals":
        blend = np.stack([ndimage.map_coordinates(c, where, order=1, mode="grid-constant", cval=0) for c in target])
        length = np.sqrt((blend**2).sum(0))
        x = -blend[0] if flip else blend[0]
        turned = (x - 1j * blend[1]) * complex(math.cos(angle), math.sin(angle))  # up is minus the second component
        kept = length > 0.5
        out = np.where(kept, np.stack([turned.real, -turned.imag, blend[2]]) / np.where(kept, length, 1), 0)
        return picture, out, np.abs(length - 0.5) > 1e-3
    fill = 0 if task == "depth" else IGNORE
    out = ndimage.map_coordinates(target, where, order=0, mode="grid-constant", cval=fill)
    return picture, out / scale if task == "depth" else out, clear


@pytest.mark.parametrize("aspect", [None, "per image"])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_per_sample_reference(name, aspect):
    p, images, target = batch(name)
    numbers = Warp(
        torch.tensor([0.0, 1, 0, 1, 0, 1]),
        torch.tensor([0.0, 0.0, 0.3, -0.2, 0.1, 0.35]),
        torch.tensor([1.0, 1.2, 0.75, 1.25, 1.5, 0.9]),
    )
    own = images.shape[2] / images.shape[3]
    aspects = [own] * 6 if aspect is None else [own, 0.75, 1.5, 1.0, 0.66, 1.33]
    pictures, warped = warp(images, target, p, numbers, aspect=None if aspect is None else torch.tensor(aspects))
    assert pictures.dtype == torch.float32
    assert warped.dtype == (torch.uint8 if p.task.ignore == IGNORE else torch.float32)
    assert warped.shape == target.shape
    for i in range(6):
        flip, angle, scale = (float(x[i]) for x in numbers)
        sample = target[i].float().numpy() if p.task.ignore == 0 else target[i].numpy()
        picture, label, clear = reference(name, images[i].numpy(), sample, flip, angle, scale, aspects[i])
        np.testing.assert_allclose(pictures[i], picture, atol=2e-3)
        got = warped[i].float().numpy()
        assert clear.mean() > 0.6
        np.testing.assert_allclose(got[..., clear], label[..., clear], atol=0 if p.task.ignore == IGNORE else 2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_identity_and_plain_flip(name):
    p, images, target = batch(name, n=2)
    ones, zeros = torch.ones(2), torch.zeros(2)
    pictures, same = warp(images, target, p, Warp(zeros, zeros, ones))
    torch.testing.assert_close(pictures, normalise(images), atol=1e-3, rtol=0)
    torch.testing.assert_close(same.float(), target.float(), atol=1e-3, rtol=0)
    pictures, mirrored = warp(images, target, p, Warp(ones, zeros, ones))
    expected = target.float().flip(-1)
    if name.endswith("normals"):
        expected[:, 0] *= -1
    torch.testing.assert_close(pictures, normalise(images.flip(-1)), atol=1e-3, rtol=0)
    torch.testing.assert_close(mirrored.float(), expected, atol=1e-3, rtol=0)


def test_a_quarter_turn_of_a_square():
    """Counter-clockwise by 90 degrees: what pointed right (and lay right) points up (and lies on top)."""
    p, images, target = batch("outdoor/semseg", n=1, height=32, width=32)
    quarter = Warp(torch.zeros(1), torch.tensor([math.pi / 2]), torch.ones(1))
    pictures, turned = warp(images, target, p, quarter)
    torch.testing.assert_close(turned, target.rot90(1, (1, 2)))
    torch.testing.assert_close(pictures, normalise(images.rot90(1, (2, 3))), atol=1e-3, rtol=0)
    right = torch.zeros(1, 3, 32, 32)
    right[:, 0] = 1
    up = torch.zeros(1, 3, 32, 32)
    up[:, 1] = -1
    torch.testing.assert_close(warp(images, right, pair("outdoor/normals"), quarter)[1], up, atol=1e-3, rtol=0)


def sphere_normals(radius, size=64):
    axis = (torch.arange(size) - (size - 1) / 2) / radius
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = x**2 + y**2 < 1
    z = (1 - x**2 - y**2).clamp(min=0).sqrt()
    return torch.stack([x, y, z]) * inside, (x**2 + y**2).sqrt()


@pytest.mark.parametrize("flip, angle, scale", [(0, 0.35, 1), (1, 0, 1), (1, -0.3, 0.8), (0, 0.2, 1.25)])
def test_a_sphere_looks_the_same_from_everywhere(flip, angle, scale):
    before, _ = sphere_normals(20)
    after, distance = sphere_normals(20 * scale)
    numbers = Warp(torch.tensor([float(flip)]), torch.tensor([angle]), torch.tensor([float(scale)]))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    got = warp(images, before[None], pair("outdoor/normals"), numbers)[1][0]
    inner = distance < 0.8
    assert (got - after)[:, inner].abs().max() < 0.03
    assert got[:, distance > 1.1].abs().max() == 0


def test_rendered_normals_have_the_handedness_that_is_turned():
    """The floor faces up, so y points down the picture; a wall on the left faces right, so x points right."""
    indoor = render("indoor", "val", range(24), size=32)
    assert indoor["normals"][:, 1][indoor["semseg"] == 1].mean() < -0.5
    walls = (indoor["semseg"] == 0) & (indoor["normals"][:, 2] < 0.5)
    left, right = walls.clone(), walls.clone()
    left[..., 8:], right[..., :-8] = False, False
    assert indoor["normals"][:, 0][left].mean() > 0.3
    assert indoor["normals"][:, 0][right].mean() < -0.3


def test_normals_come_back_as_unit_vectors_or_ignore():
    p, images, target = batch("outdoor/normals", n=32, height=32, width=32)
    _, warped = augment(images, target, p, generator=generator())
    length = warped.norm(dim=1)
    labelled = length != 0
    assert 0.3 < labelled.float().mean() < 1
    torch.testing.assert_close(length[labelled], torch.ones_like(length[labelled]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith("human_parts")])
def test_what_enters_from_outside_is_ignore_and_mean_colour(name):
    p, _, target = batch(name, n=1, height=32, width=32)
    target = torch.ones_like(target)
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    pictures, warped = warp(images, target, p, Warp(torch.zeros(1), torch.zeros(1), torch.full((1,), 0.5)))
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[8:24, 8:24] = False
    assert (warped[..., frame] == p.task.ignore).all()
    assert (warped[..., ~frame] != p.task.ignore).all()
    frame[7:25, 7:25] = False  # the image blends over half a pixel
    assert (pictures[..., frame] == 0).all()


def test_depth_is_divided_by_the_scale():
    p = pair("indoor/depth")
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    scales = torch.tensor([1.0, 1.2, 1.5])
    _, depth = warp(images, torch.full((3, 32, 32), 3.0).half(), p, Warp(torch.zeros(3), torch.zeros(3), scales))
    torch.testing.assert_close(depth.amax((1, 2)), 3 / scales)
    torch.testing.assert_close(depth.amin((1, 2)), 3 / scales)


def test_images_without_a_person_are_ignored_as_a_whole():
    p = pair("outdoor/human_parts")
    target = torch.zeros(3, 32, 32, dtype=torch.uint8)
    target[1, 16, 16] = 4
    target[2, :, :5] = IGNORE
    identity = Warp(torch.zeros(3), torch.zeros(3), torch.ones(3))
    _, warped = warp(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), target, p, identity)
    assert (warped[0] == IGNORE).all()
    torch.testing.assert_close(warped[1], target[1])
    assert (warped[2] == IGNORE).all()


def test_the_rules_draw_from_their_ranges():
    numbers = draw("pascal", 20000, generator=generator())
    degrees = numbers.angle_B * 180 / math.pi
    assert -20 <= degrees.min() < -19.9
    assert 19.9 < degrees.max() <= 20
    assert 0.75 <= numbers.scale_B.min() < 0.751
    assert 1.249 < numbers.scale_B.max() <= 1.25
    assert abs(degrees.mean()) < 0.3
    assert abs(numbers.scale_B.mean() - 1) < 0.005
    assert abs(numbers.flip_B.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(torch.stack(list(numbers)).numpy())[np.triu_indices(3, 1)]).max() < 0.03
    numbers = draw("nyud", 20000, generator=generator())
    assert not numbers.angle_B.any()
    values, counts = numbers.scale_B.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([1.0, 1.2, 1.5]))
    assert (counts / 20000 - 1 / 3).abs().max() < 0.02
    numbers = draw("fixed_camera", 20000, generator=generator())
    degrees = numbers.angle_B * 180 / math.pi
    assert -10 <= degrees.min() < -9.9
    assert 9.9 < degrees.max() <= 10
    assert (numbers.scale_B == 1).all()
    assert set(RULES) == {"pascal", "nyud", "fixed_camera"}


def test_rendered_rooms_keep_their_depths():
    """One camera: a zoom would make every training label nearer than any validation label (by 13 % on average)."""
    target = torch.full((64, 24, 24), 3.0, dtype=torch.float16)
    images = torch.zeros(64, 3, 24, 24, dtype=torch.uint8)
    _, warped = augment(images, target, pair("indoor/depth"), generator=generator())
    assert set(warped.unique().tolist()) <= {0.0, 3.0}
    assert (warped == 3).float().mean() > 0.9
    _, zoomed = augment(images, target, pair("nyud/depth"), generator=generator())
    assert zoomed[zoomed > 0].mean() == pytest.approx(3 * (1 + 1 / 1.2 + 1 / 1.5) / 3, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_random_numbers_come_from_the_generator_alone(name):
    p, images, target = batch(name, n=4)
    original, label = images.clone(), target.clone()
    first = augment(images, target, p, generator=generator(3))
    torch.manual_seed(12345)
    again = augment(images, target, p, generator=generator(3))
    other = augment(images, target, p, generator=generator(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, original)
    assert torch.equal(target, label)
    numbers = draw(p.domain.augmentation, 4, generator=generator(3))
    single = [warp(images[i : i + 1], target[i : i + 1], p, Warp(*(x[i : i + 1] for x in numbers))) for i in range(4)]
    torch.testing.assert_close(torch.cat([s[0] for s in single]), first[0])
    torch.testing.assert_close(torch.cat([s[1] for s in single]), first[1])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_on_the_device_is_waited_for(name):
    """Tensors on the meta device have no values: reading one on the host, as a synchronisation does, raises."""
    p, images, target = batch(name, n=2)
    pictures, warped = augment(images.to("meta"), target.to("meta"), p, generator=generator())
    assert pictures.device.type == warped.device.type == "meta"
    assert warped.shape == target.shape


def test_normalise_is_the_mean_and_deviation_of_imagenet():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = (images[0].numpy() / 255 - MEAN[:, None, None]) / STD[:, None, None]
    np.testing.assert_allclose(normalise(images)[0], expected, atol=1e-5)
