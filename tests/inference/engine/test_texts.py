"""Of a long text only so much is tokenized as the tokens that are kept can depend on."""

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from inference.engine import steps
from inference.engine.errors import DeadlineExceeded
from inference.engine.manifest import parse_manifest

pytestmark = pytest.mark.no_servers

EXAMPLE = Path(__file__).parents[3] / "examples/language/manifest.json"
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "naïve",
    "cafés",
    "ﬃ",
    "é",
    "日本語",
    "안녕",
    "Привет",
    "don't",
    "1234",
    "https://example.org/x?y=1",
]
BETWEEN = [" ", " ", " ", ", ", ". ", "\n\n", " " * 40, "…", ""]


def some_text(rng: random.Random, words: int) -> str:
    return "".join(rng.choice(WORDS) + rng.choice(BETWEEN) for _ in range(words))


def trained(model, trainer, before, *, normalizer=None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = before
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    rng = random.Random(1)
    tokenizer.train_from_iterator([some_text(rng, 200) for _ in range(20)], trainer)
    return tokenizer


def whole_words() -> Tokenizer:
    trainer = trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    return trained(models.WordLevel(unk_token="[UNK]"), trainer, pre_tokenizers.Whitespace())


def pairs_of_bytes() -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["[PAD]"], show_progress=False)
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))


def pieces_of_words() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    made = trained(
        models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer(), normalizer=normalizers.BertNormalizer()
    )
    made.post_processor = processors.BertProcessing(("[SEP]", made.token_to_id("[SEP]")), ("[CLS]", made.token_to_id("[CLS]")))
    return made


def likeliest_pieces() -> Tokenizer:
    """SentencePiece's way: spaces are part of the pieces."""
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]"], unk_token="[UNK]", show_progress=False)
    made = trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), normalizer=normalizers.NFKC())
    made.decoder = decoders.Metaspace()
    return made


def letters() -> Tokenizer:
    return Tokenizer.from_str(json.dumps(json.loads(EXAMPLE.read_bytes())["tokenizer"]))


def loaded(tokenizer: Tokenizer, max_length: int = 256) -> Tokenizer:
    manifest = {
        "task": "text-classification",
        "tokenizer": json.loads(tokenizer.to_str()),
        "preprocessing": [{"step": "tokenize", "max_length": max_length}],
    }
    return steps.load_tokenizer(parse_manifest(manifest))


@pytest.mark.parametrize("max_length", [3, 16, 256, 1024])
@pytest.mark.parametrize("kind", [whole_words, pairs_of_bytes, pieces_of_words, likeliest_pieces, letters])
def test_a_text_has_the_same_tokens_as_if_all_of_it_were_tokenized(kind, max_length):
    tokenizer = loaded(kind(), max_length)
    rng = random.Random(max_length)
    texts = ["", " ", "a"] + [some_text(rng, rng.choice([3, 100, 400, 700, 2500])) for _ in range(12)]

    ids, mask = steps.tokenize(tokenizer, texts)

    whole = tokenizer.encode_batch(texts)
    assert ids.tolist() == [encoding.ids for encoding in whole]
    assert mask.tolist() == [encoding.attention_mask for encoding in whole]


@pytest.mark.parametrize("kind", [whole_words, pieces_of_words])
def test_a_word_that_the_first_reading_cuts_in_two_is_still_one(kind):
    tokenizer = loaded(kind())
    texts = ["1234" * shift + " " + "jumps   " * 400 for shift in range(16)]
    texts += ["," * shift + "jumps   " * 400 for shift in range(16)]

    assert steps.tokenize(tokenizer, texts)[0].tolist() == [encoding.ids for encoding in tokenizer.encode_batch(texts)]


class Watched:
    """A tokenizer that tells how long the texts were that it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.lengths = tokenizer, []

    def encode_batch(self, texts):
        self.lengths += map(len, texts)
        return self.tokenizer.encode_batch(texts)


def test_of_a_text_of_a_million_characters_only_the_beginning_is_tokenized():
    watched = Watched(loaded(letters()))

    ids, _ = steps.tokenize(watched, ["the quick brown fox " * 50_000])

    assert watched.lengths == [steps.FIRST_READ]
    assert ids.tolist() == [watched.tokenizer.encode("the quick brown fox " * 500).ids]


@pytest.mark.parametrize("filler", [" ", "."])
def test_a_text_that_makes_no_tokens_is_read_up_to_the_bound_and_no_further(filler):
    watched = Watched(loaded(letters()))

    ids, _ = steps.tokenize(watched, [filler * 900_000 + "word"])

    assert max(watched.lengths) == steps.MAX_READ
    assert sum(watched.lengths) < 2 * steps.MAX_READ
    assert ids.tolist() == [watched.tokenizer.encode(filler * 1000).ids]


def test_what_stands_behind_much_that_makes_no_tokens_is_found_within_the_bound():
    tokenizer = loaded(letters())
    text = " . " * 10_000 + "word"

    assert steps.tokenize(tokenizer, [text])[0].tolist() == [tokenizer.encode(text).ids]


def test_the_reading_of_a_text_ends_at_the_deadline():
    with pytest.raises(DeadlineExceeded):
        steps.tokenize(Watched(loaded(letters())), [" " * 900_000], deadline=1.0)
