"""Image files in folders of classes: the written pixels, and errors that name the file and the fix."""

import numpy as np
import pytest
import torch
from PIL import Image

from derive.errors import UsageError
from verify.training import pixels
from verify.training.data import load

RANDOM = np.random.default_rng(1)


def write(folder, name, grey=False, side=6, ending="png"):
    """Write a picture; return its pixels (channels, side * side)."""
    shape = (side, side) if grey else (side, side, 3)
    values = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / f"{name}.{ending}")
    return values.reshape(side * side, -1).T


@pytest.fixture
def folder(tmp_path):
    """Two classes, twenty pictures in one folder."""
    for k in range(20):
        write(tmp_path / ("cat" if k % 2 else "dog"), f"{k:02d}")
    (tmp_path / "cat" / ".hidden").write_text("left alone")
    return tmp_path


def grey_levels(part, train):
    """The pixels of a part before standardisation by all images but the test images."""
    values, part = train.reshape(len(train), 3, -1).astype(float), part.gathered()
    mean, deviation = values.mean((0, 2)), values.std((0, 2))
    return part.x.reshape(len(part), 3, -1) * torch.tensor(deviation)[:, None] + torch.tensor(mean)[:, None]


def test_given_parts_are_kept(tmp_path):
    written = {}
    for part, count in (("train", 10), ("test", 4)):
        for k in range(count):
            written[part, k] = write(tmp_path / part / ("b" if k % 2 else "a"), f"{k:02d}")
    data = load(str(tmp_path), 3)
    assert (data.name, data.classes, data.shape, data.kind) == ("image-folder", 2, (3, 6, 6), "images")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [9, 1, 4]
    in_order = [(k, 0) for k in range(0, 10, 2)] + [(k, 1) for k in range(1, 10, 2)]
    order = np.random.Generator(np.random.PCG64(3)).permutation(10)
    rows = [in_order[k] for k in order[1:]]
    learn = np.stack([written["train", k] for k, _ in in_order])
    train = np.stack([written["train", k] for k, _ in rows])
    torch.testing.assert_close(grey_levels(data.train, learn), torch.tensor(train.astype(float)))
    assert data.train.gathered().y.tolist() == [number for _, number in rows]
    expected = np.stack([written["test", k] for k in (0, 2, 1, 3)]).astype(float)
    torch.testing.assert_close(grey_levels(data.test, learn), torch.tensor(expected))
    assert data.test.y.tolist() == [0, 0, 1, 1]


def test_a_tenth_is_held_out_where_there_are_no_parts(folder):
    data = load(str(folder), 0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 2, 2]
    together = torch.cat([part.gathered().x for part in (data.train, data.validation, data.test)])
    assert len(together.unique(dim=0)) == 20
    other = load(str(folder), 1)
    assert other.digest == data.digest and not torch.equal(other.test.x, data.test.x)


def test_grey_images_have_one_channel(tmp_path):
    for k in range(20):
        write(tmp_path / "one", f"{k}", grey=True, side=5, ending="jpeg")
    assert load(str(tmp_path), 0).shape == (1, 5, 5)


def truncated(folder, ending="png"):
    write(folder / "cat", "zz", side=32, ending=ending)
    path = folder / "cat" / f"zz.{ending}"
    path.write_bytes(path.read_bytes()[:-200])


def make_test_part(folder):
    write(folder / "train" / "cat", "0")
    write(folder / "test" / "cow", "0")
    for name in ("cat", "dog"):
        (folder / name).rename(folder.parent / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cat/zz.png cannot be read (image file is truncated"),
        (lambda f: truncated(f, "jpg"), "cat/zz.jpg cannot be read (image file is truncated"),
        (lambda f: (f / "cat" / "a.png").write_text("no image"), "cat/a.png cannot be read (it is not an image)"),
        (lambda f: (f / "cat" / "a.png").write_bytes(b""), "cat/a.png cannot be read (it is not an image)"),
        (lambda f: (f / "cat" / "a.gif").write_bytes(b"GIF89a"), "cat/a.gif is not an image (.png, .jpg, .jpeg)"),
        (lambda f: (f / "cat" / "kittens").mkdir(), "cat/kittens is not an image"),
        (lambda f: (f / "empty").mkdir(), "empty contains no image; add the images of the class"),
        (lambda f: write(f, "loose"), "loose.png belongs to no class; move it into the sub-folder of its class"),
        (lambda f: write(f / "dog", "z", side=7), "dog/z.png has 3 x 7 x 7 pixels (channels x height x width)"),
        (lambda f: write(f / "dog", "z", grey=True), "dog/z.png has 1 x 6 x 6 pixels"),
        (lambda f: write(f / "dog", "z", side=513), "dog/z.png cannot be read (513 x 513 pixels are too many)"),
        (make_test_part, "cow: the training images have no class 'cow'"),
    ],
)
def test_what_cannot_be_read_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UsageError) as caught:
        load(str(folder), 0)
    assert message in str(caught.value)


def test_more_than_can_be_held_is_refused(folder, monkeypatch):
    monkeypatch.setattr(pixels, "LARGEST_DATA", 1000)
    with pytest.raises(UsageError, match=r"20 images of 108 bytes are more than 1000 bytes; give fewer or smaller"):
        load(str(folder), 0)
