"""Data sets: where files come from and which are refused, standardisation, splits, selections."""

import hashlib
import http.server
import os
import threading
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from nets.data import datasets, files

ROOT = os.environ.get("FPSOLVE_DATA")
needs_files = pytest.mark.skipif(not ROOT, reason="FPSOLVE_DATA names no directory with data files")


def _npz(path, **changes):
    """A small file of images in three classes."""
    rng = np.random.default_rng(0)
    arrays_ = {
        "x_train": rng.integers(0, 256, (30, 4, 4), dtype=np.uint8), "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (9, 4, 4), dtype=np.uint8), "y_test": np.arange(9) % 3,
    }  # fmt: skip
    arrays_ |= changes
    np.savez(path, **{k: v for k, v in arrays_.items() if v is not None})
    return path


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A public data set ``tiny`` whose file, sha256 and address are known, an empty cache, and no directory named."""
    path = _npz(tmp_path / "public" / "tiny.npz") if (tmp_path / "public").mkdir() is None else None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    handler = lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=path.parent)  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tiny = files.PublicFile("tiny.npz", digest, f"http://127.0.0.1:{server.server_port}/tiny.npz")
    monkeypatch.setitem(files.PUBLIC, "tiny", tiny)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("FPSOLVE_DATA", raising=False)
    yield path
    server.shutdown()


def test_digits_come_without_a_file_standardised_and_split():
    data = datasets.load()
    assert data.name == "digits" and data.input_shape == (1, 8, 8) and data.features == 64
    assert (data.samples, len(data.test_labels)) == (1500, 297)
    assert data.train_inputs.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    assert data.classes == tuple("0123456789")
    x = data.train_inputs.double().flatten(1)
    varying = x.abs().amax(0) > 0
    assert varying.sum() == 61 and "3 of 64 constant" in data.provenance["standardised"]
    assert x[:, varying].mean(0).abs().max() < 1e-6
    assert (x[:, varying].std(0, correction=0) - 1).abs().max() < 1e-6
    # The test rows are shifted and scaled by the training rows' numbers, not by their own.
    assert data.test_inputs.flatten(1)[:, varying].mean(0).abs().max() > 0.1
    again = datasets.load("digits")
    assert torch.equal(again.train_inputs, data.train_inputs) and again.digest == data.digest


def test_a_public_file_is_fetched_once_and_then_found_in_the_cache(known, tmp_path):
    first = datasets.load("tiny")
    known.unlink()  # nothing is there any more to be fetched
    again = datasets.load("tiny")
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert first.provenance["sha256"] == files.PUBLIC["tiny"].sha256
    assert (tmp_path / "cache" / "fpsolve" / "tiny.npz").is_file()


def test_a_named_directory_is_used_and_nothing_else(known, tmp_path, monkeypatch):
    assert datasets.load("tiny", known.parent).samples == 30
    monkeypatch.setenv("FPSOLVE_DATA", str(known.parent))
    assert datasets.load("tiny").samples == 30
    with pytest.raises(FileNotFoundError, match=r"holds no tiny\.npz.*FPSOLVE_DATA"):
        datasets.load("tiny", tmp_path)  # the argument goes before the variable, and no download stands in


def test_a_file_with_another_sha256_is_refused_and_kept(known, tmp_path):
    wrong = _npz(tmp_path / "tiny.npz", y_test=np.zeros(9, int))
    held = wrong.read_bytes()
    with pytest.raises(ValueError, match=r"sha256 .* corrupted or another file.*from_npz"):
        datasets.load("tiny", tmp_path)
    assert wrong.read_bytes() == held


def test_a_download_with_another_sha256_is_refused(known):
    _npz(known, y_test=np.zeros(9, int))
    with pytest.raises(FileNotFoundError, match=r"could not be fetched.*fetch it yourself"):
        datasets.load("tiny")


def test_a_corrupted_file_in_the_cache_is_refused_and_kept(known, tmp_path):
    datasets.load("tiny")
    file = tmp_path / "cache" / "fpsolve" / "tiny.npz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="corrupted"):
        datasets.load("tiny")
    assert file.is_file()


def test_without_a_public_address_the_error_says_what_to_do(known, monkeypatch):
    monkeypatch.setitem(files.PUBLIC, "tiny", files.PublicFile("tiny.npz", "0" * 64))
    with pytest.raises(FileNotFoundError, match=r"put tiny\.npz \(sha256 0{64}\).*FPSOLVE_DATA.*digits"):
        datasets.load("tiny")


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"did you mean 'mnist'\? known are digits"):
        datasets.load("mnits")
    with pytest.raises(ValueError, match="standardise='z'"):
        datasets.load(standardise="z")


def test_a_file_with_pickled_objects_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    _npz(tmp_path / "trap.npz", extra=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        datasets.from_npz(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x_train.npy", bytes(100_000))
    with pytest.raises(ValueError, match="unpacks to 100000 bytes; at most 10000"):
        datasets.from_npz(tmp_path / "bomb.npz")


def test_the_binary_form_of_cifar_is_read_as_images(tmp_path):
    import io
    import tarfile

    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        batches = {}
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            batches[name] = np.concatenate(
                [rng.integers(0, 10, (4, 1)), rng.integers(0, 256, (4, 3072))], 1
            ).astype(np.uint8)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = batches[name].nbytes
            archive.addfile(member, io.BytesIO(batches[name].tobytes()))
    read = files.read_cifar(tmp_path / "cifar.tar.gz")
    assert read["x_train"].shape == (20, 32, 32, 3) and read["x_test"].shape == (4, 32, 32, 3)
    # A record is a label, then all red values row by row, then green, then blue.
    assert read["y_train"][5] == batches["data_batch_2"][1, 0]
    assert read["x_train"][5, 3, 7, 2] == batches["data_batch_2"][1, 1 + 2 * 1024 + 3 * 32 + 7]


def test_ones_own_file_is_read_with_its_sha256(tmp_path):
    path = _npz(tmp_path / "mine.npz", class_names=np.array(["a", "b", "c"]))
    data = datasets.from_npz(path)
    assert data.name == "mine" and data.classes == ("a", "b", "c") and data.input_shape == (1, 4, 4)
    assert data.provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    colour = _npz(
        tmp_path / "c.npz", x_train=np.zeros((30, 4, 4, 3), np.uint8), x_test=np.ones((9, 4, 4, 3), np.uint8)
    )
    assert datasets.from_npz(colour).input_shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y_test": None}, "arrays y_test are missing"),
        ({"y_test": np.arange(8) % 3}, "do not match"),
        ({"x_test": np.zeros((9, 5, 5))}, "differ"),
        ({"x_train": np.full((30, 4, 4), np.nan)}, "not finite"),
        ({"y_train": np.full(30, -1)}, "count from 0"),
        ({"y_train": np.arange(30) % 2 * 2}, "every class needs training rows; label 1 has none"),
        ({"y_train": np.arange(30) % 3 * 10**18}, "label 1 has none"),
        ({"y_test": np.full(9, 7)}, "every class needs training rows; label 7 has none"),
        ({"y_test": np.full(9, 10**18)}, "every class needs training rows"),
        ({"y_train": np.arange(30) % 3 + 0.5}, "whole numbers that count from 0; they are float64, such as 0.5"),
        ({"y_train": (np.arange(30) % 3).astype("M8[D]")}, "they are datetime64"),
        ({"y_train": (np.arange(30) % 3).astype("m8[s]")}, "they are timedelta64"),
        ({"y_train": np.arange(30) % 3 * 1j}, "they are complex128"),
        ({"y_train": np.where(np.arange(30) % 3, 1, np.nan)}, "they are float64"),
        ({"y_train": np.where(np.arange(30) % 3, 1, np.inf)}, "they are float64"),
        ({"y_train": (np.arange(30) % 3).astype(np.uint64) * np.uint64(2**63)}, "count from 0"),
        ({"y_train": np.array(["a", "b", "c"] * 10)}, "they are <U1, such as a"),
        ({"y_train": np.zeros((30, 1), int)}, "do not match"),
        ({"x_train": np.zeros((30, 4, 4)) + 1e200 * np.arange(30)[:, None, None]}, "divide the inputs"),
        ({"x_train": np.zeros((30, 4, 4, 4, 4))}, "neither"),
        ({"x_train": np.full((30, 4, 4), "a")}, "not numbers"),
    ],
)  # fmt: skip
def test_files_that_make_no_sense_are_refused(tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        datasets.from_npz(_npz(tmp_path / "bad.npz", **change))


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.float32, bool, str])
def test_labels_are_the_whole_numbers_they_say_whatever_their_type(tmp_path, kind):
    labels = np.arange(30) % 2
    path = _npz(tmp_path / "a.npz", y_train=labels.astype(kind), y_test=labels[:9].astype(kind))
    assert datasets.from_npz(path).train_labels.tolist() == labels.tolist()


def test_a_file_of_rows_without_labels_for_each_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2)), y=np.array(3))
    with pytest.raises(ValueError, match=r"x \(5, 2\) and y \(\) must be"):
        datasets.from_npz(tmp_path / "a.npz")


X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2


def test_data_of_arrays_are_those_of_tensors():
    one = datasets.Data("mine", X, Y, X[:2], Y[:2], ("a", "b"))
    for x in (X.numpy(), X.numpy()[:, ::-1].copy()[:, ::-1]):
        y = Y.numpy().astype(np.uint8)
        other = datasets.Data("mine", x, y, x[:2], y[:2], ("a", "b"))
        assert other.digest == one.digest and other.train_labels.dtype is torch.int64
    whole = datasets.Data("mine", np.eye(6, dtype=np.uint8), Y, np.eye(6, dtype=int)[:2], Y[:2], ("a", "b"))
    assert whole.train_inputs.dtype is whole.test_inputs.dtype is torch.float32
    assert repr(one) == "Data('mine': 6 + 2 rows of (3,), 2 classes)"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"train_labels": ["a"] * 6}, "train_labels must be a tensor or an array of numbers"),
        ({"train_labels": np.array(["0", "1"] * 3)}, "array of numbers"),
        ({"train_labels": Y.float() + 0.5}, "not whole numbers"),
        ({"train_labels": Y.bool()}, "not whole numbers"),
        ({"train_labels": Y[:, None]}, r"\(6, 1\) must be"),
        ({"train_labels": Y[:3]}, r"\(6, 3\) and train_labels \(3,\) must be"),
        ({"test_labels": Y[:2] - 100}, "test_labels from -100 to -99 must lie between 0 and 1"),
        ({"train_labels": Y + 1}, "train_labels from 1 to 2 must lie between 0 and 1, one for each of the 2"),
        ({"train_inputs": X / 0}, "train_inputs are not finite"),
        ({"test_inputs": X[:2] * float("nan")}, "test_inputs are not finite"),
        ({"train_inputs": X[:, 0]}, "must be"),
        ({"train_inputs": X * 1j}, "not real numbers"),
        ({"train_inputs": [[1, 2]] * 5 + [[1]]}, "array of numbers"),
    ],
)  # fmt: skip
def test_data_that_make_no_sense_are_refused(change, match):
    parts = {"train_inputs": X, "train_labels": Y, "test_inputs": X[:2], "test_labels": Y[:2]}
    with pytest.raises(ValueError, match=match):
        datasets.Data("mine", **(parts | change), classes=("a", "b"))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        datasets.from_npz(tmp_path / "no.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="no npz file"):
        datasets.from_npz(tmp_path / "text.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused_or_has_the_same_numbers(tmp_path, save):
    rows, labels, path = np.arange(12.0).reshape(6, 2), np.arange(6) % 2, tmp_path / "a.npz"
    save(path, x_train=rows, y_train=labels, x_test=rows[:2], y_test=labels[:2])
    held, draw, refused = path.read_bytes(), np.random.default_rng(0), 0
    digest = datasets.from_npz(path).digest
    for place in range(0, len(held), 3):
        bad = bytearray(held)
        bad[place] ^= 1 << draw.integers(8)
        path.write_bytes(bad)
        try:
            assert datasets.from_npz(path).digest == digest  # such as a date in the archive
        except ValueError:
            refused += 1
    assert refused > 100


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, (12, 2, 3, 3)))
def test_standardised_pixels_have_mean_zero_and_variance_one_unless_they_are_constant(images):
    train, test, _ = datasets._standardised(images, images[:2], "pixel")
    constant = images.max(0) == images.min(0)
    assert (train[:, constant] == 0).all()
    assert train.mean(0) == pytest.approx(0, abs=1e-5)
    assert train.std(0)[~constant] == pytest.approx(1, abs=1e-5)
    assert np.array_equal(train[:2], test)


def test_a_pixel_constant_in_training_is_zero_in_the_test_too_whatever_its_value():
    train = np.zeros((6, 2))
    train[:, 0] = np.arange(6)
    _, test, said = datasets._standardised(train, np.array([[1.0, 255.0]]), "pixel")
    assert test[0, 1] == 0 and "1 of 2 constant" in said


def test_the_other_ways_to_standardise_do_what_they_say():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4)).astype(np.uint8)
    train, _, _ = datasets._standardised(images, images[:5], "channel")
    assert train.mean((0, 2, 3)) == pytest.approx(0, abs=1e-6)
    assert train.std((0, 2, 3)) == pytest.approx(1, rel=1e-6)
    assert abs(train.mean(0)).max() > 0.1
    assert np.array_equal(
        datasets._standardised(images, images, "none")[0], (images / 255.0).astype(np.float32)
    )
    assert np.array_equal(datasets._standardised(images * 1.0, images, "none")[0], images.astype(np.float32))


def test_classes_can_be_selected_and_are_relabelled_in_the_order_given():
    data = datasets.load()
    part = data.select([7, 3])
    rows = torch.nonzero((data.train_labels == 7) | (data.train_labels == 3)).ravel()
    assert part.classes == ("7", "3") and part.samples == len(rows)
    assert torch.equal(part.train_inputs, data.train_inputs[rows])
    assert torch.equal(part.train_labels, (data.train_labels[rows] == 3).long())
    assert part.provenance["selected"] == "classes 7, 3" and part.digest != data.digest
    two = data.select([0, 1, 2], binary=True)
    assert two.samples == data.samples and two.classes == ("other", "0/1/2")
    assert torch.equal(two.train_labels, (data.train_labels <= 2).long())
    for bad in ([], [1, 1], [10], [-1]):
        with pytest.raises(ValueError, match="different numbers from 0 to 9"):
            data.select(bad)


def test_subsets_are_the_first_rows_and_say_so():
    data = datasets.load()
    part = data.select([0, 1]).subset(100, test_samples=10)
    assert part.samples == 100 and len(part.test_labels) == 10
    assert part.provenance["selected"].startswith("classes 0, 1; first 100 of")
    for bad in ({"samples": 0}, {"samples": 1501}, {"samples": 5, "test_samples": 298}):
        with pytest.raises(ValueError, match="must lie between 1 and"):
            data.subset(**bad)


def test_gaussian_clusters_have_the_centres_distance_and_covariance_they_promise():
    data = datasets.gaussian_clusters(60_000, 20, 3, separation=4.0, rng=0)
    counts = torch.bincount(data.train_labels)
    assert data.samples == 60_000 and counts.tolist() == [20_000] * 3 and len(data.test_labels) == 15_000
    centres = torch.stack([data.train_inputs[data.train_labels == c].mean(0) for c in range(3)])
    residual = (data.train_inputs - centres[data.train_labels]).double()
    covariance = residual.T @ residual / 60_000
    assert (covariance - torch.eye(20)).abs().max() < 5 * np.sqrt(2 / 60_000)
    # Squared distances average 16 over draws of centres; each is 16 χ²_20/20.
    squared = [
        ((c := torch.stack([(d := datasets.gaussian_clusters(30, 20, 2, separation=4.0, rng=r)).train_inputs[d.train_labels == k].mean(0) for k in range(2)]))[0] - c[1]).square().sum().item() - 20 * 2 / 15
        for r in range(200)
    ]  # fmt: skip
    assert abs(np.mean(squared) - 16) < 4 * np.std(squared) / np.sqrt(200) < 4
    same, other = (datasets.gaussian_clusters(rng=r) for r in (5, 6))
    assert torch.equal(same.train_inputs, datasets.gaussian_clusters(rng=5).train_inputs)
    assert not torch.equal(same.train_inputs, other.train_inputs)
    with pytest.raises(ValueError, match="classes=1"):
        datasets.gaussian_clusters(classes=1)


SIZES = {
    "avila": (10_430, 10_437, (10,), 12),
    "banknote": (1098, 274, (4,), 2),
    "cardiotocography": (1701, 425, (21,), 3),
    "cifar10_10k2k": (10_000, 2000, (3, 32, 32), 10),
    "mnist": (60_000, 10_000, (1, 28, 28), 10),
    "mnist_5k1k": (5000, 1000, (1, 28, 28), 10),
    "sensorless_2200": (1760, 440, (48,), 11),
}


@needs_files
@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_the_public_sets_have_their_sizes(name):
    data = datasets.load(name)
    assert (data.samples, len(data.test_labels), data.input_shape, len(data.classes)) == SIZES[name]
    assert torch.isfinite(data.train_inputs).all() and torch.isfinite(data.test_inputs).all()
    std = data.train_inputs.flatten(1).std(0, correction=0)
    assert (((std - 1).abs() < 1e-3) | (std == 0)).all()
