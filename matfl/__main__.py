"""`python -m matfl` is the command `matfl`."""

import sys

from matfl.cli.main import main

sys.exit(main())
