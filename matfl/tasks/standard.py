"""The six tasks of PASCAL-Context and NYUD (paper, section 4.1), registered.

Colours are Okabe and Ito's, which people with any colour vision tell apart.
"""

from matfl.tasks.kinds import BinaryMap, ClassMap, Depth, Directions, EdgeMap
from matfl.tasks.task import TASKS

__all__: list[str] = []

with TASKS.filling():
    for _task in (
        ClassMap(name="semseg", title="Seg.", color="#0072B2", loss_weight=1),
        ClassMap(name="human_parts", title="H.Parts", color="#D55E00", loss_weight=2, foreground="a person"),
        BinaryMap(name="sal", title="Sal.", color="#E69F00", loss_weight=5),
        Directions(name="normals", title="Norm.", color="#009E73", loss_weight=10),
        EdgeMap(name="edge", title="Edge", color="#CC79A7", loss_weight=50),
        Depth(name="depth", title="Depth", color="#56B4E9", loss_weight=1),
    ):
        TASKS.register(_task)
