"""The kinds of evaluation that a config can name."""

from jest_tf.evaluation.few_shot import FewShot
from jest_tf.evaluation.retrieval import Retrieval
from jest_tf.evaluation.zero_shot import ZeroShot

KINDS = {
    "retrieval": Retrieval(),
    "zero_shot": ZeroShot(),
    "few_shot": FewShot(),
}
