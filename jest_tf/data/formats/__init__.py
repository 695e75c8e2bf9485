"""Readers of the formats that people bring: one file each, all of which yield Pairs."""
