"""Trains the language model on the corpus of collect.py; writes model.onnx, manifest.json, scores.json and the card's tables.

    python train.py CORPUS.jsonl

A text's features are its n-grams of 1 to 4 characters, counted and scaled to length 1; softmax regression does the rest. The
counting is one standard ONNX operator over the tokenizer's ids, and the tokenizer (one id per character) travels in the
manifest, so that training and serving read a text in exactly the same way.
"""

import argparse
import hashlib
import json
import os
import sys
import zlib
from collections import Counter
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # else each type of processor rounds in its own way

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.sparse import csr_matrix, vstack
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

sys.path.insert(0, str(Path(__file__).parent.parent))
import report
from collect import LOCALES, WITHOUT_SPACES

HERE = Path(__file__).parent
LABELS = sorted(LOCALES)
SEED = 20261121
MAX_LENGTH = 256  # characters of a text that are looked at
BITS = 13  # of a token id in an n-gram's code; the vocabulary is smaller than 2 ** BITS
PAD, UNKNOWN, SPACE = range(3)
WINDOWS, HELD_WINDOWS = 12_000, 500  # texts per language to learn from, and to test with
# By length: so many of the most frequent n-grams of each language become features; a language that has a script for itself
# is told by its letters and needs few.
GRAMS = {1: 150, 2: 320, 3: 480, 4: 480}
OWN_SCRIPT, OWN_GRAMS = {"ar", "el", "fa", "he", "hi", "ja", "ko", "th", "zh"}, {1: 300, 2: 100, 3: 50, 4: 50}
PIECE = 4_000  # texts that are encoded or counted at a time, for memory's sake
EPOCHS, BATCH, RATE, DECAY = 8, 512, 0.05, 1e-7
# Texts of these programs, and every tenth manual and help page in all its translations, are only for the test.
HELD_PACKAGES = {"wesnoth-1.16-ei", "wesnoth-1.16-low", "aptitude-common", "gedit-common", "nautilus-data"}


def is_held_out(document: str) -> bool:
    return document in HELD_PACKAGES or ("/" in document and zlib.crc32(document.encode()) % 10 == 0)


def read_corpus(path: Path) -> tuple[dict[str, list[list[str]]], dict[str, list[list[str]]]]:
    """(training, held out): per language its texts, grouped by where they come from (manual pages, help, each program).

    A held-out text that also occurs in training, in any language, is dropped.
    """
    known: set[str] = set()
    sides: tuple[dict, dict] = ({}, {})
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for side, is_test in enumerate((False, True)):
        for row in rows:
            if is_held_out(row["document"]) == is_test and not (is_test and row["text"] in known):
                kind = row["document"].partition("/")[0].partition("-1.16")[0]
                sides[side].setdefault(row["language"], {}).setdefault(kind, []).append(row["text"])
                known.add(row["text"])
    return tuple({language: list(kinds.values()) for language, kinds in side.items()} for side in sides)


def windows(language: str, kinds: list[list[str]], count: int, random: np.random.Generator, *, shortest: int) -> list[str]:
    """`count` passages of `shortest` to 24 words (twice to 60 characters where words are not spaced), kinds of source alike."""
    result: list[str] = []
    weights = np.array([min(len(texts), 2_000) for texts in kinds], float)
    for kind in random.choice(len(kinds), count, p=weights / weights.sum()):
        text = kinds[kind][random.integers(len(kinds[kind]))]
        if language in WITHOUT_SPACES:
            parts, length, glue = list(text), int(2 * shortest * (30 / shortest) ** random.random()), ""
        else:
            parts, length, glue = text.split(), int(shortest * (24 / shortest) ** random.random()), " "
        start = random.integers(max(1, len(parts) - length + 1))
        result.append(glue.join(parts[start : start + length]))
    return result


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """One id per character: lower case, compatibility forms joined, everything that is no letter a single space."""
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": PAD, "[UNK]": UNKNOWN, " ": SPACE}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{M}]+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    counts = Counter(character for text in texts for character in tokenizer.normalizer.normalize_str(text))
    characters = sorted(c for c, n in counts.items() if n >= 5 and c != " ")
    vocabulary = {"[PAD]": PAD, "[UNK]": UNKNOWN, " ": SPACE} | {c: i for i, c in enumerate(characters, start=SPACE + 1)}
    tokenizer.model = models.WordLevel(vocabulary, unk_token="[UNK]")
    # A space on both sides, so that "first letter" and "last letter" look the same at the edges as within.
    tokenizer.post_processor = processors.TemplateProcessing(single="[E] $A [E]", special_tokens=[("[E]", SPACE)])
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(length=MAX_LENGTH, pad_id=PAD, pad_token="[PAD]")
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """(n, MAX_LENGTH) int16. In pieces, because the library keeps tens of KB per text while it encodes."""
    ids = np.zeros((len(texts), MAX_LENGTH), np.int16)
    for start in range(0, len(texts), PIECE):
        ids[start : start + PIECE] = [encoding.ids for encoding in tokenizer.encode_batch(texts[start : start + PIECE])]
    return ids


def gram_codes(ids: np.ndarray, length: int) -> np.ndarray:
    """The n-grams of that length as numbers, (n, MAX_LENGTH - length + 1) int64; 0 where padding is in it."""
    places = MAX_LENGTH - length + 1
    codes = np.zeros((len(ids), places), np.int64)
    for offset in range(length):
        codes = (codes << BITS) | ids[:, offset : offset + places]
    codes[ids[:, length - 1 :] == PAD] = 0
    return codes


def has_token(codes: np.ndarray, length: int, token: int) -> np.ndarray:
    return np.any([(codes >> (BITS * place)) & (2**BITS - 1) == token for place in range(length)], axis=0)


def choose_grams(ids: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Per length, the sorted codes of the n-grams that are among the most frequent of at least one language.

    Nothing of spaces alone nor with an unknown character, so that a text without known letters has no features and all labels
    are alike.
    """
    chosen = []
    for length in GRAMS:
        best: set[int] = set()
        for label, language in enumerate(LABELS):
            codes, counts = np.unique(gram_codes(ids[y == label], length), return_counts=True)
            blank = sum(SPACE << (BITS * place) for place in range(length))
            is_feature = ~has_token(codes, length, PAD) & ~has_token(codes, length, UNKNOWN) & (codes != blank)
            codes, counts = codes[is_feature], counts[is_feature]
            order = np.lexsort((codes, -counts))
            best.update(codes[order][: (OWN_GRAMS if language in OWN_SCRIPT else GRAMS)[length]].tolist())
        chosen.append(np.array(sorted(best), dtype=np.int64))
    return chosen


def features(ids: np.ndarray, grams: list[np.ndarray]) -> csr_matrix:
    """Counts of the chosen n-grams, each row scaled to Euclidean length 1: what the first two ONNX nodes compute."""
    return vstack([piece_features(ids[start : start + PIECE], grams) for start in range(0, len(ids), PIECE)], "csr")


def piece_features(ids: np.ndarray, grams: list[np.ndarray]) -> csr_matrix:
    rows, columns, first = [], [], 0
    for length, known in enumerate(grams, start=1):
        codes = gram_codes(ids, length)
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        row, column = np.nonzero(known[places] == codes)
        rows.append(row)
        columns.append(places[row, column] + first)
        first += len(known)
    row, column = np.concatenate(rows), np.concatenate(columns)
    x = csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=(len(ids), first))
    norms = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    x.data /= np.repeat(norms, np.diff(x.indptr))
    return x


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit(x: csr_matrix, y: np.ndarray) -> np.ndarray:
    """Weights (features, classes) of a softmax regression, by Adam (Kingma and Ba 2015) with a falling rate."""
    random = np.random.default_rng(SEED)
    w = np.zeros((x.shape[1], len(LABELS)), np.float32)
    m, v = np.zeros_like(w), np.zeros_like(w)
    steps = EPOCHS * (len(y) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(len(y))
        for start in range(0, len(y) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            batch = x[rows]
            error = softmax(batch @ w)
            error[np.arange(BATCH), y[rows]] -= 1
            gradient = batch.T @ (error / BATCH) + DECAY * w
            step += 1
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient * gradient - v)
            rate = RATE * (1 - step / (steps + 1)) / (1 - 0.9**step)
            w -= rate * m / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return w


def make_model(grams: list[np.ndarray], weights: np.ndarray) -> onnx.ModelProto:
    """input_ids (n, 256) int64 → probabilities (n, classes) float32; the weights are stored as float16.

    TfIdfVectorizer of onnxruntime refuses a batch of no rows, so a row of padding is put under every batch and cut off again.
    """
    pool = [
        (int(code) >> (BITS * place)) & (2**BITS - 1)
        for length, codes in enumerate(grams, start=1)
        for code in codes
        for place in reversed(range(length))
    ]
    sizes = [length * len(codes) for length, codes in enumerate(grams, start=1)]
    constants = {
        "one_row": np.array([0, 0, 1, 0], np.int64),
        "begin": np.array([0], np.int64),
        "end": np.array([-1], np.int64),
        "weights_half": weights.astype(np.float16),
    }
    nodes = [
        helper.make_node("Pad", ["input_ids", "one_row"], ["ids"]),
        helper.make_node(
            "TfIdfVectorizer", ["ids"], ["counts"], mode="TF", min_gram_length=1, max_gram_length=len(GRAMS), max_skip_count=0,
            ngram_counts=[sum(sizes[:length]) for length in range(len(GRAMS))],
            ngram_indexes=list(range(len(weights))), pool_int64s=pool,
        ),
        helper.make_node("LpNormalization", ["counts"], ["features"], axis=-1, p=2),
        helper.make_node("Slice", ["features", "begin", "end", "begin"], ["rows"]),
        helper.make_node("Cast", ["weights_half"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["rows", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]  # fmt: skip
    return report.model(
        "language",
        nodes,
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", MAX_LENGTH])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(LABELS)])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    corpus = parser.parse_args().corpus
    training, held_out = read_corpus(corpus)
    random = np.random.default_rng(SEED)
    texts = [text for language in LABELS for text in windows(language, training[language], WINDOWS, random, shortest=1)]
    tests = [text for language in LABELS for text in windows(language, held_out[language], HELD_WINDOWS, random, shortest=2)]
    y = np.repeat(np.arange(len(LABELS)), WINDOWS)
    tokenizer = make_tokenizer(texts)
    ids = token_ids(tokenizer, texts)
    grams = choose_grams(ids, y)
    print(f"{len(texts)} texts, {tokenizer.get_vocab_size()} characters, n-grams {[len(codes) for codes in grams]}", flush=True)
    model = make_model(grams, fit(features(ids, grams), y))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def predicted(passages: list[str]) -> np.ndarray:
        return session.run(None, {"input_ids": token_ids(tokenizer, passages).astype(np.int64)})[0].argmax(axis=1)

    everyday = [line.split("\t") for line in (HERE / "everyday.tsv").read_text(encoding="utf-8").splitlines()]
    everyday_y = np.array([LABELS.index(language) for language, _ in everyday])
    everyday_answers = predicted([text for _, text in everyday])
    for index in np.nonzero(everyday_answers != everyday_y)[0]:
        print("wrong:", everyday[index], LABELS[everyday_answers[index]])
    held_y = np.repeat(np.arange(len(LABELS)), HELD_WINDOWS)
    scores = {
        "corpus_sha256": hashlib.sha256(corpus.read_bytes()).hexdigest(),
        "held_out": report.scores(held_y, predicted(tests), LABELS),
        "everyday": report.scores(everyday_y, everyday_answers, LABELS),
    }
    manifest = {
        "version": "1.0.0",
        "task": "text-classification",
        "input": "input_ids",
        "output": "probabilities",
        "labels": LABELS,
        "preprocessing": [{"step": "tokenize", "max_length": MAX_LENGTH}],
        "tokenizer": json.loads(tokenizer.to_str()),
    }
    report.write(HERE, model, manifest, scores)


if __name__ == "__main__":
    main()
