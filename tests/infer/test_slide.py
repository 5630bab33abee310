"""The heatmap: which patches, which values, whatever the batches, threads and interruptions."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from fake_networks import PATCH_PX, array_slide, classifier_spec, darkness, picture
from vanishing import vanishing_folders

from tfseg.geometry import Grid
from tfseg.infer.slide import Checkpoint, Heatmap, heatmap, heatmap_to_field
from tfseg.infer.tiles import BATCH, Streaming
from tfseg.slides.base import open_slide
from tfseg.slides.tissue import TissueMask, tissue_mask
from tfseg.types import InputSpec, ModelError, OutputError, SlideError


def reference(slide, spec, tissue, min_tissue):
    """Patch after patch, as the definition says."""
    grid = Grid(slide.size, slide.mpp, spec.inputs[0].size_px[0], spec.stride_px, spec.inputs[0].mpp)
    out = np.zeros((*grid.shape, 2), np.float32)
    out[..., 0] = 1
    for row, column in grid.cells():
        window = grid.window(row, column)
        if tissue.fraction(window.bounds(slide.mpp)) > min_tissue:
            out[row, column] = darkness(slide.read(window)[None])[0]
    return out


@pytest.mark.parametrize("stride", [PATCH_PX, PATCH_PX // 2])
@pytest.mark.parametrize("mpp", [1.0, 0.5])
def test_values_are_those_of_each_patch(stride, mpp):
    slide = array_slide(mpp)
    spec, tissue = classifier_spec(stride), tissue_mask(slide)
    found = heatmap(slide, darkness, spec, tissue, min_tissue=0.25)
    expected = reference(slide, spec, tissue, 0.25)
    np.testing.assert_array_equal(found.probabilities, expected)
    assert found.probabilities.dtype == np.float32
    assert 0 < found.classified.sum() < found.classified.size
    assert (found.probabilities[~found.classified] == [1, 0]).all()
    np.testing.assert_array_equal(found.foreground, expected[..., 1])


@pytest.mark.parametrize("batch_size", [1, 7, 500])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("parallel", [1, 3])
def test_batches_and_threads_change_nothing(batch_size, readers, parallel):
    class Predict:
        def __init__(self):
            self.parallel = parallel

        def __call__(self, batch):
            assert len(batch) <= batch_size
            return darkness(batch)

    slide = array_slide()
    tissue = tissue_mask(slide)
    found = heatmap(slide, Predict(), classifier_spec(), tissue, streaming=Streaming(batch_size, readers))
    expected = heatmap(slide, darkness, classifier_spec(), tissue, streaming=Streaming(4, 1))
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_a_batch_has_a_window():
    with pytest.raises(ModelError, match=r"batch_size: expected 1 or more windows\. Received: 0"):
        Streaming(0)


def test_without_tissue_mask_every_patch_is_classified():
    found = heatmap(array_slide(), darkness, classifier_spec())
    assert found.classified.all()
    assert found.probabilities.shape == (14, 18, 2)  # ceil(420 / 32), ceil(560 / 32)


def test_memory_is_bounded_when_the_network_is_slow():
    """Reading stops when enough patches wait."""
    slide, reads, gate = array_slide(), [], threading.Event()
    read = slide.read
    slide.read = lambda window: reads.append(window) or read(window)

    def slow(batch):
        gate.wait(10)
        return darkness(batch)

    thread = threading.Thread(target=heatmap, args=(slide, slow, classifier_spec()))
    thread.start()
    for _ in range(50):
        thread.join(0.01)
    waiting = len(reads)
    gate.set()
    thread.join()
    assert waiting <= BATCH * 6
    assert len(reads) == 14 * 18


class StopAfter:
    """A network that fails when it has been called ``calls`` times."""

    def __init__(self, calls, error=KeyboardInterrupt):
        self.calls, self.error, self.patches = calls, error, 0

    def __call__(self, batch):
        if self.calls == 0:
            raise self.error
        self.calls -= 1
        self.patches += len(batch)
        return darkness(batch)


def test_goes_on_after_an_interruption(tmp_path):
    slide, checkpoint = array_slide(), Checkpoint(tmp_path / "state.npz", "slide 1, network 1")
    arguments = {"streaming": Streaming(8, 2), "checkpoint": checkpoint}
    whole = heatmap(slide, darkness, classifier_spec(), streaming=Streaming(8, 2))
    with pytest.raises(KeyboardInterrupt):
        heatmap(slide, StopAfter(10), classifier_spec(), **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    rest = StopAfter(10**6)
    seen = []
    found = heatmap(
        slide, rest, classifier_spec(), progress=lambda stage, done, total: seen.append((done, total)), **arguments
    )
    assert found.resumed == 80
    assert rest.patches == 14 * 18 - 80
    assert seen[0] == (80, 14 * 18)
    assert seen[-1] == (14 * 18, 14 * 18)
    np.testing.assert_array_equal(found.probabilities, whole.probabilities)


def test_state_is_written_while_it_runs(tmp_path):
    """So that a run that is killed, and can do nothing more, loses little."""
    path = tmp_path / "state.npz"
    known = []

    def predict(batch):
        if path.exists():
            with np.load(path) as content:
                known.append(len(content["probabilities"]))
        return darkness(batch)

    heatmap(array_slide(), predict, classifier_spec(), checkpoint=Checkpoint(path, "x", seconds=0))
    assert len(set(known)) > 3
    assert known == sorted(known)


@pytest.mark.parametrize("change", ["identity", "tissue", "stride", "damaged", "cut"])
def test_state_of_something_else_is_not_used(tmp_path, change):
    slide, path = array_slide(), tmp_path / "state.npz"
    tissue = tissue_mask(slide)
    with pytest.raises(KeyboardInterrupt):
        heatmap(slide, StopAfter(5), classifier_spec(), tissue, checkpoint=Checkpoint(path, "1"))
    identity, spec = "1", classifier_spec()
    if change == "identity":
        identity = "2"
    elif change == "tissue":
        tissue = dataclasses.replace(tissue, mask=np.ones_like(tissue.mask))
    elif change == "stride":
        spec = classifier_spec(PATCH_PX // 2)
    elif change == "damaged":
        path.write_bytes(b"not an npz file")
    else:
        path.write_bytes(path.read_bytes()[:-40])
    found = heatmap(slide, darkness, spec, tissue, checkpoint=Checkpoint(path, identity))
    assert found.resumed == 0
    np.testing.assert_array_equal(found.probabilities, heatmap(slide, darkness, spec, tissue).probabilities)


def test_state_that_cannot_be_written_is_an_output_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"state\.npz.*No space left"):
        heatmap(array_slide(), darkness, classifier_spec(), checkpoint=Checkpoint(tmp_path / "state.npz", "x", 0))
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_reading_is_passed_on():
    slide = array_slide()
    slide.read = lambda window: (_ for _ in ()).throw(SlideError("tile 7 is damaged"))
    with pytest.raises(SlideError, match="tile 7"):
        heatmap(slide, darkness, classifier_spec())


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda batch: np.zeros((len(batch), 3)), r"shape \(4, 3\).*expected \(4, 2\)"),
        (lambda batch: np.zeros((len(batch), 8, 8, 2)), r"shape \(4, 8, 8, 2\)"),
        (lambda batch: np.full((len(batch), 2), np.nan), "NaN"),
    ],
)
def test_a_network_that_returns_something_else(predict, message):
    with pytest.raises(ModelError, match=message):
        heatmap(array_slide(), predict, classifier_spec())


def test_no_tissue_names_slide_and_remedy():
    slide = open_slide([np.full((300, 300, 3), 255, np.uint8)], mpp=1.0)
    with pytest.raises(SlideError, match=r"array: no tissue.*25%.*min_tissue"):
        heatmap(slide, darkness, classifier_spec(), tissue_mask(slide))


def test_slide_smaller_than_a_patch():
    slide = open_slide([picture(20, 90)], mpp=1.0)
    with pytest.raises(SlideError, match=r"90 × 20 px at 1 µm/px, smaller than a patch of 32 × 32"):
        heatmap(slide, darkness, classifier_spec())


def test_spec_of_another_kind_of_network():
    spec = classifier_spec()
    for wrong in (
        dataclasses.replace(spec, task="segmentation"),
        dataclasses.replace(spec, stride_px=None),
        dataclasses.replace(spec, inputs=(InputSpec("image", (32, 32)),)),
        dataclasses.replace(spec, inputs=(InputSpec("image", (32, 64), 3, 1.0),)),
    ):
        with pytest.raises(ModelError, match="not a patch classifier"):
            heatmap(array_slide(), darkness, wrong)


def made(values, slide_size=(100, 80), stride=20):
    values = np.asarray(values, np.float32)
    grid = Grid(slide_size, 1.0, stride, stride, 1.0)
    assert grid.shape == values.shape
    return Heatmap(np.stack([1 - values, values], -1), grid, np.ones(values.shape, bool))


def test_field_is_linear_between_cell_centres():
    """A heatmap that is a linear function of position stays it, up to the outermost cell centres."""
    columns, rows = np.arange(5) * 20 + 10, np.arange(4) * 20 + 10
    found = heatmap_to_field(made(0.004 * columns[None] + 0.005 * rows[:, None]), (160, 50))
    assert found.shape == (160, 50)
    assert found.dtype == np.float32
    x, y = (np.arange(50) + 0.5) * 2, (np.arange(160) + 0.5) * 0.5
    expected = 0.004 * np.clip(x, 10, 90)[None] + 0.005 * np.clip(y, 10, 70)[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_field_leaves_out_what_reaches_past_the_slide():
    """Slide of 70 px, cells of 20: the last cell is centred on the slide's edge, pixel 3 of 4 at 61.25 px."""
    values = np.zeros((4, 4))
    values[:, 3] = 1
    found = heatmap_to_field(made(values, (70, 80)), (4, 4))
    np.testing.assert_allclose(found[0], [0, 0, 0, (61.25 - 50) / 20], atol=1e-6)


def test_field_of_one_cell():
    found = heatmap_to_field(made([[0.3]], (15, 20)), (3, 2))
    np.testing.assert_allclose(found, np.full((3, 2), 0.3), atol=1e-7)


def test_field_sums_the_foreground_classes():
    grid = Grid((20, 20), 1.0, 20, 20, 1.0)
    found = Heatmap(np.array([[[0.5, 0.2, 0.3]]], np.float32), grid, np.ones((1, 1), bool))
    np.testing.assert_allclose(heatmap_to_field(found, (2, 2)), 0.5)


def test_tissue_fraction_decides():
    """A patch with exactly min_tissue is not classified, one with more is."""
    slide = array_slide()
    mask = np.zeros((420, 560), bool)
    mask[:8, :32] = True  # a quarter of the first patch
    mask[:9, 32:64] = True
    found = heatmap(slide, darkness, classifier_spec(), TissueMask(mask, 1.0, 1.0, slide.size), min_tissue=0.25)
    assert np.argwhere(found.classified).tolist() == [[0, 1]]


def test_a_folder_of_checkpoints_that_vanishes_is_made_again(tmp_path, monkeypatch):
    path, left = tmp_path / "state/s.npz", vanishing_folders(monkeypatch, 1)
    heatmap(array_slide(), darkness, classifier_spec(), checkpoint=Checkpoint(path, "a"))
    assert path.is_file() and left == [0]
