"""Pools: composition of shards, seeds, and images that stay in their shards."""

import torch

from ims3core import files, pools
from ims3core.data import ImageSet


def test_more_images_per_class_change_no_earlier_shard():
    """Raising per_class appends: every full shard keeps its composition."""
    small, large = (list(pools.shards(draws=1, classes=3, per_class=n, batch_size=4)) for n in (4, 9))
    assert small == large[: len(small)]
    assert sum(len(members) for _, members in large) == 27


def test_a_seed_depends_on_every_coordinate():
    """Draw, class, index and purpose give seeds of their own."""
    seeds = {
        pools.candidate_seed(0, purpose, d, c, i)
        for purpose in "ab"
        for d in range(3)
        for c in range(4)
        for i in range(5)
    }
    assert len(seeds) == 2 * 3 * 4 * 5


def test_images_of_a_pool_are_read_from_their_shards(tmp_path):
    """Any rows in any order equal those of the images in memory."""
    images = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 1, 2, 2).contiguous()
    for number, (draw, members) in enumerate(pools.shards(draws=1, classes=3, per_class=3, batch_size=4)):
        first = 4 * number
        part = images[first : first + len(members)]
        pools.write_shard(tmp_path / f"shard-{number:05d}.safetensors", part, draw, members, [7] * len(members))
    files.write_manifest(tmp_path, "pool", source="generated", images=9)

    pool = pools.read_pool(tmp_path, ImageSet(images, torch.zeros(9, dtype=torch.int64)))

    assert pool.images.shape == images.shape
    for rows in (torch.tensor([8, 0, 3, 3, 4]), slice(2, 7), torch.tensor(5), 5):
        assert torch.equal(pool.images[rows], images[rows])
    assert pool.place.rows(0, 1).tolist() == [1, 4, 7]
