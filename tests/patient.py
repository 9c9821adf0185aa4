"""`python patient.py FACTOR PROGRAM ...`: one of Flower's programs that waits longer for others to give signs of life.

Flower gives a client's or server's process 30 s to start and 60 s between signs of life, and starts another one when
they are over. On a machine too loaded for that the processes only pile up, so that the tests give them ten times as
long. FACTOR (1 to 60) does the same for a node, which tells the SuperLink how long to wait for it: a machine that
stands still for a minute must not lose the nodes that a test means to keep. With 1 a loss is noticed as Flower does.
"""

import sys
from importlib.metadata import entry_points

from flwr.supercore.corestate import in_memory_corestate, sql_corestate
from flwr.supernode import fleet_http_connection

for module in (in_memory_corestate, sql_corestate):
    module.HEARTBEAT_DEFAULT_INTERVAL *= 10

if __name__ == "__main__":
    factor, *sys.argv = sys.argv[1:]
    fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL *= int(factor)
    entry_points(group="console_scripts")[sys.argv[0]].load()()
