"""Small data sets made in the test."""

import pytest
from small_shards import example, png, write_shard

from jest_tf.data.manifest import Manifest, Source
from jest_tf.data.tokenizer import Tokenizer

VOCAB = ["[PAD]", "[UNK]", "[EOS]", "record", "red", "dog", "##s"] + [str(d) for d in range(10)]
VOCAB += [f"##{d}" for d in range(10)]


@pytest.fixture
def make_manifest(tmp_path):
    """make(sizes, first_id=0, name='numbers'): shards of these sizes with ids counted up."""

    def make(sizes, first_id=0, name="numbers") -> Manifest:
        shards, number = [], first_id
        for index, size in enumerate(sizes):
            records = [
                example(id=n, image=png(n), captions=f"record {n}")
                for n in range(number, number + size)
            ]
            shards.append(write_shard(tmp_path / f"{name}-{index:05d}.tfrecord", records))
            number += size
        return Manifest(name, (Source(name, id="id"),), tuple(shards))

    return make


@pytest.fixture(scope="session")
def vocab_path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return str(path)


@pytest.fixture
def tokenizer(vocab_path) -> Tokenizer:
    return Tokenizer(vocab_path, n_tokens=8)
