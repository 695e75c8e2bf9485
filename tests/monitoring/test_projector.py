"""The projector's files, read back as TensorBoard's own plugin reads them."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig

from jest_tf.monitoring.projector import write_projector


def test_files_hold_points_names_and_pictures_in_order(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=[5, 3]).astype(np.float32)
    colors = rng.integers(0, 256, [5, 3]).astype(np.uint8)
    images = np.broadcast_to(colors[:, None, None], [5, 12, 12, 3])
    captions = ["a\tb", "é\nx", "c", "d", "e"]
    folder = write_projector(
        tmp_path / "p", "set", z, {"caption": captions, "label": list("vwxyz")}, images
    )
    config = ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (tensor,) = config.embeddings
    np.testing.assert_allclose(np.loadtxt(folder / tensor.tensor_path), z, rtol=1e-5)
    lines = (folder / tensor.metadata_path).read_text(encoding="utf-8").splitlines()
    assert lines == ["caption\tlabel", "a b\tv", "é x\tw", "c\tx", "d\ty", "e\tz"]
    side, same = tensor.sprite.single_image_dim
    sprite = np.asarray(Image.open(folder / tensor.sprite.image_path))
    assert side == same and sprite.shape == (3 * side, 3 * side, 3)
    for i, color in enumerate(colors):
        y, x = i // 3 * side + side // 2, i % 3 * side + side // 2
        assert sprite[y, x].tolist() == color.tolist()


def test_one_column_has_no_title_and_lengths_must_agree(tmp_path):
    images = np.zeros([2, 4, 4, 3], np.uint8)
    folder = write_projector(tmp_path, "set", np.zeros([2, 3]), {"caption": ["a", "b"]}, images)
    assert (folder / "metadata.tsv").read_text() == "a\nb\n"
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        write_projector(tmp_path, "set", np.zeros([2, 3]), {"caption": ["a"]}, images)
