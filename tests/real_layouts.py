"""Tiny data sets in the field's layouts, written and read by code that knows nothing of `matfl.data`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.io import loadmat, savemat
from skimage.morphology import thin

PART_GROUPS = {
    1: ["hair", "head", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "mouth", "nose"],
    2: ["neck", "torso"],
    3: ["luarm", "ruarm"],
    4: ["llarm", "rlarm", "lhand", "rhand"],
    5: ["luleg", "ruleg"],
    6: ["llleg", "rlleg", "lfoot", "rfoot"],
}


def struct(**fields: object) -> np.ndarray:
    """A 1x1 MATLAB struct."""
    value = np.zeros((1, 1), dtype=[(name, object) for name in fields])
    for name, field in fields.items():
        value[name][0, 0] = field
    return value


def anno(things: list[tuple[int, np.ndarray, list[tuple[str, np.ndarray]]]]) -> np.ndarray:
    """PASCAL-Part's annotation of objects (category, mask, parts (name, mask))."""
    rows = []
    for category, mask, parts in things:
        listed = [struct(part_name=name, mask=part) for name, part in parts]
        rows.append(
            struct(
                **{
                    "class": "thing",
                    "class_ind": float(category),
                    "mask": mask,
                    "parts": np.concatenate(listed, 1) if listed else np.zeros((0, 0)),
                }
            )
        )
    return struct(imname="x", objects=np.concatenate(rows, 1) if rows else np.zeros((0, 0)))


def save(path: Path, values: object) -> None:
    """Write a picture, an array or a MATLAB file, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".mat":
        savemat(path, values)
    else:
        Image.fromarray(values).save(path, quality=95) if path.suffix == ".jpg" else Image.fromarray(values).save(path)


def write_pascal(root: Path, sizes: list[tuple[int, int]], *, split: str = "train", people: bool = True) -> list[str]:
    """Images of the given (height, width) with random labels; even ones lie in semseg/VOC12, odd in pascal-context."""
    rng = np.random.default_rng(len(sizes))
    ids = [f"{2008 if split == 'train' else 2009}_{i:06d}" for i in range(len(sizes))]
    for i, (name, (h, w)) in enumerate(zip(ids, sizes)):
        save(root / f"JPEGImages/{name}.jpg", smooth(rng, h, w))
        semseg = blocks(rng, h, w, [*range(21), 255])
        save(root / f"semseg/{'pascal-context' if i % 2 else 'VOC12'}/{name}.png", semseg)
        save(root / f"pascal-context/trainval/{name}.mat", {"LabelMap": blocks(rng, h, w, range(1, 460), np.uint16)})
        save(root / f"normals_distill/{name}.png", np.round(255 * (vectors(rng, h, w) + 1) / 2).astype(np.uint8))
        save(root / f"sal_distill/{name}.png", rng.integers(0, 256, (h, w), dtype=np.uint8))
        body = np.zeros((h, w), np.uint8)
        body[h // 4 :, w // 4 : w // 2] = 1
        top = body * (np.arange(h) < h // 2)[:, None].astype(np.uint8)
        things = [(2, body, []), (15, body, []), (7, body, [("lwheel", body)])]
        if people and i != 1:
            things.append((15, body, [("torso", body), ("reye", top), ("lfoot", body * (1 - top))]))
        save(root / f"human_parts/{name}.mat", {"anno": anno(things)})
    list_ids(root / f"ImageSets/Context/{split}.txt", ids)
    return ids


def write_nyud(root: Path, sizes: list[tuple[int, int]], *, split: str = "train", fedhca2: bool = False) -> list[str]:
    """The NYUD layout, or FedHCA2's variant of it with png images, edges and normals."""
    rng = np.random.default_rng(len(sizes) + 100)
    ids = [f"{i:04d}" for i in range(1 if split == "train" else 501, len(sizes) + (1 if split == "train" else 501))]
    for name, (h, w) in zip(ids, sizes):
        save(root / f"images/{name}.{'png' if fedhca2 else 'jpg'}", smooth(rng, h, w))
        save(root / f"segmentation/{name}.png", blocks(rng, h, w, range(41)))
        depth = rng.uniform(0.5, 9, (h, w)).astype(np.float32)
        depth[0, :3] = 0
        save(root / f"depth/{name}.npy", depth)
        edge = rng.random((h, w)) < 0.1
        normals = vectors(rng, h, w).astype(np.float32)
        if fedhca2:
            save(root / f"edge/{name}.png", edge.astype(np.uint8) * 255)
            save(root / f"normals/{name}.png", np.round(255 * (normals + 1) / 2).astype(np.uint8))
        else:
            normals[-1, :2] = 0
            save(root / f"edge/{name}.npy", edge.astype(np.float64))
            save(root / f"normals/{name}.npy", normals)
    list_ids(root / f"gt_sets/{split}.txt", ids)
    return ids


def list_ids(path: Path, ids: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(ids) + "\n")


def smooth(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.random((h, w, 3)), (4, 4, 0))
    return np.uint8(255 * (noise - noise.min()) / np.ptp(noise))


def blocks(rng: np.random.Generator, h: int, w: int, values: object, dtype: type = np.uint8) -> np.ndarray:
    """Rectangles of random values."""
    coarse = rng.choice(np.array(list(values)), (-(-h // 9), -(-w // 7)))
    return np.kron(coarse, np.ones((9, 7), int))[:h, :w].astype(dtype)


def vectors(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    raw = ndimage.gaussian_filter(rng.normal(size=(h, w, 3)), (3, 3, 0))
    return raw / np.linalg.norm(raw, axis=2, keepdims=True)


def read_pascal(root: Path, name: str, valid_normals: set[int]) -> dict[str, np.ndarray]:
    """Everything about one image, after the specification of the layout and nothing else."""
    voc = root / f"semseg/VOC12/{name}.png"
    labels = loadmat(root / f"pascal-context/trainval/{name}.mat")["LabelMap"]
    parts = np.zeros(labels.shape, int)
    objects = loadmat(root / f"human_parts/{name}.mat")["anno"][0][0][1]
    for thing in objects[0] if objects.size else []:
        if thing[1][0][0] == 15 and thing[3].size:
            for part in thing[3][0]:
                group = [g for g, names in PART_GROUPS.items() if part[0][0] in names]
                parts[part[1] > 0] = group[0]
    normals = np.array(Image.open(root / f"normals_distill/{name}.png"), float) * 2 / 255 - 1
    normals[~np.isin(labels, sorted(valid_normals))] = 0
    return {
        "image": np.array(Image.open(root / f"JPEGImages/{name}.jpg")),
        "semseg": np.array(Image.open(voc if voc.exists() else root / f"semseg/pascal-context/{name}.png")),
        "human_parts": parts,
        "sal": np.array(Image.open(root / f"sal_distill/{name}.png")) / 255 > 0.5,
        "edge": thin(ndimage.laplace(labels.astype(float), mode="mirror") != 0),
        "normals": unit(normals),
    }


def read_nyud(root: Path, name: str) -> dict[str, np.ndarray]:
    """As `read_pascal`, for both variants of NYUD."""
    image = next((root / "images").glob(f"{name}.*"))
    semseg = np.array(Image.open(root / f"segmentation/{name}.png")).astype(int)
    if (root / f"normals/{name}.npy").exists():
        edge, normals = np.load(root / f"edge/{name}.npy"), np.load(root / f"normals/{name}.npy")
    else:
        edge = np.array(Image.open(root / f"edge/{name}.png")) / 255
        normals = np.array(Image.open(root / f"normals/{name}.png"), float) * 2 / 255 - 1
    return {
        "image": np.array(Image.open(image)),
        "semseg": np.where(semseg == 0, 255, semseg - 1),
        "edge": edge >= 0.5,
        "normals": unit(normals),
        "depth": np.load(root / f"depth/{name}.npy"),
    }


def unit(normals: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0).transpose(2, 0, 1)
