"""Frequencies at every step, statelessness, disjoint workers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy.stats import chisquare

from tfseg.data import counter_random
from tfseg.data.sampling import EpochSampler, HierarchicalSampler, RatioSampler
from tfseg.types import CohortError

DRAWS = 20000


def cohort_table() -> pd.DataFrame:
    """Grades with 1, 2 and 3 slides, unequal numbers of patches, a slide without tumour; rows shuffled."""
    rows = []
    for grade, slides in {"1": ["a"], "2": ["b", "c"], "3": ["d", "e", "f"]}.items():
        for k, slide in enumerate(slides):
            rows += [{"grade": grade, "slide_name": slide, "class": "non-tumour"}] * (7 + 5 * k)
            if slide != "e":
                rows += [{"grade": grade, "slide_name": slide, "class": "tumour"}] * (2 + k)
    return pd.DataFrame(rows).sample(frac=1, random_state=3).reset_index(drop=True)


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator, in Python integers."""
    mask = 2**64 - 1
    numbers = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def test_mix64_is_splitmix64():
    # First outputs of the reference C code for state 1234567.
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]
    states = [(1234567 + (k + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1) for k in range(5)]
    mixed = counter_random.mix64(tf.constant(np.array(states, np.uint64)))
    assert mixed.numpy().tolist() == splitmix64(1234567, 5)


@pytest.mark.parametrize("count", [1, 4])
def test_uniform_numbers_are_flat_and_independent(count):
    values = counter_random.uniform(5, tf.range(DRAWS, dtype=tf.int64), count).numpy()
    assert values.shape == (DRAWS, count) and values.min() >= 0 and values.max() < 1
    for column in values.T:
        assert chisquare(np.histogram(column, 32, (0, 1))[0]).pvalue > 1e-3
    series = values.ravel()
    assert abs(np.corrcoef(series[:-1], series[1:])[0, 1]) < 0.02
    other = counter_random.uniform(6, tf.range(DRAWS, dtype=tf.int64), count).numpy().ravel()
    assert abs(np.corrcoef(series, other)[0, 1]) < 0.02


@pytest.mark.parametrize("seed", [0, 1, -7, 2**40])
def test_frequencies_at_every_step(seed):
    table = cohort_table()
    drawn = table.iloc[HierarchicalSampler(table, seed=seed).draw(tf.range(DRAWS)).numpy()]
    assert chisquare(drawn["grade"].value_counts()).pvalue > 1e-4
    for _, group in drawn.groupby("grade"):
        counts = group["slide_name"].value_counts()
        if len(counts) > 1:
            assert chisquare(counts).pvalue > 1e-4
    for slide, group in drawn.groupby("slide_name"):
        counts = group["class"].value_counts()
        assert set(counts.index) == set(table.loc[table["slide_name"] == slide, "class"])
        assert len(counts) == 1 or chisquare(counts).pvalue > 1e-4
    for (slide, label), group in drawn.groupby(["slide_name", "class"]):
        rows = table[(table["slide_name"] == slide) & (table["class"] == label)]
        counts = group.index.value_counts().reindex(rows.index, fill_value=0)
        assert chisquare(counts).pvalue > 1e-4


def test_joint_probability_is_the_product_of_the_steps():
    table = cohort_table()
    slides = table.groupby("grade")["slide_name"].transform("nunique")
    classes = table.groupby("slide_name")["class"].transform("nunique")
    patches = table.groupby(["slide_name", "class"])["grade"].transform("size")
    expected = 1 / (3 * slides * classes * patches)
    assert expected.sum() == pytest.approx(1)
    drawn = HierarchicalSampler(table, seed=2).draw(tf.range(4 * DRAWS)).numpy()
    counts = np.bincount(drawn, minlength=len(table))
    assert chisquare(counts, expected.to_numpy() * 4 * DRAWS).pvalue > 1e-4


def test_vector_draw_equals_scalar_draws_in_graph_and_out():
    sampler = HierarchicalSampler(cohort_table(), seed=11)
    vector = sampler.draw(tf.range(50, 80)).numpy()
    scalars = [int(sampler.draw(n)) for n in range(50, 80)]
    graph = tf.function(sampler.draw)(tf.range(50, 80, dtype=tf.int64)).numpy()
    assert vector.tolist() == scalars == graph.tolist()
    assert sampler.draw(3).dtype == tf.int64 and sampler.draw(3).shape == ()
    assert int(sampler.seeds(60)) == int(sampler.seeds(tf.range(55, 65))[5])


def test_dataset_resumes_exactly():
    sampler = HierarchicalSampler(cohort_table(), seed=4)
    whole = list(sampler.dataset().take(40).as_numpy_iterator())
    assert list(sampler.dataset(start=25).take(15).as_numpy_iterator()) == whole[25:]
    other = HierarchicalSampler(cohort_table(), seed=5)
    assert list(other.dataset().take(40).as_numpy_iterator()) != whole


def test_workers_interleave_to_the_whole_stream():
    sampler = HierarchicalSampler(cohort_table(), seed=4)
    whole = sampler.draw(tf.range(30)).numpy()
    for worker in range(3):
        assert list(sampler.dataset(0, worker, 3).take(10).as_numpy_iterator()) == whole[worker::3].tolist()
    nested = sampler.share(1, 3).share(1, 2)
    assert nested.draw(tf.range(5)).numpy().tolist() == whole[4::6].tolist()
    with pytest.raises(ValueError, match="worker 3 of 3"):
        sampler.share(3, 3)


def test_single_slide_and_single_patch():
    table = pd.DataFrame({"grade": ["1"] * 3, "slide_name": ["a"] * 3, "class": ["tumour"] * 3})
    assert set(HierarchicalSampler(table).draw(tf.range(100)).numpy()) == {0, 1, 2}
    assert set(HierarchicalSampler(table[:1]).draw(tf.range(10)).numpy()) == {0}


def test_no_columns_makes_rows_equally_probable():
    drawn = HierarchicalSampler(cohort_table(), columns=()).draw(tf.range(DRAWS)).numpy()
    assert chisquare(np.bincount(drawn)).pvalue > 1e-4


def test_empty_cells_are_their_own_stratum():
    table = pd.DataFrame({"grade": ["1"] * 10 + [None, np.nan, ""], "slide_name": list("aaaaaaaaaabcd")})
    drawn = HierarchicalSampler(table, ("grade",)).draw(tf.range(4000)).numpy()
    assert abs(np.mean(drawn >= 10) - 0.5) < 0.05


def test_numbers_serve_as_strata():
    table = pd.DataFrame({"cluster": [3, 3, 3, 1]})
    drawn = HierarchicalSampler(table, ("cluster",)).draw(tf.range(4000)).numpy()
    assert abs(np.mean(drawn == 3) - 0.5) < 0.05


def test_errors_name_the_column():
    with pytest.raises(CohortError, match=r"'scanner'.*Columns: grade, slide_name, class"):
        HierarchicalSampler(cohort_table(), ("grade", "scanner"))
    with pytest.raises(CohortError, match="without patches"):
        HierarchicalSampler(cohort_table()[:0])
    with pytest.raises(CohortError, match="empty list"):
        EpochSampler(0)


def test_epoch_sampler_takes_every_row_once_an_epoch():
    sampler = EpochSampler(7, seed=1)
    epochs = sampler.draw(tf.range(21)).numpy().reshape(3, 7)
    assert (np.sort(epochs, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [int(sampler.draw(n)) for n in range(21)] == epochs.ravel().tolist()
    firsts = EpochSampler(4, seed=2).draw(tf.range(0, 8000, 4)).numpy()
    assert chisquare(np.bincount(firsts, minlength=4)).pvalue > 1e-4


RATIO = {"tumour": 2, "normal": 1, "others": 1}


def window_table() -> pd.DataFrame:
    """90 % normal, hardly any others; the slides differ in size."""
    rows = [{"class": "normal", "slide_name": "a"}] * 90 + [{"class": "tumour", "slide_name": "a"}] * 7
    rows += [{"class": "tumour", "slide_name": "b"}] + [{"class": "others", "slide_name": "b"}] * 2
    return pd.DataFrame(rows).sample(frac=1, random_state=5).reset_index(drop=True)


@pytest.mark.parametrize(("worker", "workers"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_ratio_is_exact_in_every_batch_of_every_worker(worker, workers):
    table = window_table()
    sampler = RatioSampler(table, RATIO, seed=9).share(worker, workers)
    assert sampler.batch_multiple == 4
    for step in range(20):
        batch = table["class"].to_numpy()[sampler.draw(tf.range(step * 8, (step + 1) * 8)).numpy()]
        assert dict(zip(*np.unique(batch, return_counts=True), strict=True)) == {"normal": 2, "others": 2, "tumour": 4}


def test_ratio_draws_are_stateless_and_even_within_a_class():
    table = window_table()
    sampler = RatioSampler(table, RATIO, seed=9)
    drawn = sampler.draw(tf.range(DRAWS)).numpy()
    assert [int(sampler.draw(n)) for n in range(100, 110)] == drawn[100:110].tolist()
    assert sampler.draw(5).shape == () and tf.function(sampler.draw)(tf.constant(5, tf.int64)) == drawn[5]
    for name in RATIO:
        rows = np.flatnonzero(table["class"] == name)
        assert chisquare(np.bincount(drawn, minlength=len(table))[rows]).pvalue > 1e-4
    other = sampler.share(1, 2).draw(tf.range(50)).numpy()
    assert (other == sampler.share(0, 2).draw(tf.range(50)).numpy()).mean() < 0.5


def test_ratio_with_further_steps_within_the_class():
    table = window_table()
    drawn = table.iloc[RatioSampler(table, RATIO, columns=("slide_name",)).draw(tf.range(DRAWS)).numpy()]
    tumour = drawn[drawn["class"] == "tumour"]["slide_name"].value_counts()
    assert abs(tumour["a"] / tumour.sum() - 0.5) < 0.03  # one window of slide b counts as much as seven of slide a


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        ({"tumor": 2, "normal": 1}, r"no row of 'tumor'.*There are: normal, others, tumour"),
        ({"tumour": 0}, "whole number above 0"),
        ({"tumour": 1.5}, "whole number above 0"),
        ({}, "whole number above 0"),
    ],
)
def test_ratio_errors(ratio, message):
    with pytest.raises(CohortError, match=message):
        RatioSampler(window_table(), ratio)
    with pytest.raises(CohortError, match="'tissue'"):
        RatioSampler(window_table(), RATIO, column="tissue")


def test_epochs_of_many_windows_are_sorted_once():
    sampler = EpochSampler(200_000, seed=3)
    last, first = sampler.draw(tf.range(199_990, 200_000)).numpy(), sampler.draw(tf.range(200_000, 200_010)).numpy()
    straddling = sampler.draw(tf.range(199_990, 200_010)).numpy()
    assert straddling.tolist() == [*last, *first]
    stream = list(sampler.dataset(199_995).batch(4).take(3).as_numpy_iterator())
    assert np.concatenate(stream).tolist() == straddling[5:17].tolist()
