"""Crops, noise, and what the teacher makes of candidates: RDED and CaO2's choice."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ims3core.axes.guides.none import NoGuide
from ims3core.axes.samplers.none import NoSampler
from ims3core.axes.selections import confidence, realism
from ims3core.axes.sources import PoolSpec
from ims3core.axes.sources.crops import Crops, square_crop
from ims3core.axes.sources.generated import Generated
from ims3core.axes.sources.noise import Noise
from ims3core.axes.sources.real import Real
from ims3core.axes.sources.reference import Reference
from ims3core.data import ImageSet, distilled, pools
from ims3core.errors import DataError


def inputs(count=12, side=8):
    images = torch.randint(
        1, 256, (2 * count, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    names = [SimpleNamespace(name=n) for n in ("cat", "dog")]
    return SimpleNamespace(train=ImageSet(images, torch.arange(2 * count) % 2), classes=names)


def pool_spec(per_class=20, noise_stream="crops"):
    return PoolSpec(
        root_seed=0, noise_stream=noise_stream, draws=2, classes=2, per_class=per_class, batch_size=7,
        sampler=NoSampler(), guide=NoGuide(),
    )  # fmt: skip


CROPS = Crops(crops=5, scale=[0.25, 1.0])


def test_a_crop_is_a_square_of_its_image_in_the_corner_of_a_black_one():
    """Half as wide; five consecutive candidates are of one image; an image does not depend on its batch."""
    make = CROPS.build(inputs(), pool_spec(), None)
    keys = [key for shard in pool_spec().shards() for key in shard]
    images = make(keys).images
    assert torch.equal(images, torch.cat([make([key]).images for key in keys]))
    assert (images[:, :, 4:] == 0).all() and (images[:, :, :, 4:] == 0).all()
    assert (images[:, :, :4, :4] > 0).any()


def test_crops_of_full_size_are_the_resized_image():
    """Scale 1: nothing is cut away."""
    from torchvision.transforms.v2.functional import resize

    image = inputs().train.images[0]
    crop = square_crop(image, 4, [1.0, 1.0], torch.Generator().manual_seed(0))
    assert torch.equal(crop, resize(image, [4, 4], antialias=True))


def test_draws_order_the_images_anew():
    """Each draw takes other images of the class first."""
    make = Crops(crops=1, scale=[1.0, 1.0]).build(inputs(), pool_spec(10), None)
    one, two = (make([pools.CandidateKey(0, draw, 0, i) for i in range(10)]).images for draw in (0, 1))
    assert not torch.equal(one, two)


def test_too_few_images_are_refused():
    """The class, what it has and what is wanted."""
    with pytest.raises(DataError, match=r"class cat: found 12 images, wanted 20 \(100 candidates of 5 crops each"):
        CROPS.build(inputs(), pool_spec(100), None)


def test_noise_is_in_the_units_of_the_normalisation(tmp_path):
    """Its mean and spread are those of the real images, whatever the batch; each image has noise of its own."""
    (tmp_path / "statistics.json").write_text('{"mean": [0.5], "std": [0.1]}')
    real = SimpleNamespace(**inputs(side=32).__dict__, real=tmp_path)
    make = Noise().build(real, pool_spec(noise_stream="noise"), None)
    keys = [pools.CandidateKey(0, 0, 1, i) for i in range(8)]
    images = make(keys).images
    assert images.dtype == torch.uint8
    assert (images / 255).mean().item() == pytest.approx(0.5, abs=0.005)
    assert (images / 255).std().item() == pytest.approx(0.1, abs=0.005)
    assert torch.equal(images, torch.cat([make([key]).images for key in keys]))
    assert not torch.equal(images[0], images[1])


def test_sources_that_share_noise_say_so():
    """Images of the generator that centroids are computed from are no candidates: another stream, the same code."""
    assert Generated.noise_stream != Reference.noise_stream
    assert Reference.build is Generated.build and Reference.sampled
    key = pools.CandidateKey(0, 0, 0, 0)
    seeds = {pool_spec(noise_stream=source.noise_stream).seed(key) for source in (Generated, Reference, Crops, Noise)}
    assert len(seeds) == 4


def test_real_images_are_not_made():
    """Their pool is an index, and nothing is asked of a network."""
    assert Real.indexed
    with pytest.raises(NotImplementedError, match="makes no images"):
        Real().build(inputs(), pool_spec(), None)
    assert [source.network_calls(pool_spec()) for source in (Real(), Noise(), CROPS)] == [0, 0, 0]


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
