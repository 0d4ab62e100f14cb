"""`python -m ditmesh.generate`, alone or under torchrun, is `ditmesh generate`."""

from ditmesh.cli import main_generate

if __name__ == "__main__":
    main_generate()
