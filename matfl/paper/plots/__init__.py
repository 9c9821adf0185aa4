"""Axes-level figures: each takes a tidy frame or array and draws on one axes; nothing trains, saves or shows.

>>> import matfl
>>> ax = matfl.plots.choice_matrix(matfl.choices(matfl.run("smoke", method="matfl")))
>>> type(ax).__name__
'Axes'
"""

from matfl.core.extras import require
from matfl.paper.names import pair_title, set_title
from matfl.paper.plots.algorithm import arrows, decisions, numbers
from matfl.paper.plots.benchmark import class_frequencies, class_key, gallery, transfer
from matfl.paper.plots.comparison import (
    clients_per_task,
    k_sweep,
    layers_sweep,
    learning_curves,
    methods,
    paper_clients,
)
from matfl.paper.plots.contest import contest
from matfl.paper.plots.cost import bytes_to_quality, memory, server_step, throughput
from matfl.paper.plots.edges import precision_recall
from matfl.paper.plots.grouping import (
    choice_matrix,
    graph_legend,
    grouping_correctness,
    grouping_graph,
    layer_agreement,
    vote_scale,
    votes,
    weight_shares,
)
from matfl.paper.plots.marks import limits
from matfl.paper.plots.predictions import predictions
from matfl.paper.plots.scale import (
    attack_deltas,
    attack_table,
    crowd_bytes,
    crowd_seconds,
    epsilon_curve,
    packed_quality,
    sketch_error,
    sketch_kept,
)
from matfl.paper.plots.style import (
    METHOD_COLORS,
    SMALLEST,
    WIDTHS,
    figure,
    legend_below,
    legend_under,
    save,
    shared_legend,
    task_legend,
)
from matfl.paper.plots.updates import cosine_matrix, label_clusters, neighbour_bars, update_tsne
from matfl.paper.plots.why import cosine_course, delta_over_rounds, step_components

for _package in ("matplotlib", "seaborn", "networkx"):
    require(_package, extra="paper", what="drawing (matfl.plots)")

__all__ = [
    "METHOD_COLORS",
    "SMALLEST",
    "WIDTHS",
    "arrows",
    "attack_deltas",
    "attack_table",
    "bytes_to_quality",
    "choice_matrix",
    "class_frequencies",
    "class_key",
    "clients_per_task",
    "contest",
    "cosine_course",
    "cosine_matrix",
    "crowd_bytes",
    "crowd_seconds",
    "decisions",
    "delta_over_rounds",
    "epsilon_curve",
    "figure",
    "gallery",
    "graph_legend",
    "grouping_correctness",
    "grouping_graph",
    "k_sweep",
    "label_clusters",
    "layer_agreement",
    "layers_sweep",
    "learning_curves",
    "legend_below",
    "legend_under",
    "limits",
    "memory",
    "methods",
    "neighbour_bars",
    "numbers",
    "packed_quality",
    "pair_title",
    "paper_clients",
    "precision_recall",
    "predictions",
    "save",
    "server_step",
    "set_title",
    "shared_legend",
    "sketch_error",
    "sketch_kept",
    "step_components",
    "task_legend",
    "throughput",
    "transfer",
    "update_tsne",
    "vote_scale",
    "votes",
    "weight_shares",
]
