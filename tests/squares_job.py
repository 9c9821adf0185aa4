"""A job for the tests of stored results: squares, with a trace of every unit that is computed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Squares:
    """A job that writes down how often a unit is computed; a unit takes `seconds`, and one of 13 kills its process."""

    numbers: tuple[int, ...]
    trace: Path
    seconds: float = 0.0

    kind = "squares"
    alone = False

    def spec(self):
        return {"numbers": list(self.numbers)}

    def units(self):
        return [str(number) for number in self.numbers]

    def compute(self, unit, *, device):
        with open(self.trace, "a") as file:
            file.write(f"{unit} {os.getpid()}\n")
        time.sleep(self.seconds)
        if unit == "13":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": int(unit) ** 2}, {"array": np.full(2, int(unit))}

    def combine(self, parts):
        values = {"squares": [values["square"] for values, _ in parts]}
        return values, {"all": np.stack([arrays["array"] for _, arrays in parts])}
