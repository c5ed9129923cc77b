"""Pools: composition of shards, seeds, and images that stay in their shards."""

import torch

from ims3core.axes.sources import PoolSpec
from ims3core.base import files
from ims3core.data import ImageSet, pools
from ims3core.data.keys import candidate_seed, shard_name


def make_spec(**changes):
    sizes = {"draws": 1, "classes": 3, "per_class": 3, "batch_size": 4}
    return PoolSpec(**{"root_seed": 0, "noise_stream": "p", **sizes, "sampler": None, "guide": None} | changes)


def test_more_images_per_class_change_no_earlier_shard():
    """Raising per_class appends: every full shard keeps its composition and its name."""
    small, large = (list(make_spec(per_class=n).shards()) for n in (4, 9))
    assert small == large[: len(small)]
    assert sum(map(len, large)) == 27
    assert [shard_name(keys) for keys in small] == [shard_name(keys) for keys in large[: len(small)]]


def test_names_of_parts_differ_by_all_that_a_shard_is():
    """IPC, draw, first image and length; how many there are in all has no place in them."""
    shards = [keys for ipcs in ((0,), (1, 5)) for keys in make_spec(ipcs=ipcs, draws=2).shards()]
    names = {shard_name(keys) for keys in shards}
    assert len(names) == len(shards) == 2 * 3 + 2 * 1 + 2 * 4


def test_a_pool_for_every_ipc_holds_as_many_images_as_the_ipc():
    """And their seeds do not contain the IPC."""
    few = make_spec(ipcs=(1, 2))
    keys = [key for shard in few.shards() for key in shard]
    assert [(k.ipc, k.class_index, k.index) for k in keys if k.class_index == 0] == [(1, 0, 0), (2, 0, 0), (2, 0, 1)]
    assert few.seed(keys[0]) == few.seed(next(k for k in keys if k.ipc == 2 and k[1:] == keys[0][1:]))


def test_a_seed_depends_on_every_coordinate():
    """Draw, class, index and noise stream give seeds of their own."""
    seeds = {
        candidate_seed(0, stream, d, c, i) for stream in "ab" for d in range(3) for c in range(4) for i in range(5)
    }
    assert len(seeds) == 2 * 3 * 4 * 5


def test_images_of_a_pool_are_read_from_their_shards(tmp_path):
    """Any rows in any order equal those of the images in memory; latents too."""
    images = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 1, 2, 2).contiguous()
    first = 0
    for number, keys in enumerate(make_spec().shards()):
        part = images[first : first + len(keys)]
        first += len(keys)
        pools.write_shard(
            tmp_path / f"shard-{number:05d}.safetensors",
            pools.CandidateBatch(part, part.float() / 2),
            keys,
            [7] * len(keys),
        )
    files.write_manifest(tmp_path, "pool", source="generated", indexed=False, images=9)

    pool = pools.read_pool(tmp_path, ImageSet(images, torch.zeros(9, dtype=torch.int64)))

    assert pool.images.shape == pool.latents.shape == images.shape
    assert pools.shard_ends(tmp_path) == [4, 8, 9]
    for rows in (torch.tensor([8, 0, 3, 3, 4]), slice(2, 7), torch.tensor(5), 5):
        assert torch.equal(pool.images[rows], images[rows])
        assert torch.equal(pool.latents[rows], images[rows].float() / 2)
    assert pool.place.rows(0, 1).tolist() == [1, 4, 7]


def test_a_pool_made_for_an_ipc_serves_that_ipc_alone():
    """Rows of a pool for every IPC serve all; those made for one IPC only that one."""
    for ipcs, count in (((0,), 3), ((1, 2), 2)):
        keys = torch.tensor([key for shard in make_spec(ipcs=ipcs).shards() for key in shard])
        assert len(pools.Place(*keys.T).rows(0, 1, ipc=2)) == count
