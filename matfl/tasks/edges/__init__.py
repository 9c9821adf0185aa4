"""Edge detection measured exactly: non-maximum suppression, thinning, one-to-one matching, ODS-F and OIS-F.

nms.py       the strength map is thinned across each edge
thinning.py  Guo-Hall thinning of a binary map
matching.py  maximum matching of predicted to true edge pixels at every threshold
truth.py     what predictions are measured against
meter.py     the published protocols, precision-recall curves, the streaming meter
"""

from .matching import Counts, evaluate_map
from .meter import PROTOCOLS, Curve, EdgeMeter, Protocol, measure_map
from .nms import nms
from .thinning import thin
from .truth import boundaries, truth

__all__ = [
    "PROTOCOLS",
    "Counts",
    "Curve",
    "EdgeMeter",
    "Protocol",
    "boundaries",
    "evaluate_map",
    "measure_map",
    "nms",
    "thin",
    "truth",
]
