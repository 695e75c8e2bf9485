"""What `python -m jest_tf.check` looks at, one file per section of its page.

`sizes` and `report` import no TensorFlow: a config that does not divide is refused in a second.
"""
