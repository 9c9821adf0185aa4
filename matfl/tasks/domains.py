"""The package's own domains: PASCAL-Context and NYUD (paper, section 4.1), and their embedded stand-ins.

The embedded domains count only the classes that they render.
"""

from matfl.tasks.task import DOMAINS, Domain

__all__: list[str] = []

NYUD_TOLERANCE = {"mtl": 0.0075, "astmt": 0.011, "fedhca2": 0.011}
"""Greatest distance of a matched edge pixel, by protocol: two of the three are laxer on NYUD's thicker labels."""

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
            augmentation="nyud",
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
    ):
        DOMAINS.register(_domain)
