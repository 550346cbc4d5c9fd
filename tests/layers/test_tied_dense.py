"""TiedDense: against its plain loops, central differences and PyTorch; one parameter, one gradient; and refusals."""

import copy
import pickle

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinynet as tn
from tinynet.layers.tied_dense import tied_dense_backward_plain, tied_dense_forward_plain

pytestmark = pytest.mark.usefixtures("one_thread")

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
# vocabulary, dim, the shape of h without its last axis, bias; the last ones take threads
SIZES = [
    (5, 3, (4, 6), False),
    (1, 1, (1,), True),
    (17, 33, (2, 3, 5), True),
    (65, 128, (3, 64), False),
    (5000, 31, (2, 40), True),
]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def built(size, dtype=np.float32):
    """The layer, an input h and a gradient of its output; E's gradient is NaN."""
    vocabulary, dim, shape, bias = size
    rng = np.random.default_rng(0)
    words = tn.Embedding(vocabulary, dim)
    words.build((1,), dtype, rng)
    layer = tn.TiedDense(words, bias=bias)
    assert layer.build((*shape[1:], dim), dtype, rng) == (*shape[1:], vocabulary)
    for parameter in (*words.parameters, *layer.parameters):
        parameter.grad[...] = np.nan  # which backward must overwrite, not add to
    if bias:
        layer.parameters[0].value[...] = rng.standard_normal(vocabulary)
    return (
        layer,
        rng.standard_normal((*shape, dim)).astype(dtype),
        rng.standard_normal((*shape, vocabulary)).astype(dtype),
    )


def model_of(*, bias=True, seed=0, dtype="float32"):
    words = tn.Embedding(30, 8)
    return tn.Sequential([words, tn.LayerNorm(), tn.TiedDense(words, bias=bias)], input_shape=5, seed=seed, dtype=dtype)


def words_and_labels(n=4):
    rng = np.random.default_rng(1)
    return rng.integers(0, 30, (n, 5)), rng.integers(0, 30, (n, 5))


# --- right ------------------------------------------------------------------------------------------------


def test_scores_are_products_with_the_vectors_of_words():
    layer, _, _ = built((3, 2, (1,), True), np.float64)
    layer.tied.parameters[0].value = [[1, 0], [0, 2], [3, 4]]
    layer.parameters[0].value = [0, 10, 100]
    assert np.array_equal(layer.forward([[5, 6]], training=True), [[5, 22, 139]])
    assert np.array_equal(layer.backward([[1, 0, 2]]), [[7, 8]])
    assert np.array_equal(layer.tied.parameters[0].grad, [[5, 6], [0, 0], [10, 12]])
    assert np.array_equal(layer.parameters[0].grad, [1, 0, 2])


@sizes
@both_dtypes
def test_output_and_gradients_are_what_the_formulas_say_and_pytorch(size, dtype):
    layer, h, dz = built(size, dtype)
    E, z = layer.tied.parameters[0], layer.forward(h, training=True)
    dh = layer.backward(dz)
    tolerance = {"rtol": 1e-12, "atol": 1e-11} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-4}
    wide = [array.reshape(-1, array.shape[-1]).astype(float) for array in (h, E.value, dz)]
    b = layer.parameters[0].value if size[3] else 0
    np.testing.assert_allclose(z, tied_dense_forward_plain(*wide[:2], b).reshape(z.shape), **tolerance)
    dE, db, expected = tied_dense_backward_plain(*wide)
    np.testing.assert_allclose(dh, expected.reshape(h.shape), **tolerance)
    np.testing.assert_allclose(E.grad, dE, **tolerance)
    if size[3]:
        np.testing.assert_allclose(layer.parameters[0].grad, db, **tolerance)
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (h, E.value)]
    y = F.linear(*tensors, torch.from_numpy(b.copy()) if size[3] else None)
    y.backward(torch.from_numpy(dz))
    for ours, theirs in ((z, y.detach()), (dh, tensors[0].grad), (E.grad, tensors[1].grad)):
        np.testing.assert_allclose(ours, theirs.numpy(), **tolerance)


@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_the_gradients_are_what_central_differences_say(size):
    layer, h, _ = built(size)
    result = tn.gradcheck.check(layer, h)
    assert result.passed, result
    assert set(result.errors) == {"input", "weight", *(["bias"] if size[3] else [])}


def test_the_shared_gradient_is_the_sum_of_both_layers():
    model, (x, y) = model_of(dtype="float64"), words_and_labels()
    assert tn.gradcheck.check(model, x, y, loss=tn.softmax_cross_entropy).passed
    alone, scattered = (copy.deepcopy(model) for _ in range(2))
    _, dz = tn.softmax_cross_entropy(model.forward(x, training=True), y)
    model.backward(dz)
    _ = [twin.forward(x, training=True) for twin in (alone, scattered)]
    dh = alone.layers[2].backward(dz)
    scattered.layers[0].backward(alone.layers[1].backward(dh))
    parts = [twin.parameters()[0].grad for twin in (alone, scattered)]
    np.testing.assert_allclose(model.parameters()[0].grad, sum(parts), rtol=1e-12)


def test_gradients_are_overwritten_whatever_went_before():
    model, (x, y) = model_of(), words_and_labels()
    _, dz = tn.softmax_cross_entropy(model.forward(x, training=True), y)
    model.backward(dz)
    expected = model.flat_grads.copy()
    model.backward(dz)
    assert np.array_equal(model.flat_grads, expected)
    model.layers[2].backward(dz)  # a pass that ends before the Embedding
    model.forward(x, training=True)
    model.backward(dz)
    assert np.array_equal(model.flat_grads, expected)
    model.layers[2].backward(dz)
    model.forward(x, training=True)
    model.layers[0].backward(np.zeros((4, 5, 8)))  # without the head's, it starts at 0
    assert not model.parameters()[0].grad.any()


@sizes
def test_any_number_of_threads_and_any_batch_give_the_same_bits(size):
    layer, h, dz = built(size)
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        z = layer.forward(h, training=True)
        results.append((z, layer.backward(dz), layer.tied.parameters[0].grad.copy()))
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(layer.forward(h[:1])[0], results[0][0][0])


def test_a_frozen_embedding_has_no_gradient():
    model, (x, y) = model_of(), words_and_labels()
    model.layers[0].trainable = False
    _, dz = tn.softmax_cross_entropy(model.forward(x, training=True), y)
    model.flat_grads[:] = 0
    model.backward(dz)
    assert not model.parameters()[0].grad.any()
    assert all(parameter.grad.any() for parameter in model.parameters()[1:])


def test_sequences_may_be_shorter_than_built_and_padded():
    model, (x, _) = model_of(), words_and_labels()
    np.testing.assert_allclose(model.forward(x[:, :3]), model.forward(x)[:, :3], rtol=1e-6)
    z = model.forward((x, [5, 2, 0, 1]), training=True)
    assert not z[1, 2:].any()
    model.backward(np.ones_like(z))
    padded = model.flat_grads.copy()
    dz = np.ones_like(z) * (np.arange(5) < np.array([5, 2, 0, 1])[:, None])[..., None]
    model.forward(x, training=True)
    model.backward(dz)
    np.testing.assert_allclose(model.flat_grads, padded, atol=1e-5)


def test_an_empty_batch_gives_gradients_of_zero():
    layer, h, dz = built(SIZES[2])
    assert layer.forward(h[:0], training=True).shape == (0, 3, 5, 17)
    assert layer.backward(dz[:0]).shape == (0, 3, 5, 33)
    assert not layer.tied.parameters[0].grad.any()
    assert not layer.parameters[0].grad.any()


# --- one parameter ------------------------------------------------------------------------------------------


def test_the_vectors_are_in_the_model_once():
    model = model_of()
    assert [p.name for p in model.parameters()] == ["0.weight", "1.weight", "1.bias", "2.bias"]
    assert model.flat_values.size == 30 * 8 + 8 + 8 + 30
    assert "TiedDense" in model.summary()
    assert [row.name for row in tn.explain(model, *words_and_labels(), "softmax_cross_entropy").rows][
        3
    ] == "2 TiedDense"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_tied_to_its_own_embedding(copied):
    model, (x, _) = model_of(), words_and_labels()
    twin = copied(model)
    assert twin.layers[2].tied is twin.layers[0]
    before = model.predict(x)
    assert np.array_equal(twin.predict(x), before)
    twin.parameters()[0].value *= 2
    assert not np.array_equal(twin.predict(x), before)
    assert np.array_equal(model.predict(x), before)


def test_it_is_saved_and_loaded(tmp_path):
    model, other, (x, _) = model_of(), model_of(seed=1), words_and_labels()
    tn.save(model, tmp_path / "model")
    tn.load(other, tmp_path / "model")
    assert np.array_equal(other.predict(x), model.predict(x))


def test_training_agrees_with_pytorch_over_fifty_steps():
    model, (x, y) = model_of(), words_and_labels()
    network = tn.interop.to_torch_module(model)
    assert network.get_submodule("2").weight is network.get_submodule("0").weight
    optimizer, theirs = tn.Adam(model, lr=1e-2), torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(50):
        loss, dz = tn.softmax_cross_entropy(model.forward(x, training=True), y)
        model.backward(dz)
        optimizer.step()
        theirs.zero_grad()
        expected = F.cross_entropy(network(torch.from_numpy(x)).flatten(0, 1), torch.from_numpy(y).flatten())
        expected.backward()
        theirs.step()
        assert abs(loss - expected.item()) < 1e-4
    np.testing.assert_allclose(model.parameters()[0].value, network.get_parameter("0.weight").detach(), atol=1e-4)


def test_pytorchs_weights_come_and_go():
    model, other = model_of(), model_of(seed=1)
    state = tn.interop.to_torch(model)
    assert list(state) == ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]
    tn.interop.from_torch(other, state)
    assert np.array_equal(other.flat_values, model.flat_values)
    tn.interop.from_torch(other, tn.interop.to_torch_module(model))
    state["2.weight"] += 1
    with pytest.raises(
        ValueError, match=r"2\.weight is 0\.weight here, one array, but 2\.weight differs from 0\.weigh"
    ):
        tn.interop.from_torch(other, state)
    assert np.array_equal(other.flat_values, model.flat_values)


# --- refused ------------------------------------------------------------------------------------------------


def test_an_embedding_that_does_not_fit_is_refused():
    words, other = tn.Embedding(5, 3), tn.Embedding(5, 3)
    with pytest.raises(TypeError, match="embedding must be an Embedding, the layer itself, got 5"):
        tn.TiedDense(5)
    with pytest.raises(ValueError, match="has padding=0, whose vector is never read"):
        tn.TiedDense(tn.Embedding(5, 3, padding=0))
    with pytest.raises(
        ValueError, match=r"TiedDense \(layer 1\): its Embedding is not built: it must be a layer of the"
    ):
        tn.Sequential([words, tn.TiedDense(other)], 4)
    built = model_of().layers[0]
    with pytest.raises(ValueError, match=r"TiedDense \(layer 2\): its Embedding must be a layer of the same model"):
        tn.Sequential([tn.Embedding(5, 8), tn.LayerNorm(), tn.TiedDense(built)], 4)
    with pytest.raises(ValueError, match=r"input \(N, \.\.\., 3\), as the vectors of .*, got \(N, 4, 4, 2\)"):
        tn.Sequential([words, tn.Conv2D(2, 1), tn.TiedDense(words)], (4, 4))
    with pytest.raises(
        ValueError, match=r"TiedDense \(layer 4\): TiedDense \(layer 1\) uses Embedding \(layer 0\) alre"
    ):
        tn.Sequential([words, tn.TiedDense(words), tn.Flatten(), tn.Dense(3), tn.TiedDense(words)], 4)


def test_backward_needs_a_forward_and_a_gradient_that_fits():
    layer, h, dz = built(SIZES[0])
    with pytest.raises(RuntimeError, match="needs forward"):
        layer.backward(dz)
    layer.forward(h, training=True)
    with pytest.raises(ValueError, match="expected the gradient of its output"):
        layer.backward(dz[:, :2])
    with pytest.raises(ValueError, match=r"TiedDense: expected input \(N, 6, 3\)"):
        layer.forward(h[..., :2])
