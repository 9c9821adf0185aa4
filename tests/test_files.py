"""Files are whole or absent, and what the system says of writing them names them."""

import errno
import os
import subprocess
import sys

import pytest

from matfl.core.files import naming, replace_file

LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from matfl.core.files import replace_file
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))
for content in (b"0" * (1 << 13), lambda there: save_file({"w": torch.zeros(1 << 13)}, there)):
    try:
        replace_file(path, content)
    except OSError as error:
        print(error.errno, error.filename)
print(*sorted(file.name for file in path.parent.iterdir()))
"""


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "a.txt"
    replace_file(file, "one")
    with pytest.raises(ZeroDivisionError):
        replace_file(file, lambda _: 1 / 0)
    assert file.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_limit_on_the_size_of_files_names_the_file(tmp_path):
    """Of bytes, and of what safetensors writes, whose own error names neither file nor number."""
    file = tmp_path / "big"
    file.write_bytes(b"before")
    call = [sys.executable, "-c", LIMITED, str(file)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{errno.EFBIG} {file}"] * 2 + ["big"]
    assert file.read_bytes() == b"before"


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ValueError, match="no such layer"), naming(tmp_path):
        raise ValueError("no such layer")
    with pytest.raises(PermissionError, match="/there"), naming(tmp_path / "there"):
        raise PermissionError(errno.EACCES, "denied")
