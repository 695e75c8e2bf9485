"""Public weight formats, in and out. One file a format; `FORMATS` lists them.

A format is a module with

    DESCRIPTION   for messages: what it is and which files it has
    is_this(names)                       whether a file with tensors of these names is of the format
    views(tensors)                       the tensors by the names of `rules` (unstacked, summed, …)
    measure(tensors) -> Sizes            sizes of the towers as far as the tensors tell them
    rules(config) -> list[Rule]          how its tensors and our variables become one another

Both directions follow from `rules`: `rules.to_ours` and `rules.from_ours` are pure functions of
arrays. To add a format, write such a module and list it here (docs/weights.md).
"""

from jest_tf.models.weights import big_vision, huggingface, keras_hub, open_clip

FORMATS = (huggingface, big_vision, open_clip, keras_hub)
