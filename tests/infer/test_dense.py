"""A slide through a network that says what it sees comes back as it is, whatever windows, batches and interruptions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from dense_networks import CLASSES, Identity, StopAfter, dense_spec, noise

from tfseg.infer.band_store import BandStore
from tfseg.infer.blend import taper
from tfseg.infer.dense import DenseOptions, segment_dense
from tfseg.infer.tiles import Streaming
from tfseg.slides.base import open_slide
from tfseg.slides.tissue import TissueMask
from tfseg.types import ClassSpec, ModelError, SlideError


def planes(result) -> np.ndarray:
    """(H, W, C): the probabilities · 255."""
    count = len(CLASSES)
    return np.stack([result.store.plane(1 + k).rows(0, result.store.rows) for k in range(count)], axis=-1)


@pytest.mark.parametrize("border", ["zero", "white", "reflect"])
@pytest.mark.parametrize(
    ("output", "stride"), [((16, 16), 16), ((16, 16), 8), ((16, 16), 5), ((9, 9), 4), ((12, 20), 7), ((32, 32), 31)]
)
def test_the_slide_comes_back(output, stride, border):
    """Seams and edges included: every pixel's colour, and the strongest colour as its class."""
    image = noise(77, 101)
    slide, spec = open_slide([image], mpp=1.0), dense_spec(field_px=32 + output[0] % 2, output_px=output)
    result = segment_dense(
        slide, Identity(spec), spec, DenseOptions(stride_px=stride, border=border), probabilities=True
    )
    np.testing.assert_array_equal(planes(result), image)
    if stride == output[0]:  # blending leaves rounding that decides between equal colours
        np.testing.assert_array_equal(result.labels, image.argmax(-1))
    else:
        np.testing.assert_array_equal(np.take_along_axis(image, result.labels[..., None], -1)[..., 0], image.max(-1))


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("size", [(96, 64), (93, 70)])
def test_the_slide_comes_back_through_several_fields(stride, size):
    """Red through the first field, green through one twice as coarse, blue through one four times as coarse."""
    image = noise(*size, block=4)
    slide, spec = open_slide([image], mpp=1.0), dense_spec(mpps=(1.0, 2.0, 4.0))
    found = planes(segment_dense(slide, Identity(spec), spec, DenseOptions(stride_px=stride), probabilities=True))
    whole = size[0] // 4 * 4, size[1] // 4 * 4  # coarse pixels that the edge cuts mix slide and border
    np.testing.assert_array_equal(found[: whole[0], : whole[1]], image[: whole[0], : whole[1]])


def test_an_impulse_stays_where_it_is_in_every_field():
    image = np.zeros((100, 120, 3), np.uint8)
    image[44:48, 72:76] = 255
    slide, spec = open_slide([image], mpp=0.5), dense_spec(mpps=(0.5, 1.0, 2.0))
    found = planes(segment_dense(slide, Identity(spec), spec, DenseOptions(stride_px=8), probabilities=True))
    for field in range(3):
        assert np.argwhere(found[..., field]).min(0).tolist() == [44, 72]
        assert np.argwhere(found[..., field]).max(0).tolist() == [47, 75]


@pytest.mark.parametrize(("slide_mpp", "tolerance"), [(0.5, 0), (0.25, 0), (0.3, 1), (1.1, 1)])
def test_pixels_are_those_of_the_whole_slide_at_the_networks_mpp(slide_mpp, tolerance):
    slide, spec = open_slide([noise(83, 121)], mpp=slide_mpp), dense_spec(mpps=(1.0,))
    result = segment_dense(slide, Identity(spec), spec, probabilities=True)
    expected = slide.whole(1.0, fill=0)
    found = planes(result)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= tolerance


def test_weights_of_neighbours_add_up_to_one():
    for length, stride in ((16, 16), (16, 8), (16, 12), (9, 6)):
        weights = taper(length, stride)
        total = np.zeros(length + 4 * stride)
        for k in range(5):
            total[k * stride : k * stride + length] += weights
        np.testing.assert_allclose(total[length:-length], 1)
        assert (weights > 0).all()
    assert taper(16, 16).tolist() == [1] * 16


def test_blending_is_the_weighted_mean():
    """Two windows of 4 over a row of 6 pixels, stride 2: the first says 1, the second 0, the third 0."""
    spec = dense_spec(field_px=4, output_px=(4, 4), classes=CLASSES[:2])
    said = iter([1.0, 0.0, 0.0])

    def predict(batch):
        value = next(said)
        return np.tile(np.float32([value, 1 - value]), (1, 4, 4, 1))

    slide = open_slide([noise(2, 6)], mpp=1.0)
    result = segment_dense(
        slide, predict, spec, DenseOptions(stride_px=2), probabilities=True, streaming=Streaming(1, 1)
    )
    w = np.sin(np.pi / 2 * np.array([0.25, 0.75])) ** 2  # rising; windows begin at -1, 1 and 3
    expected = [1, w[1] / (w[0] + w[1]), w[0] / (w[0] + w[1]), 0, 0, 0]
    np.testing.assert_array_equal(result.store.plane(1).rows(0, 1)[0], np.rint(np.array(expected) * 255))


@pytest.mark.parametrize("batch_size", [1, 3, 500])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("parallel", [1, 3])
def test_batches_and_threads_change_nothing(batch_size, readers, parallel):
    slide, spec, options = open_slide([noise(80, 90)], mpp=1.0), dense_spec(), DenseOptions(stride_px=10)
    found = segment_dense(slide, Identity(spec, parallel), spec, options, streaming=Streaming(batch_size, readers))
    expected = segment_dense(slide, Identity(spec), spec, options)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize(
    ("stride", "stop", "kept"),
    [(16, 0, 0), (16, 8, 0), (16, 9, 9), (16, 25, 18), (6, 40, 0), (6, 70, 22), (6, 150, 88)],
)
def test_goes_on_where_it_was_stopped(tmp_path, stride, stop, kept):
    """Whole rows of windows are kept that no missing pixel needs: rows of 9 and 22 windows here. Stopped twice."""
    slide, spec, options = open_slide([noise(60, 130)], mpp=1.0), dense_spec(), DenseOptions(stride_px=stride)
    arguments = {
        "probabilities": True,
        "open_store": lambda key, width, planes: BandStore(tmp_path / "s.dense", key, width, planes),
    }
    whole = segment_dense(slide, Identity(spec), spec, options, probabilities=True)
    with pytest.raises(KeyboardInterrupt):
        segment_dense(slide, StopAfter(spec, stop), spec, options, **arguments)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        segment_dense(slide, StopAfter(spec, 7), spec, options, progress=lambda *a: seen.append(a), **arguments)
    assert seen[0] == ("segment", kept, whole.predicted.size)
    rest = Identity(spec)
    found = segment_dense(slide, rest, spec, options, **arguments)
    assert found.resumed == kept
    assert rest.windows == whole.predicted.size - kept
    np.testing.assert_array_equal(planes(found), planes(whole))
    np.testing.assert_array_equal(found.labels, whole.labels)
    done = segment_dense(slide, StopAfter(spec, 0), spec, options, **arguments)
    assert done.resumed == whole.predicted.size


@pytest.mark.parametrize("change", ["threshold", "stride", "border", "probabilities", "tissue", "network"])
def test_state_of_something_else_is_not_used(tmp_path, change):
    slide, spec, options = open_slide([noise(60, 60)], mpp=1.0), dense_spec(), DenseOptions()
    other, arguments, other_spec = options, {}, spec
    if change == "threshold":
        other = DenseOptions(threshold=0.9)
    elif change == "stride":
        other = DenseOptions(stride_px=8)
    elif change == "border":
        other = DenseOptions(border="white")
    elif change == "probabilities":
        arguments["probabilities"] = True
    elif change == "tissue":
        mask = np.ones((60, 60), bool)
        mask[:16, :16] = False
        arguments["tissue"] = TissueMask(mask, 1.0, 1.0, slide.size)
    else:
        other_spec = dense_spec(field_px=48)

    def opened(key, width, planes):
        return BandStore(tmp_path / "s.dense", key, width, planes)

    segment_dense(slide, Identity(spec), spec, options, open_store=opened).store.close()
    assert segment_dense(slide, Identity(spec), spec, options, open_store=opened).resumed == 16
    found = segment_dense(slide, Identity(other_spec), other_spec, other, open_store=opened, **arguments)
    assert found.resumed == 0


def colours(*rows) -> np.ndarray:
    return np.array([rows], np.uint8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (DenseOptions(), [0, 1, 2, 0]),
        (DenseOptions(threshold=0.5), [0, 1, 0, 0]),
        (DenseOptions(threshold=0.5, below="ignore"), [0, 1, 255, 255]),
        (DenseOptions(threshold=0.5, background="green"), [0, 1, 1, 1]),
        (DenseOptions(thresholds={"green": 0.9}), [0, 0, 2, 0]),
        (DenseOptions(thresholds={"red one": 2.0}), [1, 1, 2, 1]),
        (DenseOptions(threshold=0.5, thresholds={"blue": 0.3}, below="ignore"), [0, 1, 2, 255]),
        (DenseOptions(thresholds={"red one": 2, "green": 2, "blue": 2}, below="ignore"), [255] * 4),
    ],
)
def test_thresholds(options, expected):
    """The most probable of the classes that reach their threshold."""
    image = colours((180, 60, 15), (30, 200, 20), (60, 80, 90), (100, 90, 10))
    spec = dense_spec()
    result = segment_dense(open_slide([image], mpp=1.0), Identity(spec), spec, options)
    assert result.labels[0].tolist() == expected


def tissue(slide, *boxes) -> TissueMask:
    mask = np.zeros((slide.size[1], slide.size[0]), bool)
    for rows, columns in boxes:
        mask[slice(*rows), slice(*columns)] = True
    return TissueMask(mask, 1.0, 1.0, slide.size)


def test_windows_without_tissue_are_skipped_and_get_the_background():
    image = noise(48, 64)
    slide, spec = open_slide([image], mpp=1.0), dense_spec()
    found = tissue(slide, ((0, 1), (0, 1)), ((17, 32), (32, 48)), ((32, 36), (0, 64)))
    network = Identity(spec)
    result = segment_dense(slide, network, spec, DenseOptions(min_tissue=0.004), tissue=found, probabilities=True)
    assert result.predicted.tolist() == [[False] * 4, [False, False, True, False], [True] * 4]
    assert network.windows == 5
    np.testing.assert_array_equal(planes(result)[32:], image[32:])
    np.testing.assert_array_equal(planes(result)[16:32, 32:48], image[16:32, 32:48])
    assert (planes(result)[:16] == [255, 0, 0]).all()
    assert (result.labels[:16] == 0).all()
    other = segment_dense(slide, Identity(spec), spec, DenseOptions(min_tissue=0.004, background="blue"), tissue=found)
    assert (other.labels[:16] == 2).all()
    any_tissue = segment_dense(slide, Identity(spec), spec, tissue=found)
    assert any_tissue.predicted[0].tolist() == [True, False, False, False]


def test_overlap_beside_a_skipped_window_is_that_of_the_predicted_one():
    image = noise(16, 64)
    slide, spec = open_slide([image], mpp=1.0), dense_spec()
    options = DenseOptions(stride_px=8, min_tissue=0.5)
    result = segment_dense(
        slide, Identity(spec), spec, options, tissue=tissue(slide, ((0, 16), (0, 32))), probabilities=True
    )
    assert result.predicted[0].tolist() == [True] * 4 + [False] * 4
    np.testing.assert_array_equal(planes(result)[:, :36], image[:, :36])
    assert (planes(result)[:, 36:] == [255, 0, 0]).all()


def test_the_class_called_background_is_the_background():
    classes = (
        ClassSpec("not annotated", (0, 0, 0)),
        ClassSpec("tumour", (9, 9, 9)),
        ClassSpec("background", (8, 8, 8)),
    )
    slide, spec = open_slide([noise(32, 16)], mpp=1.0), dense_spec(classes=classes)
    result = segment_dense(slide, Identity(spec), spec, tissue=tissue(slide, ((0, 16), (0, 16))))
    assert (result.labels[16:] == 2).all()


def test_no_tissue_names_slide_and_remedy():
    slide, spec = open_slide([noise(32, 32)], mpp=1.0), dense_spec()
    with pytest.raises(SlideError, match=r"array: no tissue: none of 2 × 2 windows.*--tissue none"):
        segment_dense(slide, Identity(spec), spec, tissue=tissue(slide))


@pytest.mark.parametrize("options", [DenseOptions(thresholds={"grey": 0.5}), DenseOptions(background="grey")])
def test_unknown_classes_are_named(options):
    spec = dense_spec()
    with pytest.raises(ModelError, match=r"unknown class 'grey'.*red one, green, blue"):
        segment_dense(open_slide([noise(32, 32)], mpp=1.0), Identity(spec), spec, options)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((4, 32, 32, 3)), r"shape \(4, 32, 32, 3\).*expected \(4, 16, 16, 3\)"),
        (np.full((4, 16, 16, 3), np.nan), "NaN"),
    ],
)
def test_a_network_that_returns_something_else(result, message):
    spec = dense_spec()
    with pytest.raises(ModelError, match=message):
        segment_dense(open_slide([noise(64, 64)], mpp=1.0), lambda batch: result, spec)


def test_memory_does_not_grow_with_the_slides_height():
    """Held at once: sums and weights of one row of windows; the rest is in the store."""
    import tracemalloc

    spec = dense_spec()
    peaks = []
    for height in (320, 1280):
        slide = open_slide([noise(height, 320)], mpp=1.0)
        tracemalloc.start()
        segment_dense(slide, Identity(spec), spec, DenseOptions(stride_px=16), streaming=Streaming(4, 1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_spec_without_a_stride_of_its_own():
    spec = dataclasses.replace(dense_spec(), stride_px=None)
    slide = open_slide([noise(40, 40)], mpp=1.0)
    assert segment_dense(slide, Identity(spec), spec).predicted.shape == (3, 3)


def test_a_network_that_fails_leaves_the_store_closed(tmp_path):
    stores = []

    def opened(key, width, planes):
        stores.append(BandStore(tmp_path / "s.dense", key, width, planes))
        return stores[0]

    spec = dense_spec()
    with pytest.raises(KeyboardInterrupt):
        segment_dense(open_slide([noise(60, 60)], mpp=1.0), StopAfter(spec, 2), spec, open_store=opened)
    assert stores[0].closed


def test_a_stride_of_0_is_refused():
    spec = dense_spec()
    with pytest.raises(ModelError, match="--stride-px 0: expected 1"):
        segment_dense(open_slide([noise(32, 32)], mpp=1.0), Identity(spec), spec, DenseOptions(stride_px=0))
