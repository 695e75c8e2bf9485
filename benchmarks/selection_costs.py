"""What joint selection costs by formula, as the tables of docs/selection.md.

    python -m benchmarks.selection_costs

Nothing is measured here; `benchmarks.selection` measures.
"""

import math

from jest_tf.selection.spec import SelectionSpec

PAPER = (  # (B, b), d = 768, N = 16
    SelectionSpec(65_536, 32_768),
    SelectionSpec(163_840, 32_768),
    SelectionSpec(327_680, 32_768),
)
EMBED_DIM = 768
EXAMPLE_BYTES = 256 * 256 * 3 + 64 * 4 + 8 + 1 + 4  # image, tokens, id, valid, source
PAIR_BYTES = 8  # float32 value and int32 position


def cost_table() -> str:
    """Matrix-free against dense, learner and reference together, one step."""
    rows = ["| B | b | f | matmul, dense | matrix-free | S in fp32 | one [B, m] block |"]
    rows.append("|---|---|---|---|---|---|---|")
    for spec in PAPER:
        B, b, m = spec.super_batch, spec.sub_batch, spec.chunk_size
        dense = 2 * 2 * B * B * EMBED_DIM
        free = 2 * 2 * 2 * B * (b - m) * EMBED_DIM
        rows.append(
            f"| {B:,} | {b:,} | {spec.filter_ratio:.1f} | {dense / 1e12:,.1f} TFLOP "
            f"| {free / 1e12:,.1f} TFLOP ({dense / free:.1f}x less) | {4 * B * B / 1e9:,.0f} GB "
            f"| {4 * B * m / 1e9:.2f} GB |"
        )
    return "\n".join(rows)


def traffic(spec: SelectionSpec, replicas: int, embed_dims: list[int]) -> dict[str, int]:
    """Bytes that one replica hands to the collectives of one joint selection with scope=global.

    embed_dims: widths of the models that the criterion uses.
    """
    pairs = min(spec.chunk_size, spec.super_batch // replicas) * PAIR_BYTES
    picked = spec.chunk_size * 2 * sum(embed_dims) * 4
    scalars = 2 * 4 + 4 * 4  # n_candidates, n_valid and the four metrics
    return {
        "all_gather": spec.n_chunks * pairs,
        "all_reduce_sum": spec.n_chunks * picked + scalars,
    }


def expected_surplus(spec: SelectionSpec, replicas: int) -> float:
    """Examples that change replica, if good examples are spread at random.

    Picks per replica are then nearly normal about b / R; the mean excess is sd / sqrt(2 pi).
    """
    n, share = spec.super_batch / replicas, spec.sub_batch / spec.super_batch
    return replicas * math.sqrt(n * share * (1 - share) / (2 * math.pi))


def traffic_table() -> str:
    """One step at B = 163,840 on 256 chips."""
    spec, replicas = PAPER[1], 256
    sent = traffic(spec, replicas, [EMBED_DIM, EMBED_DIM])
    surplus = expected_surplus(spec, replicas)
    buffer = spec.chunk_size * EXAMPLE_BYTES
    every = spec.sub_batch * EXAMPLE_BYTES
    rows = ["| what travels | bytes per chip and step |", "|---|---|"]
    rows += [
        f"| (value, position) pairs, all-gather, given in | {sent['all_gather'] / 1e3:.0f} kB |",
        f"| … received from all | {sent['all_gather'] * replicas / 1e6:.0f} MB |",
        f"| embeddings of the picked, all-reduce | {sent['all_reduce_sum'] / 1e6:.0f} MB |",
        f"| examples that change chip: about {surplus:,.0f} of {spec.sub_batch:,} "
        f"| {surplus * EXAMPLE_BYTES / 1e6:.0f} MB, in buffers of at most {buffer / 1e6:.0f} MB |",
        f"| (if all picked examples were exchanged) | ({every / 1e6:,.0f} MB) |",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    print(cost_table(), traffic_table(), sep="\n\n")
