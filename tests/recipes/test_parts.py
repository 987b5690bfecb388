"""The parts beside convolutions against loops, scipy and finite differences."""

import numpy as np
import pytest
from scipy.ndimage import maximum_filter
from scipy.special import log_softmax, rel_entr, softmax

import pydeform
from pydeform import parts, recipes


def bins(length, count):
    """As the paper says it: from floor(i S / l) to ceil((i + 1) S / l)."""
    edges = [
        (np.floor(i * length / count), np.ceil((i + 1) * length / count)) for i in range(count)
    ]
    return [slice(int(begin), int(end)) for begin, end in edges]


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("size", [(7,), (5, 6), (4, 5, 3)])
def test_spatial_pyramid_pool(size, reduce, normal, check_gradients):
    x = normal((2, 3, *size))
    found = check_gradients(
        parts.spatial_pyramid_pool, x, kinks=True, levels=(1, 2, 3), reduce=reduce
    )
    assert found.shape == (2, 3 * sum(level ** len(size) for level in (1, 2, 3)))
    expected = []
    for level in (1, 2, 3):
        for cell in np.ndindex(*(level for _ in size)):
            window = tuple(bins(s, level)[i] for s, i in zip(size, cell, strict=True))
            values = x[(slice(None), slice(None), *window)].reshape(2, 3, -1)
            expected.append(getattr(values, reduce)(axis=2))
    np.testing.assert_allclose(found, np.concat(expected, axis=1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [(7,), (5, 6), (4, 5, 3)])
def test_spatial_pyramid_map(size, normal, check_gradients):
    x = normal((2, 3, *size))
    found = check_gradients(parts.spatial_pyramid_map, x, kinks=True, windows=(3, 5))
    expected = [x]
    for window in (3, 5):
        footprint = (1, 1, *(window for _ in size))
        expected.append(maximum_filter(x, size=footprint, mode="constant", cval=-np.inf))
    np.testing.assert_array_equal(found, np.concat(expected, axis=1))


def test_the_default_windows_are_three_of_five_in_a_row(normal):
    x = normal((2, 3, 15, 14))
    passes = [x]
    for _ in range(3):
        pooled = parts.spatial_pyramid_map(passes[-1], (5,))
        passes.append(pooled[:, 3:])
    np.testing.assert_array_equal(parts.spatial_pyramid_map(x), np.concat(passes, axis=1))


def test_global_context_steps(normal, check_gradients):
    x, first, second, score = normal((2, 3, 6, 4), (5, 3), (5, 3), (5,))

    def steps(x, weights, score):
        contexts = parts.context_extract(parts.context_pyramid(x, (1, 2)), weights)
        return parts.context_aggregate(contexts, score)

    found = check_gradients(steps, x, (first, second), score, kinks=True)
    coarse = x.mean(axis=(2, 3))[:, :, None, None]
    fine = x.reshape(2, 3, 2, 3, 2, 2).mean(axis=(3, 5))
    vectors = np.stack(
        [
            np.maximum(np.einsum("dc,ncyx->ndyx", weight, level), 0).mean(axis=(2, 3))
            for level, weight in ((coarse, first), (fine, second))
        ],
        axis=1,
    )
    weights = softmax(vectors @ score, axis=1)
    np.testing.assert_allclose(found, np.einsum("nl,nld->nd", weights, vectors), atol=1e-14)


def test_feature_reuse(normal, check_gradients):
    x, weight, bias = normal((2, 3, 6, 5), (4, 3, 3, 3), (4, 4, 3))
    found = check_gradients(parts.feature_reuse, x, weight, bias, affine=(0, 1, 2))
    np.testing.assert_array_equal(found, pydeform.deform_conv2d(x, None, weight) + bias)


@pytest.mark.parametrize("size", [(9,), (7, 8), (5, 6, 7)])
def test_dilated_conv_is_a_convolution_with_holes(size, normal, check_gradients):
    x, weight = normal((2, 2, *size), (3, 2, *(2 for _ in size)))
    found = check_gradients(parts.dilated_conv, x, weight, 3, affine=(0, 1))
    holes = np.zeros((3, 2, *(4 for _ in size)))
    holes[(slice(None), slice(None), *(slice(None, None, 3) for _ in size))] = weight
    expected = getattr(pydeform, f"deform_conv{len(size)}d")(x, None, holes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("average", ["scores", "probabilities"])
def test_per_position_head(average, normal, check_gradients):
    x, weight, bias = normal((2, 3, 4, 5), (6, 3), (6,))
    affine = (0, 1, 2) if average == "scores" else ()
    found = check_gradients(
        parts.per_position_head, x, weight, bias, affine=affine, average=average
    )
    scores = np.einsum("kc,ncyx->nkyx", weight, x) + bias[:, None, None]
    if average == "probabilities":
        scores = softmax(scores, axis=1)
    np.testing.assert_allclose(found, scores.mean(axis=(2, 3)), rtol=0, atol=1e-14)


def test_the_mean_of_scores_is_the_score_of_the_mean(normal):
    x, weight, bias = normal((2, 3, 4, 5), (6, 3), (6,))
    found = parts.per_position_head(x, weight, bias)
    np.testing.assert_allclose(found, x.mean(axis=(2, 3)) @ weight.T + bias, rtol=0, atol=1e-14)


# DropBlock


def test_drop_block_keeps_the_mean_of_ones_and_its_gradient(normal, check_gradients):
    x = normal((2, 3, 6, 5))
    mask = parts.drop_block_mask(
        x.shape, block_size=2, drop_rate=0.3, rng=np.random.default_rng(0), dtype=np.float64
    )
    assert 0 < mask.sum() < mask.size
    found = check_gradients(lambda x: parts.drop_block(x, mask), x, affine=(0,))
    np.testing.assert_allclose(found, x * mask / mask.mean(), rtol=1e-15)
    assert abs(parts.drop_block(np.ones_like(x), mask).mean() - 1) < 1e-14
    np.testing.assert_array_equal(parts.drop_block(x, np.ones_like(x)), x)
    np.testing.assert_array_equal(parts.drop_block(x, np.zeros_like(x)), np.zeros_like(x))


@pytest.mark.parametrize(("size", "block"), [((9,), 3), ((7, 6), 3), ((6, 5), 2), ((4, 5, 6), 2)])
def test_masks_are_made_of_whole_blocks(size, block):
    rng = np.random.default_rng(1)
    mask = parts.drop_block_mask((3, 2, *size), block_size=block, drop_rate=0.3, rng=rng)
    assert set(np.unique(mask)) == {0, 1}
    windows = np.lib.stride_tricks.sliding_window_view(
        mask, [block for _ in size], axis=tuple(range(2, mask.ndim))
    )
    whole = ~windows.reshape(*windows.shape[: mask.ndim], -1).any(axis=-1)
    covered = np.ones_like(mask)
    for place in np.argwhere(whole):
        covered[(*place[:2], *(slice(i, i + block) for i in place[2:]))] = 0
    np.testing.assert_array_equal(covered, mask)


def test_seeds_are_drawn_at_the_rate_of_the_paper():
    """Blocks of one element drop `drop_rate`; of others, single seeds come at gamma."""
    rng = np.random.default_rng(2)
    mask = parts.drop_block_mask((1, 1, 400, 400), block_size=1, drop_rate=0.2, rng=rng)
    assert abs(mask.mean() - 0.8) < 5 * np.sqrt(0.16 / mask.size)
    # Far apart blocks of 5 elements: their number over the places is gamma.
    mask = parts.drop_block_mask((2000, 10, 9), block_size=5, drop_rate=0.01, rng=rng)
    gamma = 0.01 / 5 * 9 / 5
    dropped = (mask == 0).any(axis=-1)
    expected = 1 - (1 - gamma) ** 5
    assert abs(dropped.mean() - expected) < 5 * np.sqrt(expected / dropped.size)
    assert parts.drop_block_mask((1, 1, 9), block_size=9, drop_rate=0.0, rng=rng).all()


# Losses


def test_label_smoothing(normal, check_gradients):
    logits, labels = normal((4, 5)), np.array([0, 3, 3, 4])
    found = check_gradients(parts.label_smoothing_loss, logits, labels, smoothing=0.1)
    target = 0.9 * np.eye(5)[labels] + 0.02
    expected = -np.mean(np.sum(target * log_softmax(logits, axis=1), axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    _, pullback = recipes.vjp(parts.label_smoothing_loss, logits, labels)
    gradient, nothing = pullback(np.ones(()))
    assert nothing is None
    np.testing.assert_allclose(gradient, (softmax(logits, axis=1) - target) / 4, atol=1e-15)


def test_distillation(normal, check_gradients):
    student, teacher, labels = *normal((4, 5), (4, 5)), np.array([0, 3, 3, 4])
    found = check_gradients(parts.distillation_loss, student, teacher, temperature=3.0)
    p, q = softmax(teacher / 3, axis=1), softmax(student / 3, axis=1)
    np.testing.assert_allclose(found, 9 * rel_entr(p, q).sum() / 4, rtol=1e-13)
    _, pullback = recipes.vjp(parts.distillation_loss, student, teacher, temperature=3.0)
    np.testing.assert_allclose(pullback(np.ones(()))[0], 3 * (q - p) / 4, atol=1e-15)

    mixed = check_gradients(
        parts.distillation_loss, student, teacher, labels, temperature=3.0, hard=0.3
    )
    cross = -log_softmax(student, axis=1)[np.arange(4), labels].mean()
    np.testing.assert_allclose(mixed, 0.7 * found + 0.3 * cross, rtol=1e-14)


def test_large_scores_do_not_overflow():
    logits, labels = np.array([[1e4, 0.0], [-1e4, 1e4]]), np.array([1, 1])
    assert parts.label_smoothing_loss(logits, labels, smoothing=0.0) == 5e3
    assert np.isfinite(parts.distillation_loss(logits, -logits))


RNG = np.random.default_rng(0)
X = np.ones((2, 3, 4, 5))
BAD = [
    (parts.spatial_pyramid_pool, (X, ()), {}, "levels: expected whole numbers from 1 to the"),
    (parts.spatial_pyramid_pool, (X, (5,)), {}, "levels: expected whole numbers from 1 to the s"),
    (parts.spatial_pyramid_pool, (X,), {"reduce": "sum"}, "reduce: expected 'max' or 'mean'"),
    (parts.context_pyramid, (X, (0,)), {}, "levels: expected whole numbers"),
    (parts.spatial_pyramid_map, (X, (2,)), {}, "windows: expected odd numbers"),
    (parts.context_extract, ([X], []), {}, "weights: expected 1, one per level, got 0"),
    (parts.context_aggregate, (X, X[0, 0, 0]), {}, "contexts: expected 3 dimensions"),
    (parts.context_aggregate, (X[0], np.ones(4)), {}, "score: expected shape"),
    (parts.feature_reuse, (X, X[:1], np.ones((1, 4, 5))), {}, "untied_bias: expected shape"),
    (parts.per_position_head, (X, X), {}, "weight: expected 2 dimensions"),
    (parts.per_position_head, (X, X[0, 0]), {"average": "both"}, "average: expected 'scores' or"),
    (parts.drop_block_mask, ((1, 1, 4),), {"block_size": 5, "drop_rate": 0.1, "rng": RNG}, "block"),
    (parts.drop_block_mask, ((1, 1),), {"block_size": 1, "drop_rate": 0.1, "rng": RNG}, "block"),
    (parts.drop_block_mask, ((1, 1, 4),), {"block_size": 2, "drop_rate": 1, "rng": RNG}, "drop_ra"),
    (parts.label_smoothing_loss, (X[0, 0], np.zeros(3, int)), {}, "labels: expected shape"),
    (parts.label_smoothing_loss, (X, np.zeros(2, int)), {}, "logits: expected 2 dimensions"),
    (
        parts.label_smoothing_loss,
        (X[0, 0], np.zeros(4, int)),
        {"smoothing": 2},
        "smoothing: expect",
    ),
    (parts.distillation_loss, (X[0, 0], X[0, 0, :1]), {}, "teacher: expected shape"),
    (parts.distillation_loss, (X[0, 0], X[0, 0]), {"temperature": 0}, "temperature: expected a po"),
    (parts.distillation_loss, (X[0, 0], X[0, 0]), {"hard": 0.5}, "labels: expected the right cla"),
    (parts.distillation_loss, (X[0, 0], X[0, 0]), {"hard": -1}, "hard: expected a number in"),
]


@pytest.mark.parametrize(("part", "args", "options", "message"), BAD)
def test_bad_input_is_named(part, args, options, message):
    with pytest.raises(ValueError, match=message):
        part(*args, **options)
