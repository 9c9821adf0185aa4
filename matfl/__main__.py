"""`python -m matfl` is the command `matfl`."""

import sys

from matfl.cli import main

sys.exit(main())
