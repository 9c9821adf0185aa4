"""The data of a run: splits decoded once into memory-mapped arrays, and their partition into clients.

split.py      `Split`: images and labels of one domain
readers.py    `Reader`, the registry READERS, `load_split`; standard.py registers the package's own
rendered.py   the embedded benchmark's splits; real.py: those of the field's two layouts
decoded.py    what readers of files share: native sizes to network size, once
own.py        data of one's own: from arrays in memory or a folder of files
layouts.py    where the real data sets keep what; decode.py: what it means
pictures.py   opening picture files
cache.py      folders of arrays that are whole or absent; checksums.py: and still what was written
partition.py  who trains what on which images
write.py      the embedded benchmark in the real layouts; check.py: validation
fetch.py      the published archives; download.py: a file from a server; extract.py: a folder from an archive
photos/       photographs from public repositories, verified by git tree ids
"""

from matfl.data.cache import DataError
from matfl.data.check import Report, check
from matfl.data.fetch import Fetched, fetch
from matfl.data.own import from_arrays, from_folder
from matfl.data.partition import Client, partition
from matfl.data.readers import READERS, Reader, load_split
from matfl.data.split import Split, network_size
from matfl.data.write import Made, make

__all__ = [
    "READERS",
    "Client",
    "DataError",
    "Fetched",
    "Made",
    "Reader",
    "Report",
    "Split",
    "check",
    "fetch",
    "from_arrays",
    "from_folder",
    "load_split",
    "make",
    "network_size",
    "partition",
]
