"""Prints the requirements of the extra `tpu` in setup.cfg, one per line, for `pip install -r`."""

import configparser
import pathlib

SETUP = pathlib.Path(__file__).resolve().parents[1] / "setup.cfg"

parser = configparser.ConfigParser()
parser.read(SETUP, encoding="utf-8")
print(parser["options.extras_require"]["tpu"].strip())
