"""The caption of every figure: what is drawn, of how many seeds, what bars and bands are, and what was run.

Functions are called as the plots that they belong to; each takes the runs or records that the figure is drawn from.
"""

from matfl.paper.studies.captions.basis import conditions, recorded, seeds
from matfl.paper.studies.captions.benchmark import (
    class_frequencies,
    cosine_matrix,
    gallery,
    neighbour_bars,
    precision_recall,
    transfer,
    update_tsne,
)
from matfl.paper.studies.captions.comparison import (
    bytes_to_quality,
    clients_per_task,
    contest,
    delta_over_rounds,
    k_sweep,
    learning_curves,
    methods,
    server,
    throughput,
)
from matfl.paper.studies.captions.grouping import (
    cosine_course,
    decisions,
    grouping_graph,
    helps,
    layers,
    rounds,
    step_components,
    votes,
    worked,
)
from matfl.paper.studies.captions.scale import attack_deltas, attack_table, crowds, packed_quality, private, sketches

__all__ = [
    "attack_deltas",
    "attack_table",
    "bytes_to_quality",
    "class_frequencies",
    "clients_per_task",
    "conditions",
    "contest",
    "cosine_course",
    "cosine_matrix",
    "crowds",
    "decisions",
    "delta_over_rounds",
    "gallery",
    "grouping_graph",
    "helps",
    "k_sweep",
    "layers",
    "learning_curves",
    "methods",
    "neighbour_bars",
    "packed_quality",
    "precision_recall",
    "private",
    "recorded",
    "rounds",
    "seeds",
    "server",
    "sketches",
    "step_components",
    "throughput",
    "transfer",
    "update_tsne",
    "votes",
    "worked",
]
