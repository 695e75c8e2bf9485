"""TensorFlow's import in a little more than half of its processor time, for processes of tests."""

import contextlib
import gc
import sys


@contextlib.contextmanager
def quick_imports():
    """Surrounds `import tensorflow`, once a process."""
    if "tensorflow" in sys.modules:
        yield
        return
    # Keras imports these where they are. No test needs them in Keras, and users have neither.
    unused = [name for name in ("pandas", "sklearn") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(unused))
    gc.disable()  # A million objects are made and stay: looking through them finds no garbage.
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for name in unused:
            del sys.modules[name]
