"""`python -m matfl.bench NAME [options]`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from matfl.bench import BENCHES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named bench with the remaining arguments; its exit code, or 2 for a name that does not exist."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m matfl.bench NAME [options]\n")
        for bench, what in BENCHES.items():
            print(f"  {bench:8}{what}")
        print("\noptions of each: python -m matfl.bench NAME --help; all take --json FILE to keep the record")
        return 0
    if name not in BENCHES:
        print(f"python -m matfl.bench: unknown name {name!r}: choose from {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"matfl.bench.{name}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
