"""The tests' processes compute with one thread each, as the engine's do: several round sums otherwise."""

import torch

torch.set_num_threads(1)
