"""Makes the bundle, and the page of what it measured.

    python -m benchmarks.accelerator export --out=BUNDLE
    python -m benchmarks.accelerator page --lines=LINES.jsonl

BUNDLE/run.py runs where there is an accelerator, with numpy and jax (and torch, if it is there).
"""

import pathlib
import sys

from absl import flags

from jest_tf import cli
from jest_tf.errors import UserError

FLAGS = flags.FlagValues()
_OUT = flags.DEFINE_string("out", "", "Folder of the bundle.", flag_values=FLAGS)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes of the tests.", flag_values=FLAGS)
_EXPECTED = flags.DEFINE_integer(
    "max_expected_rows", 40_960, "Largest super-batch whose selection is computed here, to compare "
    "with; 163840 takes long.", flag_values=FLAGS,
)  # fmt: skip
_LINES = flags.DEFINE_list("lines", [], "Files that run.py printed.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Does what the first word says."""
    if argv[1:] == ["export"] and _OUT.value:
        from benchmarks.accelerator.export import export

        export(pathlib.Path(_OUT.value), _TINY.value, _EXPECTED.value)
        print(f"python {_OUT.value}/run.py runs on any device that jax finds")
    elif argv[1:] == ["page"]:
        from benchmarks.accelerator.page import PAGE, keep, page, stored

        keep([pathlib.Path(path) for path in _LINES.value])
        PAGE.write_text(page(stored()), encoding="utf-8")
    else:
        raise UserError(
            f"expected `export --out=FOLDER` or `page --lines=FILES`, got {' '.join(argv[1:])!r}"
        )


if __name__ == "__main__":
    cli.run(main, FLAGS)
    sys.exit()
