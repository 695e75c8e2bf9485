"""How much more than b a step must load when some records cannot be used."""

# Standard deviations of the number of bad records in a step that are kept in reserve: about one
# step in 30,000 is still refused.
DEVIATIONS = 4


def spare_super_batch(sub_batch: int, bad_share: float, multiple_of: int = 1) -> int:
    """The smallest super-batch that practically always holds `sub_batch` usable records.

    A step with fewer is refused: with B = b, 1% of bad records would refuse nearly all. Their
    number among B is taken as binomial. bad_share: below 1. multiple_of: what B must be divisible
    by.
    """
    size = -(-sub_batch // multiple_of) * multiple_of
    while True:
        bad = size * bad_share + DEVIATIONS * (size * bad_share * (1 - bad_share)) ** 0.5
        if size - bad >= sub_batch:
            return size
        size += multiple_of
