"""`python patient.py PROGRAM ...`: one of Flower's programs that waits longer for the processes which it starts.

Flower gives a client's or server's process 30 s to start and 60 s between signs of life, and starts another one when
they are over. On a machine too loaded for that the processes only pile up, so that the tests give them ten times as
long. How a lost node is noticed stays Flower's own.
"""

import sys
from importlib.metadata import entry_points

from flwr.supercore.corestate import in_memory_corestate, sql_corestate

for module in (in_memory_corestate, sql_corestate):
    module.HEARTBEAT_DEFAULT_INTERVAL *= 10

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    entry_points(group="console_scripts")[sys.argv[0]].load()()
