"""What the paper claims, place by place, and which of the notebooks' claims judges it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matfl.paper.claims import Claim

__all__ = ["PAPER_CLAIMS", "PaperClaim", "not_computed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperClaim:
    """One statement of the paper."""

    place: str
    """Table or figure, and section."""
    words: str
    """What the paper says, shortened."""
    numbers: str = ""
    """Its numbers for it."""
    study: str
    """The notebook that judges it."""
    judged_as: str
    """The end of that notebook's claims (`Claim.text`) about it; a task set may stand before it."""

    def fits(self, text: str) -> bool:
        """Whether the claim of a notebook with this text is about it."""
        return text == self.judged_as or text.endswith(f": {self.judged_as}")


_TABLE1, _TABLE2 = "Table 1 (section 4.2)", "Table 2 (section 4.3)"

PAPER_CLAIMS = (
    PaperClaim(
        place="Figure 2 (section 3.3)",
        words="Updates are well clustered by tasks.",
        numbers="90 models, t-SNE",
        study="01_update_tsne",
        judged_as="Updates cluster by task.",
    ),
    PaperClaim(
        place="Figure 2 (section 3.3)",
        words="The task makes the difference more than the domain.",
        study="01_update_tsne",
        judged_as="A task's updates are more like those of its type on the other data set than like those of other "
        "tasks on its own.",
    ),
    PaperClaim(
        place="Figure 2 (section 3.3)",
        words="Pascal's segmentation is more like NYUD's than like Pascal's other tasks.",
        study="01_update_tsne",
        judged_as="Each domain's segmentation updates are closer to the other domain's segmentation than to any other "
        "task of their own.",
    ),
    PaperClaim(
        place="Figure 2 (section 3.3)",
        words="Each task has friends and enemies.",
        study="01_update_tsne",
        judged_as="Every task has friends and enemies: other tasks whose direction is like its own, and others whose "
        "direction is unlike it.",
    ),
    PaperClaim(
        place=_TABLE1,
        words="Plain many-task FL gains over single-task FL by unifying more data.",
        numbers="Seg. +.0282, Sal. +.0019 (5 tasks); +.0258, +.0095 (9)",
        study="02_methods",
        judged_as="Plain many-task FL beats single-task FL.",
    ),
    PaperClaim(
        place=_TABLE1,
        words="FedProx barely brings a gain.",
        numbers="Seg. +.0014, Sal. +.0023 over plain (5); -.0096, +.0031 (9)",
        study="02_methods",
        judged_as="FedProx gains less than a point over plain many-task FL.",
    ),
    PaperClaim(
        place=_TABLE1,
        words="MaT-FL improves on single-task FL.",
        numbers="Seg. +.0313, Sal. +.0155 (5); +.0489, +.0195 (9)",
        study="02_methods",
        judged_as="MaT-FL beats single-task FL.",
    ),
    PaperClaim(
        place=_TABLE1,
        words="MaT-FL is better than plain many-task FL.",
        numbers="Seg. +.0031, Sal. +.0136 (5); +.0231, +.0100 (9)",
        study="02_methods",
        judged_as="MaT-FL beats plain many-task FL.",
    ),
    PaperClaim(
        place=_TABLE1,
        words="MaT-FL is better than FedProx.",
        numbers="Seg. +.0017, Sal. +.0113 (5); +.0327, +.0069 (9)",
        study="02_methods",
        judged_as="MaT-FL beats FedProx.",
    ),
    PaperClaim(
        place=_TABLE2,
        words="MaT-FL is better than single-task FL at either scale.",
        numbers="Seg. +.0149 (1 client a task), +.0313 (2)",
        study="03_clients_per_task",
        judged_as="MaT-FL beats single-task FL at the paper's numbers of clients per task (1 and 2).",
    ),
    PaperClaim(
        place=_TABLE2,
        words="MaT-FL is better than plain many-task FL at either scale.",
        numbers="Seg. +.0307 (1), +.0031 (2)",
        study="03_clients_per_task",
        judged_as="MaT-FL beats plain many-task FL at the paper's numbers of clients per task (1 and 2).",
    ),
    PaperClaim(
        place=_TABLE2,
        words="MaT-FL is better than FedProx at either scale.",
        numbers="Seg. +.0013 (1), +.0017 (2)",
        study="03_clients_per_task",
        judged_as="MaT-FL beats FedProx at the paper's numbers of clients per task (1 and 2).",
    ),
    PaperClaim(
        place=_TABLE2,
        words="Scores drop when more clients hold less data each.",
        numbers="Seg. .3045 (1) to .2762 (2)",
        study="03_clients_per_task",
        judged_as="With more clients per task, and so less data and fewer steps each, MaT-FL's segmentation gets "
        "worse.",
    ),
    PaperClaim(
        place="Figure 4 (section 4.4)",
        words="MaT-FL is better than all baselines for K from 4 to 18.",
        study="04_k_sweep",
        judged_as="For every K from 4 up, MaT-FL is better than every baseline (delta_m).",
    ),
    PaperClaim(
        place="Figure 4 (section 4.4)",
        words="An extremely small K is worse.",
        numbers="K = 2",
        study="04_k_sweep",
        judged_as="An extremely small K (2) is worse than larger ones.",
    ),
    PaperClaim(
        place="Figure 5 (section 5.1)",
        words="Clients almost perfectly choose the other client of their task.",
        numbers="H.Parts: 100 of 100 rounds",
        study="05_grouping_frequency",
        judged_as="Clients almost always choose the other client of their own task, whatever its popularity.",
    ),
    PaperClaim(
        place="Figure 5 (section 5.1)",
        words="Pascal's Seg. clients choose NYUD's Seg. clients.",
        numbers="nearly half of the rounds",
        study="05_grouping_frequency",
        judged_as="Segmentation clients choose segmentation clients of the other domain, beyond the popularity that "
        "these have with the other tasks there.",
    ),
    PaperClaim(
        place="Figure 6 (section 5.2)",
        words="A majority of layers make similar choices.",
        study="06_layer_voting",
        judged_as="A majority of layers make similar choices.",
    ),
    PaperClaim(
        place="Figure 6 (section 5.2)",
        words="The method is not sensitive to which layers vote (judged here by how many of the last ones do).",
        study="06_layer_voting",
        judged_as="The method is not sensitive to the number of voting layers.",
    ),
)
"""In the paper's order."""


def not_computed(study: str, claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims, and after them those of the paper that the notebook judges and for which there are no numbers."""
    found = tuple(claims)
    absent = [
        Claim(text=claim.judged_as, parts=(), note="Its runs are missing.")
        for claim in PAPER_CLAIMS
        if claim.study == study and not any(claim.fits(other.text) for other in found)
    ]
    return (*found, *absent)
