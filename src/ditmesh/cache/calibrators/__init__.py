"""How a cached step guesses what it leaves out: every file of this folder is a calibrator.

A file holds a class that extends ``CalibratorConfig``, with its settings, their flags and its forecast. Streams come in
float32, or what is wider, since differences cancel digits.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
