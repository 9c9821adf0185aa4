"""What everything else stands on and what knows nothing of federated learning.

processes.py workers that end with the process that started them
extras.py    packages that only some runs need
streams.py   random streams derived from names
registry.py  named things that plug-ins can add to
records.py   the rows that runs are recorded in
settings.py  `name=value` as text
files.py     files written whole, and their checksums
manifest.py  folders of files with checksums
locks.py     locks between processes
surroundings.py whether somebody looks: a terminal, an open notebook, or a batch
"""
