"""What a step of training is shown: batches, chunks of augmentation, progress."""

from __future__ import annotations

import dataclasses

import torch

from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet, resized
from ims3core.students import train
from ims3core.students.train import train_student
from tests.students.test_student_train import bars, make_plan, run, setup, small


def test_a_student_may_look_at_another_size_than_that_of_the_images():
    """Images of 16 px shown at 8 px train and score like the same images resized beforehand."""
    images, labels = bars(4, seed=0)
    large = resized(images, 16)
    held_out, held_labels = bars(4, seed=1)

    at_once = run(large, labels, held_out=(resized(held_out, 16), held_labels), steps=6)
    before = run(resized(large, 8), labels, held_out=(resized(resized(held_out, 16), 8), held_labels), steps=6)

    assert at_once.curve == before.curve


def test_chunks_of_steps_hold_whole_batches(monkeypatch):
    """Without augmentation, the number of steps prepared at once changes nothing."""
    images, labels = bars(5, seed=0)
    together = run(images, labels, cutmix=0.5).curve
    monkeypatch.setattr(train, "CHUNK_VALUES", 1)

    assert run(images, labels, cutmix=0.5).curve == together


def test_every_epoch_shows_each_image_once():
    """The batches of an epoch are a partition of the images, and epochs differ in order."""
    made = make_plan(11, epochs=3, steps=None, batch_size=4)
    orders = train._orders(made, 0)

    epochs = [torch.cat([next(orders) for _ in range(made.steps_per_epoch)]) for _ in range(3)]

    assert all(sorted(epoch.tolist()) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


def test_augmentation_is_seeded_per_chunk_and_sees_unit_range_images(monkeypatch):
    """The augmentation gets images in [0, 1] before normalisation and another seed for each chunk."""
    seeds = []

    def spy(images, seed):
        assert images.min() >= 0
        assert images.max() <= 1
        seeds.append(seed)
        return images

    monkeypatch.setattr(train, "CHUNK_VALUES", 2 * 8 * 64)
    run(*bars(5, seed=0), augment=spy, steps=6)

    assert seeds == [derive_seed(0, "augment", chunk) for chunk in range(3)]


def test_what_chooses_for_a_whole_batch_sees_one_batch_at_a_time():
    """Twelve images in batches of 8: eight and four, each under a seed of its own."""
    seen = []

    def spy(images, seed):
        seen.append((len(images), seed))
        return images

    images, labels = bars(4, seed=0)
    plan = make_plan(len(images), steps=4)
    alone = dataclasses.replace(setup(plan, augment=spy), by_batch=True)
    train_student(small(), ImageSet(images, labels), ImageSet(*bars(2, seed=9)), alone, seed=0)

    assert seen == [(count, derive_seed(0, "augment", step)) for step, count in enumerate([8, 4, 8, 4])]


def test_progress_counts_every_step():
    """The callback hears 1, 2, ... up to the plan's steps."""
    heard = []
    run(*bars(2, seed=0), steps=4, on_progress=heard.append)

    assert heard == [1, 2, 3, 4]
