"""`python -m ditmesh` is `ditmesh`."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():
        del sys.path[0]  # as `python -P` would: a random.py in the current folder is not ours
    from ditmesh.cli import main

    main()
