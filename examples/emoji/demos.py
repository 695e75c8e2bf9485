"""What the quickstart shows: two data sets, their queries, and which answers are right.

The queries were written down before any model was trained. An answer is right by the data's own
captions and classes, never by eye.
"""

import dataclasses
import re
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Query:
    """A text to search with. right: the class or the word that a right picture's data name."""

    text: str
    right_class: str = ""
    right_word: str = ""


@dataclasses.dataclass(frozen=True)
class Demo:
    """One data set of the quickstart.

    Attributes:
        images: what is searched, for `retrieve index`.
        minutes: of all of it on two quiet cores of an Intel Xeon; photographs: estimated from
            processor time. speeds: steps a second there, by run; no compiling, no evaluation.
        class_of: caption of a searched picture -> its class.
        source, parts: Parquet files to prepare first.
    """

    title: str
    config: str
    images: str
    queries: tuple[Query, ...]
    minutes: float
    speeds: dict[str, float]
    class_of: Callable[[], dict[str, str]] = dict
    tfds_module: str = ""
    source: str = ""
    parts: tuple[str, ...] = ()

    @property
    def has_reference(self) -> bool:
        """Whether a reference is tuned on curated pairs first; else the base is the reference."""
        return bool(self.parts)

    def right(self, query: Query) -> Callable[[str], bool]:
        """Whether a picture with this caption answers the query."""
        classes = self.class_of() if query.right_class else {}
        word = re.compile(rf"\b{query.right_word}s?\b", re.IGNORECASE)
        if query.right_class:
            return lambda caption: classes.get(caption) == query.right_class
        return lambda caption: bool(word.search(caption))


def _emoji_classes() -> dict[str, str]:
    from examples.emoji import builder as emoji  # TensorFlow: when it is needed

    names = [c["name"] for c in emoji.zero_shot_classes()]
    class_of = {
        row["key"]: names[row["class"]]
        for row in emoji.read_rows(emoji.SOURCE_DIR, "eval_zero_shot.jsonl")
    }
    captions = emoji.read_rows(emoji.SOURCE_DIR, "eval_retrieval.jsonl")
    return {row["caption"]: class_of.get(row["key"], "") for row in captions}


DEMOS = {
    "emoji": Demo(
        title="Tuning on 60,000 noisy emoji pairs",
        config="examples/emoji/tune.py",
        images="tfds:emoji_captions/eval_retrieval:test",
        tfds_module="examples.emoji.builder",
        queries=(
            Query("red heart", right_word="heart"),
            Query("cat face", right_word="cat"),
            Query("full moon", right_word="moon"),
            Query("clock", right_class="time"),
            Query("fruit", right_class="food-fruit"),
            Query("pizza", right_word="pizza"),
        ),
        class_of=_emoji_classes,
        minutes=5,
        speeds={"uniform": 5.2, "joint": 1.7},
    ),
    "photos": Demo(
        title="Tuning on 2,640 noisy photographs from shops",
        config="examples/photos/tune.py",
        images="{data_dir}/photos/test",
        queries=(
            Query("banana", right_word="banana"),
            Query("lemon", right_word="lemon"),
            Query("bell pepper", right_word="bell pepper"),
            Query("tomato", right_word="tomato"),
            Query("watermelon", right_word="watermelon"),
            Query("milk", right_word="milk"),
        ),
        source="data/photos",
        parts=("pool", "curated", "test"),
        minutes=9,
        speeds={"uniform": 1.6, "reference": 1.6, "joint": 0.66},
    ),
}
