"""The package's own domains: PASCAL-Context and NYUD (paper, section 4.1), their embedded stand-ins, and photographs
that anyone can have.

The embedded domains count only the classes that they render. Of NYUv2's 40 classes the last, which is also everything
unlabelled, is ignored: no pixel has it, so it counts 0 in a mean over classes.
"""

from matfl.tasks.task import DOMAINS, Domain

__all__: list[str] = []

NYUD_TOLERANCE = {"mtl": 0.0075, "astmt": 0.011, "fedhca2": 0.011}
"""Greatest distance of a matched edge pixel, by protocol: two of the three are laxer on NYUD's thicker labels."""

NYUV2_CLASSES = (
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves, "
    "curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refrigerator, television, paper, towel, "
    "shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, other structure, "
    "other furniture, other prop"
)
GARMENTS = (
    "background, skin, hair, top, outerwear, dress, trousers, skirt and shorts, legwear, footwear, bag, accessories"
)
GARMENT_PARTS = "background, head, bare skin, upper body, lower body, whole body, feet"

with DOMAINS.filling():
    for _domain in (
        Domain(
            name="outdoor",
            title="outdoor scenes",
            reader="rendered",
            augmentation="pascal",
            channels={"semseg": 13, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1},
        ),
        Domain(
            name="indoor",
            title="indoor scenes",
            reader="rendered",
            augmentation="fixed_camera",
            edge_tolerance=NYUD_TOLERANCE,
            indoor=True,
            channels={"semseg": 13, "normals": 3, "edge": 1, "depth": 1},
        ),
        Domain(
            name="pascal",
            title="PASCAL-Context",
            reader="pascal",
            augmentation="pascal",
            size=(512, 512),
            channels={"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1},
        ),
        Domain(
            name="nyud",
            title="NYUD",
            reader="nyud",
            augmentation="nyud",
            size=(480, 640),
            edge_tolerance=NYUD_TOLERANCE,
            indoor=True,
            channels={"semseg": 40, "normals": 3, "edge": 1, "depth": 1},
        ),
        Domain(
            name="nyuv2",
            title="NYUv2",
            reader="nyuv2",
            augmentation="nyud",
            size=(480, 640),
            edge_tolerance=NYUD_TOLERANCE,
            indoor=True,
            channels={"semseg": 40, "normals": 3, "edge": 1, "depth": 1},
            derived=("normals", "edge"),
            class_names={"semseg": tuple(NYUV2_CLASSES.split(", "))},
        ),
        Domain(
            name="people",
            title="people",
            reader="people",
            augmentation="pascal",
            size=(512, 352),
            channels={"semseg": 12, "human_parts": 7, "sal": 1, "edge": 1},
            derived=("edge",),
            class_names={"semseg": tuple(GARMENTS.split(", ")), "human_parts": tuple(GARMENT_PARTS.split(", "))},
        ),
    ):
        DOMAINS.register(_domain)
