"""The right pixels in the right order, exact resuming, errors that name slide and window."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
import tensorflow as tf
from small_cohort import slide_image

from tfseg.data.augment import PatchAugment, SlideAugment
from tfseg.data.pipeline import (
    patch_dataset,
    refinement_dataset,
    refinement_validation_dataset,
    validation_dataset,
)
from tfseg.data.sampling import HierarchicalSampler
from tfseg.types import ClassSpec, CohortError


@pytest.fixture
def train(small_index):
    return small_index.split("train")


def steps(dataset: tf.data.Dataset, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x["image"].numpy(), y["probabilities"].numpy()) for x, y in itertools.islice(dataset, count)]


def same(left: list[tuple[np.ndarray, np.ndarray]], right: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def test_patches_are_those_of_the_draws(train):
    sampler = HierarchicalSampler(train.table, seed=3)
    batches = steps(patch_dataset(train, sampler, 8), 3)
    rows = train.table.iloc[sampler.draw(tf.range(24)).numpy()]
    for k, (_, row) in enumerate(rows.iterrows()):
        image, label = batches[k // 8][0][k % 8], batches[k // 8][1][k % 8]
        source = slide_image(int(row["slide_name"][1:]))
        left, top = int(row["x"]) - 32, int(row["y"]) - 32
        patch = source[top : top + 64, left : left + 64].astype(float)
        expected = patch.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(image - expected).max() <= 1
        assert label.tolist() == [float(row["class"] == "non-tumour"), float(row["class"] == "tumour")]
    assert batches[0][0].dtype == np.float32 and batches[0][0].shape == (8, 32, 32, 3)


@pytest.mark.parametrize("augment", [None, PatchAugment()])
def test_resumes_exactly_whatever_the_threads(train, augment):
    sampler = HierarchicalSampler(train.table, seed=3)
    whole = steps(patch_dataset(train, sampler, 4, augment=augment, threads=1), 6)
    resumed = patch_dataset(train, sampler, 4, augment=augment, threads=5, start_step=3)
    assert same(steps(resumed, 3), whole[3:])
    other = HierarchicalSampler(train.table, seed=4)
    assert not same(steps(patch_dataset(train, other, 4, augment=augment), 1), whole[:1])


def test_workers_share_one_stream(train):
    sampler = HierarchicalSampler(train.table, seed=3)
    whole = np.concatenate([x for x, _ in steps(patch_dataset(train, sampler, 4, augment=PatchAugment()), 4)])
    for worker in range(2):
        share = patch_dataset(train, sampler.share(worker, 2), 4, augment=PatchAugment())
        assert np.array_equal(np.concatenate([x for x, _ in steps(share, 2)]), whole[worker::2])


def test_reading_error_names_slide_and_window(train, tmp_path):
    table = train.table.copy()
    gone = tmp_path / "gone.tiff"
    table["slide"] = str(gone)
    broken = dataclasses.replace(train, table=table)
    dataset = patch_dataset(broken, HierarchicalSampler(table, ()), 2)
    row = table.iloc[int(HierarchicalSampler(table, ()).draw(0))]
    with pytest.raises(
        tf.errors.OpError, match=r"gone\.tiff: cannot read the patch at \(\d+, \d+\) px, 32² px of 1"
    ) as e:
        next(iter(dataset))
    assert f"({row['x']:g}, {row['y']:g})" in str(e.value)


def test_unannotated_patches_are_refused(train):
    table = train.table.copy()
    table.loc[:2, "class_index"] = 255
    bad = dataclasses.replace(train, table=table)
    with pytest.raises(CohortError, match=r"3 of \d+ patches are not annotated .*index\.annotated"):
        patch_dataset(bad, HierarchicalSampler(table), 2)


def test_more_classes_than_two(train):
    three = dataclasses.replace(train, classes=(*train.classes, ClassSpec("third", (0, 0, 200))))
    _, label = steps(patch_dataset(three, HierarchicalSampler(train.table), 2, num_classes=3), 1)[0]
    assert label.shape == (2, 3)


def test_validation_repeats_itself(small_index):
    val = small_index.split("val")
    drawn = validation_dataset(val, 4, sampler=HierarchicalSampler(val.table, seed=99), steps=2)
    assert same(steps(drawn, 10), steps(drawn, 10)) and len(steps(drawn, 10)) == 2
    whole = steps(validation_dataset(val, 10), 100)
    assert [len(x) for x, _ in whole] == [10] * (len(val.table) // 10) + [len(val.table) % 10]
    with pytest.raises(ValueError, match="together"):
        validation_dataset(val, 4, steps=2)


def sample(k: int, size: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = cv2.resize(np.random.default_rng(k).integers(0, 256, (5, 5, 3), np.uint8), (size, size))
    image[0, 0] = k
    label = (image[..., 0] > 128).astype(np.uint8)
    return image, label.astype(np.float16), label


def test_refinement_batches_from_files_and_arrays(tmp_path):
    samples = [sample(k) for k in range(3)]
    paths = []
    for k, (image, heatmap, label) in enumerate(samples):
        paths.append(tmp_path / f"{k}.npz")
        np.savez_compressed(paths[-1], image=image, heatmap=heatmap, label=label)
    outputs = ("segmentation", "segmentation_1")
    from_files = refinement_dataset(paths, 2, outputs=outputs, sampler=7)
    from_arrays = refinement_dataset(samples, 2, outputs=outputs, sampler=7)
    for (x, y), (u, v) in itertools.islice(zip(from_files, from_arrays, strict=False), 3):
        assert x["image"].shape == (2, 40, 40, 3) and x["heatmap"].shape == (2, 40, 40, 1)
        assert x["image"].dtype == x["heatmap"].dtype == tf.float32
        assert (
            set(y) == set(outputs) and y["segmentation_1"].dtype == tf.uint8 and y["segmentation"].shape == (2, 40, 40)
        )
        assert all(np.array_equal(x[key], u[key]) for key in x) and all(np.array_equal(y[key], v[key]) for key in y)
        assert np.array_equal(x["heatmap"][..., 0], y["segmentation"])
    seen = [int(image[0, 0, 0]) for x, _ in itertools.islice(from_files, 3) for image in x["image"]]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]


def test_refinement_resumes_exactly():
    samples = [sample(k) for k in range(3)]
    options = {"augment": SlideAugment(), "sampler": 1}
    whole = list(itertools.islice(refinement_dataset(samples, 2, **options), 4))
    resumed = list(itertools.islice(refinement_dataset(samples, 2, start_step=2, **options), 2))
    for (x, y), (u, v) in zip(whole[2:], resumed, strict=True):
        assert np.array_equal(x["image"], u["image"]) and np.array_equal(x["heatmap"], u["heatmap"])
        assert np.array_equal(y["segmentation"], v["segmentation"])


def test_refinement_without_heatmap_and_in_order():
    samples = [sample(k) for k in range(3)]
    batches = list(refinement_validation_dataset(samples, 2, inputs=("image",)))
    assert [x["image"].shape[0] for x, _ in batches] == [2, 1] and set(batches[0][0]) == {"image"}
    assert [int(image[0, 0, 0]) for x, _ in batches for image in x["image"]] == [0, 1, 2]


def test_damaged_or_missing_sample_is_named(tmp_path):
    with pytest.raises(CohortError, match="empty list"):
        refinement_dataset([], 2)
    image, heatmap, label = sample(0)
    np.savez(tmp_path / "a.npz", image=image, heatmap=heatmap, label=label)
    np.savez(tmp_path / "b.npz", image=image, heatmap=heatmap[:9], label=label)
    (tmp_path / "c.npz").write_bytes(b"half")
    with pytest.raises(CohortError, match=r"c\.npz: cannot read this cached slide"):
        refinement_dataset([tmp_path / "c.npz"], 1)
    for bad, message in (("b.npz", "do not agree"), ("c.npz", "cannot read"), ("d.npz", "cannot read")):
        with pytest.raises(tf.errors.OpError, match=rf"{bad[0]}\.npz: .*{message}"):
            list(refinement_validation_dataset([tmp_path / "a.npz", tmp_path / bad], 1))
