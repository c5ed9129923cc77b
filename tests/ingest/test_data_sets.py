"""Image sets and the class table."""

import pytest
import torch

from ims3core import data
from ims3core.errors import ArtifactError, DataError


def test_images_and_labels_must_match():
    """Both counts are in the message."""
    with pytest.raises(DataError, match="2 images and 3 class labels"):
        data.ImageSet(torch.zeros(2, 1, 1, 1), torch.zeros(3))


def test_a_class_table_out_of_order_is_refused(tmp_path):
    """class_index must count 0, 1, 2, ..."""
    data.write_classes(tmp_path / "c.json", [data.ClassRow(1, "b", 5), data.ClassRow(0, "a", 7)])
    with pytest.raises(ArtifactError, match="class_index: found 1, wanted 0"):
        data.read_classes(tmp_path / "c.json")
    (tmp_path / "c.json").write_text('[{"wrong": 1}]')
    with pytest.raises(ArtifactError, match="class_index: missing"):
        data.read_classes(tmp_path / "c.json")


def test_labels_are_those_of_the_table_in_class_order(tmp_path):
    """A 10-class subset keeps its ImageNet labels (D8); one beyond the generator's range is named."""
    data.write_classes(tmp_path / "c.json", [data.ClassRow(0, "a", 193), data.ClassRow(1, "b", 7)])
    assert data.generator_labels(tmp_path / "c.json", 1000).tolist() == [193, 7]
    with pytest.raises(ArtifactError, match=r"class a has generator_label 193, the generator knows 0\.\.99"):
        data.generator_labels(tmp_path / "c.json", 100)


def test_resizing_keeps_flat_images_flat():
    """A constant image stays constant at any size; the right size is returned as it is."""
    flat = torch.full((3, 1, 8, 8), 77, dtype=torch.uint8)
    assert data.resized(flat, 8) is flat
    assert (data.resized(flat, 5) == 77).all()
    assert data.resized(flat, 5).shape == (3, 1, 5, 5)
