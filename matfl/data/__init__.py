"""The data of a run: splits decoded once into memory-mapped arrays, and their partition into clients."""

from matfl.data.cache import DataError
from matfl.data.partition import Client, partition
from matfl.data.split import Split, load_split, network_size

__all__ = ["Client", "DataError", "Split", "load_split", "network_size", "partition"]
