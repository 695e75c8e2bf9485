"""What a data set says about itself and training never reads: licences, limits, noise labels."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class About:
    """Notes of the origin of a data set, for model cards and for measuring.

    licences, limits: one line each; what a model trained on the set cannot do. labels: paths of
    files of JSON lines {"id": 5, "label": "blurred", "noisy": true} about some or all records.
    `key` may replace `id`; without `noisy`, every label but `clean` is.
    """

    licences: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "About":
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tuple(values.get(name) or ()) for name in names})


def merged(parts: Iterable[About]) -> About:
    """The notes of a mixture: each line once, in the order of its parts."""
    parts = list(parts)
    return About(
        **{
            field.name: tuple(dict.fromkeys(v for p in parts for v in getattr(p, field.name)))
            for field in dataclasses.fields(About)
        }
    )
