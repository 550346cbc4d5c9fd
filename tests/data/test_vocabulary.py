"""Vocabularies: texts become numbers, and numbers become texts, word by word, by characters or by pieces of words."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.data.bpe import BPE, WORD, learn_merges, learn_merges_plain
from tinynet.data.vocabulary import Characters, Vocabulary, tokenize

LINES = ["the cat sat on the mat .", "The hat, the cat!", "", "  a\n\tb \u00e9\u4e2d\U0001f600 don't"]
KINDS = {
    "Vocabulary": Vocabulary(LINES, special=["<mask>"]),
    "Characters": Characters(LINES, special=["<mask>"]),
    "BPE": BPE(LINES, size=275, special=["<mask>"]),
}


def test_tokens_are_words_and_marks_in_lower_case():
    assert tokenize("It's GOOD-natured, isn't it?!") == ["it's", "good-natured", ",", "isn't", "it", "?", "!"]
    assert tokenize("  Café\x85two\tTHREE\n") == ["café", "two", "three"]
    assert tokenize("") == []


def test_words_are_ranked_by_frequency_then_by_alphabet():
    sentences = ["b a", "b c", "c d d d"]
    assert Vocabulary(sentences).words == ["<padding>", "<unknown>", "d", "b", "c", "a"]
    assert Vocabulary(reversed(sentences)).words == Vocabulary(sentences).words
    assert Vocabulary(sentences, min_count=2).words[2:] == ["d", "b", "c"]
    assert Vocabulary(sentences, max_size=4).words[2:] == ["d", "b"]
    assert len(Vocabulary(sentences, min_count=2, max_size=100)) == 5
    assert len(Vocabulary([])) == 2


def test_encoding_pads_and_cuts_behind_and_knows_what_it_does_not_know():
    vocabulary = Vocabulary(["a a a", "b b", "c"])
    encoded = vocabulary.encode(["c b a", "", "A new b"])
    assert encoded.tolist() == [[4, 3, 2], [0, 0, 0], [2, 1, 3]]
    assert encoded.dtype == np.int64
    assert vocabulary.encode(["c b a", "b"], length=2).tolist() == [[4, 3], [3, 0]]
    assert vocabulary.encode(["b"], length=3).tolist() == [[3, 0, 0]]
    assert vocabulary.encode([]).shape == (0, 1)
    assert vocabulary.encode([""]).tolist() == [[0]]


def test_lists_of_words_are_taken_as_they_are():
    vocabulary = Vocabulary([["New York", "A"], ("A",), ["<padding>", "<unknown>"]])
    assert vocabulary.words[2:] == ["A", "New York"]
    assert vocabulary.encode([["New York", "a", "A", "<padding>"]]).tolist() == [[3, 1, 2, 0]]


def test_a_single_sentence_is_no_list_of_sentences():
    vocabulary = Vocabulary(["a film"])
    for call in (Vocabulary, vocabulary.encode):
        with pytest.raises(TypeError, match=r"got a single one; write \['a film'\]"):
            call("a film")
        for wrong in (b"a film", 3, None):
            with pytest.raises(TypeError, match="must be a string or a list of words"):
                call(["a film", wrong])
    with pytest.raises(TypeError, match="tokenize: a sentence must be a string, got list"):
        tokenize(["a film"])


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        Vocabulary([], min_count=0)
    with pytest.raises(ValueError, match="max_size must be at least 2, got 1"):
        Vocabulary([], max_size=1)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        Vocabulary([]).encode([], length=0)
    with pytest.raises(TypeError, match="length must be a whole number"):
        Vocabulary([]).encode([], length=2.0)


# --- what all three do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_0_and_1_are_padding_and_unknown_and_special_words_follow(kind):
    vocabulary = KINDS[kind]
    assert vocabulary.special == {"<padding>": 0, "<unknown>": 1, "<mask>": 2}
    assert vocabulary.words[:3] == list(vocabulary.special)
    assert len(vocabulary) == len(vocabulary.words)
    assert repr(vocabulary).startswith(f"{kind}({len(vocabulary)} ")
    found = vocabulary.encode(["<mask>", *LINES])
    assert 2 not in found  # what a text says is never taken for a special word
    assert found.max() < len(vocabulary)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_are_the_rows_of_encode_without_padding(kind):
    vocabulary = KINDS[kind]
    sequences, encoded = vocabulary.sequences(LINES), vocabulary.encode(LINES)
    assert encoded.dtype == np.int64
    assert [len(row) for row in sequences].count(0) == 1
    for numbers, row in zip(sequences, encoded, strict=True):
        assert numbers.dtype == np.int64
        assert row.tolist() == numbers.tolist() + [0] * (len(row) - len(numbers))
    assert vocabulary.encode(LINES, 3).tolist() == encoded[:, :3].tolist()
    assert vocabulary.sequences([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_takes_rows_of_any_kind_and_leaves_padding_out(kind):
    vocabulary = KINDS[kind]
    encoded = vocabulary.encode(LINES)
    texts = vocabulary.decode(encoded)
    if kind != "Vocabulary":
        assert texts == LINES
    assert vocabulary.decode(vocabulary.sequences(LINES)) == vocabulary.decode(encoded.tolist()) == texts
    assert vocabulary.decode(encoded[1]) == vocabulary.decode(encoded[1].tolist()) == texts[1]
    assert vocabulary.decode([0, 2, 0]) == "<mask>"
    assert vocabulary.decode([[2, 3, 0], [2, 0]], special=False) == [vocabulary.decode([3]), ""]
    assert vocabulary.decode([]) == []
    assert vocabulary.decode(np.zeros(0, int)) == ""
    size = len(vocabulary)
    for wrong in (size, -1):
        with pytest.raises(ValueError, match=f"must be from 0 to {size - 1}, got {wrong} at position 1"):
            vocabulary.decode([[3], [2, wrong]])
    with pytest.raises(TypeError, match="expected rows of whole numbers, got an array \\(2,\\) of float64"):
        vocabulary.decode([1.0, 2.0])
    with pytest.raises(TypeError, match="expected rows of whole numbers, got an array \\(1, 1\\) of int64"):
        vocabulary.decode([[[1]]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_vocabulary_is_the_same_when_it_is_loaded(kind, tmp_path):
    vocabulary, path = KINDS[kind], tmp_path / "vocabulary.json"
    vocabulary.save(path)
    json.loads(path.read_text(encoding="utf-8"))
    loaded = type(vocabulary).load(path)
    assert type(loaded) is type(vocabulary)
    assert loaded.words == vocabulary.words
    assert loaded.special == vocabulary.special
    others = [*LINES, "that hat sat"]
    np.testing.assert_array_equal(loaded.encode(others), vocabulary.encode(others))
    for other in {"Vocabulary", "Characters", "BPE"} - {kind}:
        with pytest.raises(ValueError, match=f"{other}.load: .*json holds no {other}: it is of the kind '{kind}'"):
            type(KINDS[other]).load(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = [b"", b"[1]", b"\xff", b"{}"]
    cases += [{key: value for key, value in content.items() if key != left} for left in content]
    cases += [{**content, key: value} for key in content for value in (3, None, [[1]], ["<padding>", "<padding>"])]
    for case in cases:
        path.write_bytes(case if isinstance(case, bytes) else json.dumps(case).encode())
        with pytest.raises(ValueError, match=f"{kind}.load: .*json holds no {kind}"):
            type(vocabulary).load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_special_words_that_make_no_sense_are_refused(kind):
    make = type(KINDS[kind])
    for wrong in ("<mask>", [3], [""]):
        with pytest.raises(TypeError, match=f"{kind}: special must be a list of words"):
            make(LINES, special=wrong)
    for wrong in (["a", "a"], ["<padding>"]):
        with pytest.raises(ValueError, match=f"{kind}: special words must differ"):
            make(LINES, special=wrong)


@pytest.mark.parametrize("kind", ["Characters", "BPE"])
def test_a_single_text_is_no_list_of_texts(kind):
    vocabulary = KINDS[kind]
    for call in (type(vocabulary), vocabulary.encode, vocabulary.sequences):
        with pytest.raises(TypeError, match=r"got a single one; write \['a film'\]"):
            call("a film")
        with pytest.raises(TypeError, match="must be a string"):
            call(["a film", 3])


# --- characters ---------------------------------------------------------------------------------------------


def test_characters_are_told_apart_by_case_and_ranked_by_frequency():
    characters = Characters(["Abba", "b a"], min_count=1)
    assert characters.words[2:] == ["b", "a", " ", "A"]
    assert characters.encode(["Ab x"]).tolist() == [[5, 2, 4, 1]]
    assert Characters(["Abba"], min_count=2).words[2:] == ["b"]
    assert characters.decode([5, 1]) == characters.decode([5, 1], special=False) == "A<unknown>"


# --- pieces of words ----------------------------------------------------------------------------------------


def test_the_merges_are_those_of_the_text_s_example():
    words = dict.fromkeys([b"low", b"lower", b"newest", b"widest"], 1)
    merges = [(b"e", b"s"), (b"es", b"t"), (b"l", b"o"), (b"lo", b"w")]
    assert learn_merges_plain(words, 260) == merges
    found, cut = learn_merges(words, 260)
    assert found == merges
    assert cut[b"newest"] == [b"n", b"e", b"w", b"est"]
    assert cut[b"lower"] == [b"low", b"e", b"r"]


@pytest.mark.parametrize("seed", range(30))
def test_merges_are_those_of_the_plain_loops(seed):
    rng = random.Random(seed)
    letters = "ab" if seed % 2 else "abcdefgh"  # of two letters: repeated ones, such as aaaa, and many ties
    words = Counter("".join(rng.choices(letters, k=rng.randrange(9))).encode() for _ in range(rng.choice([3, 40])))
    for pieces in (256, 257, 300):
        merges, cut = learn_merges(words, pieces)
        assert merges == learn_merges_plain(words, pieces)
        assert all(b"".join(row) == word for word, row in cut.items())


def test_a_text_is_its_pieces_one_after_the_other():
    rng = random.Random(0)
    bpe = BPE(LINES, size=290)
    for _ in range(300):
        alphabet = "abet \n\t.,'-3_\u00e9\u4e2d\U0001f600\x00\u00a0"
        text = "".join(rng.choices(alphabet, k=rng.randrange(100)))
        assert "".join(WORD.findall(text)) == text
        assert bpe.decode(bpe.sequences([text])[0]) == text
    assert bpe.decode(bpe.encode(["\ud800"])) == ["\ufffd" * 3]  # half a character is no text, and no error
    assert max(map(len, WORD.findall("a" * 10_000))) == 40


def test_what_was_cut_in_training_is_cut_so_again():
    text = " ".join(LINES * 3)
    bpe = BPE([text], size=300)
    fresh = bpe.encode([text])
    bpe._words.clear()
    np.testing.assert_array_equal(bpe.encode([text]), fresh)


def test_frequent_words_are_one_piece_and_the_size_is_kept():
    bpe = BPE(["the cat and the dog and the cow"] * 50, size=270)
    assert len(bpe) == 270
    assert " the" in bpe.words
    assert bpe.words[2 + ord("a")] == "a"
    assert len(bpe.sequences([" the the the"])[0]) == 3
    few = BPE(["ab ab"], size=1000)  # no pair is left that occurs twice
    assert few.words[258:] == ["ab"]
    assert len(BPE([])) == 258
    assert BPE(["AB ab"], lower=True).encode(["Ab"]).tolist() == [[258]]
    assert BPE(["AB ab"], lower=False).encode(["Ab"]).tolist() == [[2 + 65, 2 + 98]]


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="BPE: size must be at least 259, got 258"):
        BPE([], size=258, special=["<mask>"])
    with pytest.raises(TypeError, match="BPE: lower must be True or False, got 1"):
        BPE([], lower=1)
    with pytest.raises(ValueError, match="Vocabulary: max_size must be at least 3, got 2"):
        Vocabulary([], max_size=2, special=["<mask>"])


def test_the_plays_are_less_than_half_as_many_pieces_as_characters():
    root = os.environ.get("TINYNET_DATA")
    if not root or not (Path(root) / "shakespeare").is_dir():
        pytest.skip("needs the environment variable TINYNET_DATA to name a folder with shakespeare in it")
    train, validation = tn.data.shakespeare(root)
    bpe = BPE([train], size=1000)
    assert len(bpe) == 1000
    [numbers] = bpe.sequences([validation])
    assert 2.2 < len(validation) / len(numbers) < 2.4
    assert bpe.decode(numbers) == validation
