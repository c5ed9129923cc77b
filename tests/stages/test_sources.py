"""The same images from any kind of storage end as the same features and centroids."""

import io

import numpy as np
import pytest
from PIL import Image

STAGES = ("prepare", "encoder", "candidates real", "features real", "centroids real")
OUTCOMES = ("features/real/features.safetensors", "centroids/real/centroids.safetensors")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """``path[source]``: the embedded digits as a folder, an npz archive and parquet files, each in its own order."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    from ims3core.ingest.readers import digits

    listing = digits.read()
    pixels, labels = np.asarray(listing.items), listing.labels
    root = tmp_path_factory.mktemp("stored")
    path = {"imagefolder": root / "folder", "npz": root / "digits.npz", "huggingface": root / "parquet"}
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = path["imagefolder"] / listing.names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:04d}.png")
    np.savez(path["npz"], images=pixels[::-1], labels=labels[::-1], class_names=np.array(listing.names))
    order = np.random.default_rng(0).permutation(len(pixels))
    path["huggingface"].mkdir()

    def png(image):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    rows = {"image": [png(pixels[n]) for n in order], "label": labels[order].tolist()}
    columns = Features({"image": ImageFeature(), "label": ClassLabel(names=listing.names)})
    Dataset.from_dict(rows, features=columns).to_parquet(str(path["huggingface"] / "train-00000.parquet"))
    return path


@pytest.fixture(scope="module")
def embedded(build, toy_text):
    """Features and centroids of the embedded data set, as bytes."""
    root = build(toy_text, *STAGES)
    return [(root / "data" / name).read_bytes() for name in OUTCOMES]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ["imagefolder", "npz", "huggingface"])
def test_storage_and_order_change_no_feature_and_no_centroid(source, stored, embedded, toy, stage, tmp_path):
    """The files of features and of centroids are equal byte for byte, whatever held the images, in any order."""
    toy(data__source=source, data__path=str(stored[source]), data__name=None)
    for line in STAGES:
        stage(*line.split())
    assert [(tmp_path / "data" / name).read_bytes() for name in OUTCOMES] == embedded
