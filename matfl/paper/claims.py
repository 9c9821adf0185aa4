"""A claim: its words, the number that its words mean, the rule that decides, the verdict.

    part = Part(statistic="delta_m of MaT-FL minus plain", value=estimate([4.1, 5.0, 5.4]), rule=Above(0))
    Claim(text="MaT-FL beats plain many-task FL.", parts=(part,)).word  # 'held'

A claim of several parts holds where all of them do, and does not where one does not; without parts it is not computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from matfl.paper.numbers import decimal
from matfl.paper.stats import Estimate

__all__ = ["Above", "AtLeast", "Below", "Claim", "Part", "Rule", "Within", "together"]

SIGNIFICANT = 0.05
"""Adjusted p below which a comparison of a family counts."""


class Rule(Protocol):
    """What an estimate must show for its part of a claim to hold."""

    def __call__(self, value: Estimate) -> bool | None:
        """True: held; False: not held; None: undecided."""
        ...


def _number(value: float) -> str:
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Above:
    """Held where the whole interval lies above `limit`, not held where it lies below.

    A comparison that belongs to a family (`Estimate.p_holm`) with limit 0 is decided by its adjusted p instead.
    """

    limit: float = 0.0

    def __call__(self, value: Estimate) -> bool | None:
        """Compare the interval with the limit."""
        if not math.isnan(value.p_holm) and self.limit == 0 and value.p_holm >= SIGNIFICANT:
            return None
        if value.low > self.limit:
            return True
        return False if value.high < self.limit else None

    def __str__(self) -> str:
        return f"above {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Below:
    """Held where the whole interval lies below `limit`, not held where it lies above."""

    limit: float = 0.0

    def __call__(self, value: Estimate) -> bool | None:
        """Compare the interval with the limit."""
        if not math.isnan(value.p_holm) and self.limit == 0 and value.p_holm >= SIGNIFICANT:
            return None
        if value.high < self.limit:
            return True
        return False if value.low > self.limit else None

    def __str__(self) -> str:
        return f"below {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Held where the whole interval reaches `limit`, not held where none of it does."""

    limit: float

    def __call__(self, value: Estimate) -> bool | None:
        """Compare the interval with the limit."""
        if value.low >= self.limit:
            return True
        return False if value.high < self.limit else None

    def __str__(self) -> str:
        return f"at least {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Within:
    """Held where the whole interval lies within `margin` of 0 (equivalence), not held where all of it lies outside."""

    margin: float

    def __call__(self, value: Estimate) -> bool | None:
        """Compare the interval with the margin."""
        if -self.margin < value.low and value.high < self.margin:
            return True
        return False if value.low > self.margin or value.high < -self.margin else None

    def __str__(self) -> str:
        return f"within ±{_number(self.margin)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One number of a claim."""

    statistic: str
    """What is measured, in words."""
    value: Estimate
    rule: Rule
    digits: int = 2
    """Decimals in print."""

    @property
    def held(self) -> bool | None:
        """The rule's answer."""
        return self.rule(self.value)

    @property
    def asked(self) -> str:
        """The rule in words."""
        family = not math.isnan(self.value.p_holm) and getattr(self.rule, "limit", None) == 0
        return f"{self.rule}, Holm p below {SIGNIFICANT:g}" if family else str(self.rule)

    def __str__(self) -> str:
        value = self.value
        mean, low, high = (decimal(each, self.digits) for each in (value.mean, value.low, value.high))
        text = f"{self.statistic}: {mean}"
        if value.n == 1:
            text += " (one seed: no interval)"
        elif value.n > 1:
            text += f" (95 % interval {low} to {high}, n = {value.n}"
            p = "< 0.001" if value.p_holm < 0.0005 else f"{value.p_holm:.3f}"
            text += f", Holm p {p})" if not math.isnan(value.p_holm) else ")"
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One sentence of the paper (or of these notebooks), and what this run's numbers say about it."""

    text: str
    parts: tuple[Part, ...]
    note: str = ""
    """Numbers beside those that decide."""
    regime: str = ""
    """The conditions under which it was judged, where the paper makes the claim for its own."""

    @classmethod
    def of(
        cls,
        text: str,
        *,
        statistic: str,
        value: Estimate,
        rule: Rule,
        digits: int = 2,
        note: str = "",
        regime: str = "",
    ) -> Claim:
        """A claim of one part.

        >>> from matfl.paper.stats import estimate
        >>> Claim.of("It gains.", statistic="gain", value=estimate([1.0, 1.1, 0.9]), rule=Above(0)).word
        'held'
        """
        part = Part(statistic=statistic, value=value, rule=rule, digits=digits)
        return cls(text=text, parts=(part,), note=note, regime=regime)

    @property
    def held(self) -> bool | None:
        """Whether all parts hold; None where the numbers do not decide."""
        return together([part.held for part in self.parts])

    @property
    def word(self) -> str:
        """The verdict as written in tables; 'not computed' for a claim without numbers."""
        if not self.parts:
            return "not computed"
        return {True: "held", False: "not held", None: "undecided"}[self.held]

    @property
    def rule(self) -> str:
        """What 'held' asks for."""
        return ", and ".join(dict.fromkeys(part.asked for part in self.parts))

    @property
    def evidence(self) -> str:
        """The numbers behind the verdict."""
        if not self.parts:
            return self.note
        listed = "; ".join(f"{part} [{part.asked}]" for part in self.parts)
        return " ".join(filter(None, (listed + ".", self.note)))

    def row(self) -> dict[str, str]:
        """As stored beside the figures: words, verdict, statistic and rule, numbers, regime."""
        found = {
            "claim": self.text,
            "verdict": self.word,
            "statistic": "; ".join(part.statistic for part in self.parts),
            "rule": self.rule,
            "evidence": self.evidence,
        }
        return found | ({"regime": self.regime} if self.regime else {})

    def __str__(self) -> str:
        where = f" (judged {self.regime})" if self.regime else ""
        return f"[{self.word}] {self.text}{where} {self.evidence}"

    def markdown(self) -> str:
        """As shown in notebooks."""
        where = f" (judged {self.regime})" if self.regime else ""
        return f"- **{self.word}** – {self.text}{where}" + (f" *{self.evidence}*" if self.evidence else "")


def together(parts: Sequence[bool | None]) -> bool | None:
    """Kleene's conjunction: False if any is False, else None if any is None (or there is none), else True."""
    if False in parts:
        return False
    return None if None in parts or not parts else True
