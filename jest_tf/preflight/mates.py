"""How many near mates a batch of the user's data holds, and the policy that suits them."""

from ml_collections import ConfigDict

from jest_tf.data import mates
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.preflight.report import Section

# With fewer mates in a batch, greedy joint selection takes mostly what independent top-k takes: 87%
# of it at 0.09 on the emoji pool, 70% at 0.34 (`python -m benchmarks.bq`).
FEW = 0.1


def check_mates(config: ConfigDict) -> Section:
    """b·q of `data.train`: by captions, and by the reference's embeddings where they are stored."""
    section = Section("Near mates: rows of a sub-batch that are close to one another")
    found = {}
    try:
        manifest = open_source(config.data.train, config.data.data_dir)
        found["same caption"] = mates.captions_q(manifest)
        if config.reference.cache:
            cache = ReferenceCache.load(config.reference.cache)
            cache.check_manifest(manifest)
            found["reference: a match"] = mates.reference_q(manifest, cache)
    except (UserError, OSError) as error:  # the sections on data and reference say so
        section.add("not counted", str(error).partition(":")[0])
    if not found:
        return section
    b = config.selection.sub_batch
    for label, q in found.items():
        section.add(label, f"b·q = {b * q:.2g}: {q:.2g} of the pairs of rows, times b = {b:,}")
    section.add("policy", recommended(max(b * q for q in found.values())))
    return section


def recommended(bq: float) -> str:
    """What the runs of docs/results.md say for so many mates."""
    if bq < FEW:
        return (
            "independent_top_k, or joint with selection.greedy: with so few near mates in a batch "
            "both select mostly the same (docs/results.md)"
        )
    return (
        "joint with selection.greedy takes other examples here than independent_top_k, of a higher "
        "joint score; that the model gets better was not shown (docs/results.md)"
    )
