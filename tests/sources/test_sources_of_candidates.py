"""Crops, noise, and what the teacher makes of candidates: RDED and CaO2's choice."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ims3core.data import ImageSet, distilled, pools
from ims3core.selections import confidence, realism
from ims3core.shell.errors import DataError
from ims3core.sources import crops


def inputs(count=12, side=8):
    images = torch.randint(
        1, 256, (2 * count, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    names = [SimpleNamespace(name=n) for n in ("cat", "dog")]
    return SimpleNamespace(train=ImageSet(images, torch.arange(2 * count) % 2), classes=names)


def wanted(per_class=20):
    return pools.Wanted(root_seed=0, purpose="crops", draws=2, classes=2, per_class=per_class, batch_size=7)


SECTION = {"crops": 5, "scale": [0.25, 1.0]}


def test_a_crop_is_a_square_of_its_image_in_the_corner_of_a_black_one():
    """Half as wide; five consecutive candidates are of one image; an image does not depend on its batch."""
    make = crops.maker(inputs(), wanted(), None, **SECTION)
    spots = [spot for shard in wanted().shards() for spot in shard]
    whole = make(spots).images
    assert torch.equal(whole, torch.cat([make([spot]).images for spot in spots]))
    assert (whole[:, :, 4:] == 0).all() and (whole[:, :, :, 4:] == 0).all()
    assert (whole[:, :, :4, :4] > 0).any()


def test_crops_of_full_size_are_the_resized_image():
    """Scale 1: nothing is cut away."""
    from torchvision.transforms.v2.functional import resize

    picture = inputs().train.images[0]
    found = crops.square_crop(picture, 4, [1.0, 1.0], torch.Generator().manual_seed(0))
    assert torch.equal(found, resize(picture, [4, 4], antialias=True))


def test_draws_order_the_images_anew():
    """Each draw takes other images of the class first."""
    make = crops.maker(inputs(), wanted(10), None, crops=1, scale=[1.0, 1.0])
    one, two = (make([pools.Spot(0, draw, 0, i) for i in range(10)]).images for draw in (0, 1))
    assert not torch.equal(one, two)


def test_too_few_images_are_refused():
    """The class, what it has and what is wanted."""
    with pytest.raises(DataError, match=r"class cat: found 12 images, wanted 20 \(100 candidates of 5 crops each"):
        crops.maker(inputs(), wanted(100), None, **SECTION)


def test_best_crops_are_rdeds():
    """Against plain sorting: the best crop of each image by cross-entropy, then ranks r, r + K, r + 2K, r + 3K."""
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    found = realism.best_crops(logits, 1, crops=5, ipc=2)
    score = [F.cross_entropy(row[None], torch.tensor([1])).item() for row in logits]
    best = [min(range(i, i + 5), key=score.__getitem__) for i in range(0, 50, 5)]
    ranked = sorted(best, key=score.__getitem__)[:8]
    assert found.tolist() == [ranked[0], ranked[2], ranked[4], ranked[6], ranked[1], ranked[3], ranked[5], ranked[7]]


def test_four_corners_make_an_image():
    """Tiles lie row by row."""
    images = torch.zeros(8, 1, 4, 4, dtype=torch.uint8)
    images[:, 0, :2, :2] = torch.arange(1, 9, dtype=torch.uint8).view(8, 1, 1)
    found = distilled.tiled(images, 4)
    assert found[:, 0].tolist() == [
        [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]], [[5, 5, 6, 6], [5, 5, 6, 6], [7, 7, 8, 8], [7, 7, 8, 8]],
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["most", "least"])
def test_recognised_candidates_come_first(order):
    """By the probability of their class, the rest after them by the same."""
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    found = confidence.ranked(logits, 2, order=order).tolist()
    own = logits.softmax(1)[:, 2].tolist()
    known = [i for i in range(30) if logits[i].argmax() == 2]
    rest = [i for i in range(30) if i not in known]
    assert found == sorted(known, key=own.__getitem__, reverse=order == "most") + sorted(
        rest, key=own.__getitem__, reverse=True
    )
