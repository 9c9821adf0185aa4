"""The renderer against an independent per-ray oracle, closed forms, its own invariants and bad input."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from matfl import scenes
from matfl.scenes import indoor, labels, outdoor, tracing
from matfl.scenes.draws import Draws, stream_keys
from matfl.scenes.layout import look_at
from matfl.scenes.parts import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, Parts, Primitives, material, vector
from matfl.scenes.scene import Scenes, pack
from matfl.scenes.shadows import shadowed
from matfl.tasks.task import DOMAINS

CPU = torch.device("cpu")
BUILDERS = {"outdoor": outdoor.build, "indoor": indoor.build}
KINDS = {
    "outdoor": ("semseg", "human_parts", "sal", "normals", "edge"),
    "indoor": ("semseg", "normals", "edge", "depth"),
}


@cache
def batch(domain: str, count: int = 96, seed: int = 0) -> dict[str, torch.Tensor]:
    return scenes.render(domain, "train", range(count), seed=seed, size=48, regions=True)


# --- an independent oracle: float64, one primitive at a time in world coordinates, quadratic formulas


def enter(primitives: Primitives, k: int, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Distance (in lengths of the rays (N, 3)) at which rays from origin (3,) or (N, 3) enter primitive k, else inf."""
    axes, half, kind = primitives.frame[k], primitives.half[k], primitives.kind[k]
    o = (origin - primitives.centre[k]) @ axes.T + np.zeros_like(rays)
    d = rays @ axes.T

    def roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            t = (-b - np.sqrt(b * b - a * c)) / a
        return np.where(t > 0, t, np.inf)

    def ball(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        p, v = (o - centre) / radii, d / radii
        return roots((v * v).sum(1), (p * v).sum(1), (p * p).sum(1) - 1)

    def tube(radius: float, top: float) -> np.ndarray:
        p, v = o[:, [0, 2]], d[:, [0, 2]]
        t = roots((v * v).sum(1), (p * v).sum(1), (p * p).sum(1) - radius**2)
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(o[:, 1] + t * d[:, 1]) <= top, t, np.inf)

    def faces(kept) -> np.ndarray:
        best = np.full(len(d), np.inf)
        for axis in range(3):
            for side in (-1, 1):
                with np.errstate(divide="ignore", invalid="ignore"):
                    t = (side * half[axis] - o[:, axis]) / d[:, axis]
                    good = (t > 0) & (np.sign(d[:, axis]) == -side) & kept(o + t[:, None] * d, axis)
                best = np.where(good, np.minimum(best, t), best)
        return best

    if kind == ELLIPSOID:
        return ball(np.zeros(3), half)
    if kind == BOX:
        return faces(lambda p, axis: (np.abs(np.delete(p, axis, 1)) <= np.delete(half, axis)).all(1))
    if kind == CYLINDER:
        lids = faces(lambda p, axis: (axis == 1) & (p[:, 0] ** 2 + p[:, 2] ** 2 <= half[0] ** 2))
        return np.minimum(tube(half[0], half[1]), lids)
    radius, top = half[0], primitives.length[k] * half[0]
    ends = [ball(np.array([0, side * top, 0]), np.full(3, radius)) for side in (-1, 1)]
    return np.minimum(tube(radius, top), np.minimum(*ends))


def pixel_rays(scene: Scenes, size: int) -> np.ndarray:
    step = (np.arange(size) * 2 + 1 - size) / size * scene.tangent[0]
    x, y = np.meshgrid(step, -step)
    right, up, forward = scene.basis[0]
    return (x[..., None] * right + y[..., None] * up + forward).reshape(-1, 3)


def oracle(scene: Scenes, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, identity and hit point of every pixel of one scene."""
    rays = pixel_rays(scene, size)
    best, name = np.full(len(rays), np.inf), np.zeros(len(rays), np.int64)
    for k in range(len(scene.primitives)):
        t = enter(scene.primitives, k, scene.position[0], rays)
        name = np.where(t < best, scene.primitives.instance[k], name)
        best = np.minimum(best, t)
    for face, (axis, wall) in enumerate(
        ((1, scene.low), (1, scene.high), (0, scene.low), (0, scene.high), (2, scene.low), (2, scene.high))
    ):
        with np.errstate(divide="ignore"):
            t = (wall[0, axis] - scene.position[0, axis]) / rays[:, axis]
        t = np.where((t > 0) & (np.abs(wall[0, axis]) < 1e8), t, np.inf)
        name = np.where(t < best, scene.shell.instance[face], name)
        best = np.minimum(best, t)
    best = np.where(best > 1e5, np.inf, best)
    return (
        best,
        np.where(np.isfinite(best), name, 0),
        scene.position[0] + np.where(np.isfinite(best), best, 0)[:, None] * rays,
    )


@pytest.mark.parametrize("domain", BUILDERS)
def test_depth_identity_and_shadows_agree_with_a_ray_by_ray_oracle(domain):
    size = 40
    built = BUILDERS[domain](stream_keys(11, np.arange(6)))
    for k in range(len(built)):
        scene = built.part(k, k + 1)
        table, tiles = pack(scene, size, CPU)
        hits = tracing.primary(scene, table, tiles, size)
        depth, name, point = oracle(scene, size)
        got_name = labels.raster(torch.where(hits.sky, 0, table.instance[hits.row]), size).view(-1).numpy()
        got_depth = labels.raster(hits.depth, size).view(-1).double().numpy()
        assert (got_name != name).mean() < 0.004
        same = (got_name == name) & np.isfinite(depth)
        assert (np.isfinite(got_depth) == np.isfinite(depth)).mean() > 0.998
        assert (np.abs(got_depth[same] - depth[same]) > 1e-3 * depth[same]).mean() < 0.004

        normal = np.stack([labels.raster(n, size).view(-1).double().numpy() for n in hits.normal], 1)
        toward = scene.light[0] - point
        lit = np.isfinite(depth) & (depth < 59) & ((toward * normal).sum(1) > 0.02 * np.sqrt((toward**2).sum(1)))
        start = point + (0.003 + 0.002 * np.minimum(depth, 60))[:, None] * normal
        start[~lit] = 1e7
        dark = np.zeros(len(depth), bool)
        for k2 in range(len(scene.primitives)):
            dark |= enter(scene.primitives, k2, start, scene.light[0] - start) < 1
        got = shadowed(scene, table, hits, torch.ones_like(hits.sky) & ~hits.sky)
        got = labels.raster(got, size).view(-1).numpy()
        assert (got != dark)[lit & (got_name == name)].mean() < 0.01
        assert lit.any()


# --- closed forms


def ball_and_ground(*, radius: float = 1.0, distance: float = 5.0) -> Scenes:
    """A ball straight ahead of a level camera at height 2, over the ground."""
    scene = outdoor.build(stream_keys(3)).part(0, 1)
    parts = Parts(Draws(stream_keys(4)))
    parts.ellipsoid(vector(0, 2, distance), vector(radius, radius, radius), material(Draws(stream_keys(5))))
    ball = parts.place(
        image=np.zeros(1, int), position=np.zeros((1, 3)), yaw=0.0, scale=1.0, instance=np.ones(1, int), label=1
    )
    position, ahead = np.array([[0.0, 2.0, 0.0]]), np.array([[0.0, 2.0, 1.0]])
    return replace(
        scene, primitives=ball, position=position, basis=look_at(position, ahead, np.zeros(1)), tangent=np.array([0.5])
    )


def test_ball_and_ground_in_closed_form():
    size = 33  # odd: the middle pixel looks straight ahead
    scene = ball_and_ground()
    table, tiles = pack(scene, size, CPU)
    hits = tracing.primary(scene, table, tiles, size)
    depth = labels.raster(hits.depth, size)[0]
    normal = torch.stack([labels.raster(n, size)[0] for n in hits.normal])
    middle = size // 2
    assert depth[middle, middle].item() == pytest.approx(4.0, abs=1e-5)
    assert normal[:, middle, middle].tolist() == pytest.approx([0, 0, -1], abs=1e-5)
    # Ground: y = 0 under a camera at height 2; the lowest row looks down by (size - 1) / size of the half view.
    assert depth[-1, 0].item() == pytest.approx(2 / (0.5 * (size - 1) / size), rel=1e-5)
    assert normal[:, -1, 0].tolist() == [0, 1, 0]
    assert torch.isinf(depth[0, 0])
    assert not normal[:, 0, 0].any()
    # The silhouette of a ball of radius 1 at distance 5: half angle asin(1/5), that is tan = 1 / sqrt(24).
    name = labels.raster(torch.where(hits.sky, 0, table.instance[hits.row]), size)[0]
    width = (name[middle] == 1).sum().item()
    assert width == pytest.approx(size / 0.5 / 24**0.5, abs=1.01)


@pytest.mark.parametrize(
    "kind, origin, expected",
    [
        (ELLIPSOID, (0.0, 0.0, -5.0), 4.0),
        (BOX, (0.5, -0.5, -5.0), 4.0),
        (BOX, (1.5, 0.0, -5.0), np.inf),
        (CYLINDER, (0.0, 0.9, -5.0), 4.0),
        (CYLINDER, (0.0, 1.1, -5.0), np.inf),
        (CAPSULE, (0.0, 1.9, -5.0), 4.0),
        (CAPSULE, (0.0, 2.6, -5.0), 4.2),
        (CAPSULE, (0.0, 3.01, -5.0), np.inf),
        (ELLIPSOID, (0.0, 0.0, 5.0), np.inf),
        (BOX, (0.0, 0.0, 0.0), np.inf),
    ],
)
def test_unit_primitives_along_z(kind, origin, expected):
    # The capsule has half length 2: its ball at y = 2 is entered at y = 2.6 where z = -0.8.
    start = tuple(torch.tensor([c]) for c in origin)
    ray = tuple(torch.tensor([c]) for c in (1e-9, 1e-9, 1.0))
    t = tracing.intersect(kind, start, ray, torch.tensor([2.0]))
    assert t.item() == pytest.approx(expected, rel=1e-5)


def test_small_far_ball_keeps_its_digits():
    # b^2 - ac in float32 would lose the ball: 1 against 4e8.
    t = tracing.intersect(
        ELLIPSOID,
        tuple(torch.tensor([c]) for c in (0.0, 0.6, -20000.0)),
        tuple(torch.tensor([c]) for c in (0.0, 0.0, 1.0)),
        torch.zeros(1),
    )
    assert t.item() == pytest.approx(20000 - 0.8, abs=2e-3)


def test_planes_are_no_primitives_to_intersect():
    axis = (torch.ones(1),) * 3
    with pytest.raises(ValueError, match="shell of a scene"):
        tracing.intersect(PLANE, axis, axis, torch.ones(1))


# --- invariants of the pictures


@pytest.mark.parametrize("domain", BUILDERS)
def test_shapes_types_and_ranges(domain):
    result = scenes.render(domain, "val", [5, 0, 9], seed=2, size=24)
    assert set(result) == {"image", *KINDS[domain]} == {"image", *DOMAINS[domain].channels}
    for name, value in result.items():
        assert value.is_contiguous()
        assert value.shape == ((3, 3, 24, 24) if name in ("image", "normals") else (3, 24, 24))
        assert value.dtype == (torch.float32 if name in ("normals", "depth") else torch.uint8)
    assert len(scenes.CLASS_NAMES[domain]) == DOMAINS[domain].channels["semseg"]
    everything = batch(domain)
    assert set(everything["semseg"].unique().tolist()) == set(range(13))
    assert set(everything["edge"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("domain", BUILDERS)
def test_normals_are_unit_or_zero_and_face_the_camera(domain):
    normals = batch(domain)["normals"]
    length = normals.norm(dim=1)
    none = length == 0
    assert torch.allclose(length[~none], torch.ones(()), atol=1e-5)
    if domain == "indoor":
        assert not none.any()
    else:
        assert torch.equal(none, batch(domain)["regions"] == scenes.REGION_IDS[0])
    # Looking along -z through pixel (x, y): a visible surface's normal makes an acute angle with the way back.
    tangent = BUILDERS[domain](stream_keys(0, list(BUILDERS).index(domain), 0, np.arange(96))).tangent
    step = torch.from_numpy((np.arange(48) * 2 + 1 - 48) / 48 * tangent[:, None]).float()
    cosine = -normals[:, 0] * step[:, None, :] - normals[:, 1] * step[:, :, None] + normals[:, 2]
    assert (cosine[~none] > -1e-3).float().mean() > 0.9999


def test_floor_and_ceiling_normals_point_up_and_down_the_picture():
    indoor_batch = batch("indoor")
    up = -indoor_batch["normals"][:, 1]
    assert up[indoor_batch["semseg"] == 1].mean() > 0.5
    assert up[indoor_batch["semseg"] == 2].mean() < -0.5


def test_depth_is_metres_in_a_room():
    depth = batch("indoor")["depth"]
    assert depth.min() > 0.05
    assert depth.max() < 12
    assert 1.5 < depth.mean() < 5


def test_body_parts_only_on_people_and_all_of_them():
    outside = batch("outdoor")
    person, parts = outside["semseg"] == 1, outside["human_parts"]
    assert torch.equal(person, parts > 0)
    assert set(parts.unique().tolist()) == set(range(7))
    present = person.flatten(1).any(1)
    assert 0.65 < present.float().mean() < 0.95
    assert person.float().mean((1, 2))[present].mean() > 0.08


def test_one_dominant_object_and_never_scenery():
    outside = batch("outdoor")
    salient = outside["sal"].bool()
    assert set(outside["sal"].unique().tolist()) <= {0, 1}
    assert salient.flatten(1).any(1).float().mean() > 0.95
    for mask, regions, classes in zip(salient, outside["regions"], outside["semseg"]):
        assert len(regions[mask].unique()) <= 1
        if mask.any():
            assert (regions[mask][0] == regions).sum() == mask.sum()
            assert scenes.CLASS_NAMES["outdoor"][classes[mask][0]] not in ("background", "tree", "house", "lamp")


def test_saliency_rule():
    instance = torch.zeros(4, 16, 16, dtype=torch.uint8)
    instance[0, 6:10, 6:10], instance[0, 0:4, 0:4] = 1, 2  # equal areas: the central one
    instance[1, 8:10, 7:9], instance[1, 2:7, 4:12] = 1, 2  # the greater one
    instance[2, 8:9, 7:8] = 1  # too small
    instance[3, 6:10, 0:4], instance[3, 6:10, 12:16] = 2, 1  # a tie: the lower identity
    mask = labels.saliency(instance, (instance > 0).to(torch.uint8))
    assert torch.equal(mask[0], (instance[0] == 1).to(torch.uint8))
    assert torch.equal(mask[1], (instance[1] == 2).to(torch.uint8))
    assert not mask[2].any()
    assert torch.equal(mask[3], (instance[3] == 1).to(torch.uint8))


@pytest.mark.parametrize("domain", BUILDERS)
def test_edges_are_the_thinned_laplacian_of_the_regions(domain):
    result = batch(domain)
    for regions, edge in zip(result["regions"][:24].numpy(), result["edge"][:24].numpy().astype(bool)):
        wide = ndimage.laplace(regions.astype(np.float64), mode="mirror") != 0
        assert (edge <= wide).all()
        # Thinning keeps the topology: as many connected lines (and enclosed regions) as before.
        assert ndimage.label(edge, np.ones((3, 3)))[1] == ndimage.label(wide, np.ones((3, 3)))[1]
        assert edge.sum() < 0.75 * wide.sum()
    assert 0.02 < result["edge"].float().mean() < 0.2


def test_thinning_of_simple_shapes():
    mask = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[0, 5:7, 1:11] = True  # a bar two pixels high
    mask[1, 3:9, 3:9] = True
    mask[1, 5:7, 5:7] = False  # a ring
    bar, ring = labels.thin(mask)
    assert bar.sum(0).max() == 1
    assert bar.sum() >= 8
    assert ndimage.label(~ring.numpy())[1] == 2
    assert torch.equal(labels.thin(torch.stack([bar, ring])), torch.stack([bar, ring]))


# --- determinism


@pytest.mark.parametrize("domain", BUILDERS)
def test_batch_order_and_size_do_not_matter(domain):
    whole = scenes.render(domain, "train", range(40, 64), size=32, regions=True)
    order = [7, 0, 7, 23, 11]
    some = scenes.render(domain, "train", [40 + k for k in order], size=32, regions=True)
    alone = [scenes.render(domain, "train", torch.tensor([40 + k]), size=32, regions=True) for k in order]
    for name, value in whole.items():
        assert torch.equal(value[order], some[name])
        assert torch.equal(some[name], torch.cat([one[name] for one in alone]))


def test_parts_of_a_large_batch_are_the_small_batches(monkeypatch):
    whole = scenes.render("outdoor", "val", range(12), size=16)
    monkeypatch.setattr(scenes, "_CPU_LIMITS", (5, 2 * 16 * 16))
    cut = scenes.render("outdoor", "val", range(12), size=16)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_seed_domain_split_and_index_each_change_the_picture():
    cases = [
        ("outdoor", "train", 1, 0),
        ("outdoor", "train", 1, 1),
        ("outdoor", "val", 1, 0),
        ("outdoor", "train", 0, 0),
        ("indoor", "train", 1, 0),
    ]
    first, *others = (
        scenes.render(domain, split, [k], size=32, seed=seed)["image"] for domain, split, k, seed in cases
    )
    assert all((first != other).float().mean() > 0.5 for other in others)


def test_splits_share_no_stream():
    keys = [
        stream_keys(seed, domain, split, np.arange(20000)) for seed in (0, 1) for domain in range(3) for split in (0, 1)
    ]
    assert len(np.unique(np.concatenate(keys))) == 12 * 20000


def test_draws_do_not_depend_on_their_batch():
    keys = stream_keys(1, np.arange(9))
    together, alone = Draws(keys), Draws(keys[4:5])
    for _ in range(3):
        assert np.array_equal(together.uniform(-1, 2, 2, 3)[4:5], alone.uniform(-1, 2, 2, 3))
    assert np.array_equal(together.child(3, np.array([4, 4])).uniform(), alone.child(3, np.array([0, 0])).uniform())
    sample = Draws(stream_keys(2, np.arange(4000))).uniform(0, 1, 4)
    assert abs(sample.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(sample.T) - np.eye(4)).max() < 0.06
    shares = np.bincount(Draws(stream_keys(3, np.arange(8000))).choice([1, 0, 3]), minlength=3) / 8000
    assert shares == pytest.approx([0.25, 0, 0.75], abs=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("domain", BUILDERS)
def test_every_device_renders_the_same(domain):
    here = scenes.render(domain, "train", range(32), size=64)
    there = scenes.render(domain, "train", range(32), size=64, device="cuda")
    for name, value in here.items():
        assert there[name].is_cuda
        difference = (value.double() - there[name].cpu().double()).abs()
        tolerance = 2 if name == "image" else 1e-3 if value.is_floating_point() else 0
        assert (difference > tolerance).float().mean() < 1e-3


# --- objects


def test_objects_are_of_every_class_and_deterministic():
    images, classes = scenes.render_objects(range(120), size=24)
    assert images.shape == (120, 3, 24, 24)
    assert images.dtype == torch.uint8
    assert classes.dtype == torch.int64
    assert set(classes.tolist()) == set(range(scenes.OBJECT_CLASSES))
    assert scenes.OBJECT_CLASSES == 16 == len(scenes.CLASS_NAMES["objects"])
    again, same = scenes.render_objects([77, 3], size=24)
    assert torch.equal(images[[77, 3]], again)
    assert torch.equal(classes[[77, 3]], same)
    assert not torch.equal(scenes.render_objects([3], size=24, seed=1)[0], again[1:])


# --- bad input


@pytest.mark.parametrize(
    "change, message",
    [
        ({"domain": "pascal"}, "choose from outdoor, indoor"),
        ({"split": "test"}, "choose from train, val"),
        ({"size": 15}, "at least 16"),
        ({"size": 64.0}, "at least 16"),
        ({"seed": -1}, "from 0 to"),
        ({"indices": [0, -1]}, "integers >= 0"),
        ({"indices": [0.5]}, "integers >= 0"),
        ({"indices": []}, "at least one"),
        ({"indices": [[0]]}, "flat sequence"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(change, message):
    given = {"domain": "outdoor", "split": "train", "indices": [0], "seed": 0, "size": 16, **change}
    with pytest.raises(ValueError, match=message):
        scenes.render(given.pop("domain"), given.pop("split"), given.pop("indices"), **given)
    if {"indices", "size", "seed"} & set(change):
        with pytest.raises(ValueError, match=message):
            scenes.render_objects(**{"indices": [0], **change})
