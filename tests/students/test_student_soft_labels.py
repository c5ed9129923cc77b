"""Students of soft labels: RDED's protocol against a plain version, labels made anew, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ims3core.base.seeds import generator
from ims3core.data import ImageSet
from ims3core.errors import ParameterError
from ims3core.students.augment import cutmix as cutmix_batch
from ims3core.students.networks import build_student
from ims3core.students.plans import OptimiserSpec, Plan
from ims3core.students.train import train_student
from tests.students.test_student_train import MEAN, STD, augmentation, bars, make_plan, run, setup, small


def rded_plan(images):
    """RDED's protocol (methods f.1) for three steps."""
    adamw = OptimiserSpec(1e-3, "adamw", weight_decay=0.01, decay_matrices_only=True, schedule="half_cosine")
    return Plan(
        images, 4, adamw, steps=3, evaluations=1, cutmix=1.0, temperature=20.0, batchnorm_warmup=True
    )  # fmt: skip


def test_rdeds_protocol_equals_a_plain_version():
    """Three steps of student, teacher and optimiser, written plainly in torch, give the same weights to 1e-6."""
    images, labels = bars(4, seed=0)
    build = {"classes": 3, "channels": 1, "side": 8, "norm": "batch"}
    ours, plain, teacher = (build_student("convnet", **build, seed=n) for n in (0, 0, 1))
    teacher.eval()
    data = ImageSet(images, labels)
    how = setup(rded_plan(len(images)), teacher=lambda x: teacher((x - MEAN[0]) / STD[0]))

    train_student(ours, data, data, how, seed=5)

    groups = [{"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.01},
              {"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), fused=True)
    order = torch.randperm(12, generator=generator(5, "order", 0)).split(4)
    for step in range(3):
        x = images[order[step]].float() / 255
        stream = generator(5, "cutmix", step)
        torch.rand((), generator=stream)  # whether to mix: always
        x = (cutmix_batch(x, stream=stream)[0] - MEAN[0]) / STD[0]
        with torch.no_grad():
            plain(x)
            soft = F.softmax(teacher(x) / 20, dim=1)
        loss = (soft * (soft.log() - F.log_softmax(plain(x) / 20, dim=1))).sum(1).mean()
        adam.zero_grad()
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / (2 * 3)))
        adam.step()

    for found, expected in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_labels_made_anew_equal_labels_stored_once():
    """A second run with the teacher's logits of the first, by step, ends in the same weights: nothing need be stored."""
    images, labels = bars(4, seed=0)
    teacher = build_student("convnet", classes=3, channels=1, side=8, seed=1).eval()
    stored = []

    def keeping(x):
        stored.append(teacher(x))
        return stored[-1]

    plan = make_plan(len(images), steps=7, cutmix=0.5, temperature=4.0, batch_size=5)
    data, augment = ImageSet(images, labels), augmentation(crop_scale=[0.5, 1], flip=0.5)
    networks, replay = [small() for _ in range(3)], iter(stored)
    for network, source in zip(networks, (keeping, lambda x: next(replay), teacher), strict=True):
        train_student(network, data, data, setup(plan, augment=augment, teacher=source), seed=3)

    for one, two, three in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


def test_a_teacher_that_knows_the_classes_helps_a_student_of_one_image():
    """Soft labels of a good teacher are worth more than the class alone."""
    many, classes = bars(40, seed=1)
    teacher = small()
    run(many, classes, network=teacher, steps=200)
    plan = make_plan(3, steps=60, cutmix=1.0, temperature=4.0)
    how = setup(
        plan, augment=augmentation(rotate=20.0, translate=0.2), teacher=lambda x: teacher((x - MEAN[0]) / STD[0])
    )

    taught = train_student(small(seed=2), ImageSet(*bars(1, seed=0)), ImageSet(*bars(60, seed=99)), how, seed=0)

    assert taught.last_top1 > 50


@pytest.mark.parametrize(("temperature", "teacher"), [(4.0, None), (None, small())])
def test_soft_labels_take_a_temperature_and_a_teacher(temperature, teacher):
    """One without the other is refused, not passed over."""
    with pytest.raises(ParameterError, match="a temperature and a teacher, found one of them only"):
        setup(make_plan(3, temperature=temperature), teacher=teacher)
