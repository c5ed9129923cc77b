"""Classifiers trained on the real images, and what they are once they are written and read."""

from __future__ import annotations

import pytest
import torch

from ims3core.base import compute, distributed, files
from ims3core.classifiers import encoder, teacher
from ims3core.classifiers.training import ClassifierSpec, RealImages, train_classifier
from ims3core.data import ImageSet
from ims3core.students.settings import Augment

MACHINE = compute.Machine(torch.device("cpu"), "fp32", False, distributed.ProcessGroup())
AUGMENT = Augment(
    crop_scale=None, flip=0.0, rotate=5.0, translate=0.0, colour=0.0, lighting=0.0, patch_shuffle=1, randaugment=None
)
STATISTICS = ([0.4], [0.3])


def bars(per_class, seed):
    """Three classes of 8x8 images: a bright top, bottom or left half under noise."""
    labels = torch.arange(3).repeat(per_class)
    halves = torch.zeros(3, 1, 8, 8)
    halves[0, :, :4], halves[1, :, 4:], halves[2, :, :, :4] = 0.4, 0.4, 0.4
    noise = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ImageSet((255 * (0.5 * halves[labels] + 0.5 * noise)).to(torch.uint8), labels)


def train(norm="instance", steps=40):
    """A small classifier of them."""
    spec = ClassifierSpec("convnet", steps, 16, 0.05, 0.9, 5e-4, 0.0, norm)
    real = RealImages(bars(20, 1), bars(15, 2), classes=3, statistics=STATISTICS)
    return train_classifier(spec, real, augment=AUGMENT, machine=MACHINE, seed=0)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_what_is_written_has_the_accuracy_that_was_trained(norm, tmp_path):
    """The teacher that is read back sees images as training did, norms included, and is as good."""
    network, config, top1 = train(norm)
    encoder.write_encoder(tmp_path, network, config)
    files.write_manifest(tmp_path, "teacher")
    teacher.write_rows(tmp_path, teacher.head_rows(config, ["a", "b", "c"]))

    again, validation = teacher.read_teacher(tmp_path), bars(15, 2)

    assert top1 > 60
    accuracy = teacher.accuracy(again, validation.images, validation.class_index, batch_size=7, device=MACHINE.device)
    assert accuracy == pytest.approx(top1, abs=1e-3)
    assert len(again.norms) == (2 if norm == "batch" else 0)
    weight, bias = again.head()
    logits = again.inputs(validation.images) @ weight.T + bias
    torch.testing.assert_close(logits, again(validation.images.float() / 255))


def test_a_classifier_is_a_function_of_its_seed():
    """Equal arguments give equal weights."""
    one, other = (train(steps=3)[0].state_dict() for _ in range(2))

    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_teacher_of_more_classes_answers_for_ours_alone(tmp_path):
    """The outputs that classes.json names, in its order: of logits and of the head."""
    network, config, _ = train(steps=3)
    encoder.write_encoder(tmp_path, network, config)
    teacher.write_rows(tmp_path, [2, 0])
    files.write_manifest(tmp_path, "teacher")
    images = bars(2, 2).images
    found = teacher.read_teacher(tmp_path)

    whole = teacher.Teacher(encoder.read_encoder(tmp_path, kind="teacher"))(images.float() / 255)
    assert torch.equal(found(images.float() / 255), whole[:, [2, 0]])
    weight, bias = found.head()
    torch.testing.assert_close(found.inputs(images) @ weight.T + bias, whole[:, [2, 0]])
