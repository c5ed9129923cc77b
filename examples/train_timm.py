"""Trains a timm model on a set of `ims3 export set`: python examples/train_timm.py FOLDER [NETWORK] [STEPS]."""

import sys

import timm
import torch
from torchvision import datasets, transforms

folder, network, steps = (*sys.argv[1:], *("", "resnet10t", "500")[len(sys.argv) - 1 :])
plain = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
test = datasets.ImageFolder(f"{folder}/test", transforms.Compose(plain))
side = test[0][0].shape[-1]
views = [transforms.RandomResizedCrop(side, scale=(0.6, 1.0)), transforms.RandomHorizontalFlip(), *plain]
train = datasets.ImageFolder(f"{folder}/train", transforms.Compose(views))
model = timm.create_model(network, num_classes=len(train.classes))
optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, int(steps))
batches = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
while schedule.last_epoch < int(steps):
    for images, labels in batches:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
        schedule.step()
with torch.no_grad():
    model.eval()
    tested = torch.utils.data.DataLoader(test, batch_size=256)
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in tested)
print(f"{network}: {100 * right / len(test):.1f} % of {len(test)} test images")
