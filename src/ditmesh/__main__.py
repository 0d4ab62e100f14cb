"""`python -m ditmesh` is `ditmesh`."""

from ditmesh.cli import main

if __name__ == "__main__":
    main()
