"""Images from folders: the CIFAR binary releases and Parquet, against the written pixels."""

import io

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from derive.errors import UsageError
from verify.training.config import TrialConfig
from verify.training.data import load
from verify.training.trial import run_trial

RANDOM = np.random.default_rng(0)


def pictures(count, side=32):
    return RANDOM.integers(0, 256, (count, 3, side, side), dtype=np.uint8), RANDOM.integers(0, 10, count)


def write_cifar(folder, files, labels=1):
    """Write files of random images; return pixels (images, 3 * 1024) and classes by file."""
    written = {}
    for name, count in files.items():
        pixels, classes = pictures(count)
        heads = np.stack([np.full(count, 7)] * (labels - 1) + [classes], axis=1).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([heads, pixels.reshape(count, -1)], axis=1).tobytes())
        written[name] = (pixels.reshape(count, -1), classes)
    return written


def write_parquet(path, pixels, classes, image="img", label="label"):
    cells = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    parquet.write_table(pyarrow.table({image: cells, label: pyarrow.array(classes)}), path)


def assert_holds(part, pixels, classes, train):
    """The part has these images, in this order, standardised by the channels of all images but the test images."""
    part = part.gathered()
    by_channel = train.reshape(len(train), 3, -1).astype(float)
    mean, deviation = by_channel.mean(axis=(0, 2)), by_channel.std(axis=(0, 2))
    expected = (pixels.reshape(len(pixels), 3, -1) - mean[:, None]) / deviation[:, None]
    torch.testing.assert_close(part.x, torch.tensor(expected.reshape(len(pixels), -1)))
    assert part.y.tolist() == list(classes)


FILES = {"data_batch_1.bin": 30, "data_batch_2.bin": 20, "test_batch.bin": 7}


@pytest.mark.parametrize(
    ("name", "files", "labels"), [("cifar10", FILES, 1), ("cifar100", {"train.bin": 50, "test.bin": 7}, 2)]
)
def test_cifar_binary(tmp_path, name, files, labels):
    *learn, test = write_cifar(tmp_path, files, labels).values()
    pixels, classes = (np.concatenate(both) for both in zip(*learn, strict=True))
    data = load(str(tmp_path), 3)
    assert (data.name, data.features) == (name, 3072)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [45, 5, 7]
    order = np.random.Generator(np.random.PCG64(3)).permutation(50)
    assert_holds(data.train, pixels[order[5:]], classes[order[5:]], pixels)
    assert_holds(data.validation, pixels[order[:5]], classes[order[:5]], pixels)
    assert_holds(data.test, *test, pixels)
    other = load(str(tmp_path), 4)
    assert other.train.x.data_ptr() == data.validation.x.data_ptr() == data.train.x.data_ptr(), "one memory for all"
    assert not torch.equal(other.train.rows, data.train.rows)


@pytest.mark.parametrize("columns", [("img", "label"), ("image", "fine_label")])
def test_parquet_gives_what_the_binary_release_gives(tmp_path, columns):
    (binary := tmp_path / "binary").mkdir()
    (tables := tmp_path / "tables").mkdir()
    written = write_cifar(binary, {"data_batch_1.bin": 40, "test_batch.bin": 6})
    for file, (pixels, classes) in zip(("train.parquet", "test.parquet"), written.values(), strict=True):
        write_parquet(tables / file, pixels.reshape(-1, 3, 32, 32), classes, *columns)
    first, second = load(str(binary), 1), load(str(tables), 1)
    assert second.name == "parquet-images" and first.digest == second.digest
    assert torch.equal(first.train.x, second.train.x) and torch.equal(first.test.y, second.test.y)


def test_the_digest_names_pixels_and_classes(tmp_path):
    write_cifar(tmp_path, FILES)
    first = load(str(tmp_path), 0).digest
    assert load(str(tmp_path), 1).digest == first, "the split follows from the seed, which a trial names"
    content = bytearray((tmp_path / "test_batch.bin").read_bytes())
    content[-1] ^= 1
    (tmp_path / "test_batch.bin").write_bytes(content)
    assert load(str(tmp_path), 0).digest != first


def test_a_trial_trains_on_them(tmp_path):
    write_cifar(tmp_path, FILES)
    config = TrialConfig(method="affine-like", learning_rate=1.0, width=4, depth=1, steps=3, epochs=None, batch_size=8)
    result = run_trial(config, load(str(tmp_path), 0))
    assert result.outcome == "finished" and result.points[-1].step == 3


def break_nothing(folder):
    """Leave a folder of no known layout."""


def break_count(folder):
    write_cifar(folder, {"data_batch_1.bin": 1, "test_batch.bin": 2})


def break_cifar(folder):
    write_cifar(folder, FILES)
    (folder / "data_batch_2.bin").write_bytes(b"x" * 3074)


def break_batches(folder):
    write_cifar(folder, {"test_batch.bin": 2})


def break_columns(folder):
    for name in ("train", "test"):
        write_parquet(folder / f"{name}.parquet", *pictures(2), image="picture")


def break_parquet(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 no")


def break_the_end(folder):
    write_parquet(folder / "train.parquet", *pictures(2))
    content = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content[:-100])


def break_the_end_of_an_image(folder):
    buffer = io.BytesIO()
    Image.fromarray(pictures(1)[0][0].transpose(1, 2, 0)).save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue()}, {"bytes": buffer.getvalue()[:-1000]}]
    parquet.write_table(pyarrow.table({"img": cells, "label": [0, 1]}), folder / "train.parquet")


def break_labels_of_cifar(folder):
    write_cifar(folder, FILES)
    (folder / "data_batch_2.bin").write_bytes(bytes([10]) + b"x" * 3072)


def break_image(folder):
    parquet.write_table(pyarrow.table({"img": [{"bytes": b"GIF89a"}], "label": [0]}), folder / "train.parquet")


def break_sizes(folder):
    parquet.write_table(pyarrow.table({"img": [{"bytes": b""}], "label": [0]}).slice(1), folder / "train.parquet")


def break_labels(folder):
    write_parquet(folder / "train.parquet", pictures(2)[0], ["cat", "dog"])


def break_size(folder):
    write_parquet(folder / "train.parquet", *pictures(1, side=520))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nothing, "holds no data of a known layout; give the folder of a CIFAR binary release"),
        (break_cifar, "data_batch_2.bin: 3074 bytes are not a whole number of images; download the file again"),
        (break_labels_of_cifar, "data_batch_2.bin: class 10 of 10: this is not a CIFAR binary file; download it again"),
        (break_the_end, "train.parquet: not a readable Parquet file"),
        (break_the_end_of_an_image, "train.parquet: image 1 cannot be read (image file is truncated"),
        (break_count, "1 training and 2 test images are too few to train on"),
        (break_batches, "holds no data_batch_*.bin; put the missing file beside the others"),
        (break_columns, "train.parquet: no column img or image (there are: picture, label)"),
        (break_parquet, "train.parquet: not a readable Parquet file"),
        (break_image, "train.parquet: image 0 cannot be read"),
        (break_sizes, "the images of train*.parquet are missing or differ in shape"),
        (break_labels, "train.parquet: the label 'cat' is not a class"),
        (break_size, "image 0 cannot be read (520 x 520 pixels are too many)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, damage, message):
    damage(tmp_path)
    with pytest.raises(UsageError) as caught:
        load(str(tmp_path), 0)
    assert message in str(caught.value)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file; images come from a folder"):
        load(str(tmp_path / "train.bin"), 0)
