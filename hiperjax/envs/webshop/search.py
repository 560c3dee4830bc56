"""Full-text search over products, ranked as Lucene ranks: BM25 with lengths in one byte.

For a query term t that occurs c times in the query and a document d of length |d|:

    idf   = ln(1 + (N - df + 1/2) / (df + 1/2))
    score = sum over t of  c * idf * (1 - 1 / (1 + tf / (k1 * (1 - b + b * |d|' / avg))))

|d|' is |d| rounded down to what one byte can say, avg the mean of the true lengths. Terms are
scored in float32 and summed in float64, the sum is rounded to float32, ties go to the smaller
identifier: the arithmetic of Lucene's scorers, without which lists differ below the top ranks.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from hiperjax.envs.webshop.analysis import analyze

K1 = 0.9
B = 0.4


def round_length(length: int) -> int:
    """A length as Lucene's one-byte code keeps it: exact below 40, then 4 significant bits."""
    if length < 40:
        return length
    excess = length - 24  # the first 24 codes are spent on exact small values
    shift = max(excess.bit_length() - 4, 0)
    return 24 + (excess >> shift << shift)


@dataclasses.dataclass(frozen=True)
class SearchIndex:
    """Postings of all documents, in one array per column, sorted by term."""

    identifiers: tuple[str, ...]
    """identifiers of the documents, ascending: a document's number is its index here"""
    term_numbers: Mapping[str, int]
    starts: Int[np.ndarray, " terms_plus_1"]
    """where each term's postings begin; one more entry marks the end"""
    documents: Int[np.ndarray, " postings"]
    saturation: Float32[np.ndarray, " postings"]
    """1 + tf / K of each posting"""

    def search(self, query: str, limit: int = 50) -> list[tuple[str, float]]:
        """The best documents with their scores, best first."""
        return self.rank_terms(analyze(query), limit)

    def rank_terms(self, terms: Iterable[str], limit: int) -> list[tuple[str, float]]:
        """As `search`, for a query already analyzed."""
        counts = collections.Counter(t for t in terms if t in self.term_numbers)
        scores = np.zeros(len(self.identifiers), np.float64)
        for term, count in counts.items():
            number = self.term_numbers[term]
            span = slice(int(self.starts[number]), int(self.starts[number + 1]))
            weight = self._weigh(span.stop - span.start) * np.float32(count)
            scores[self.documents[span]] += weight - weight / self.saturation[span]
        return self._take_best(scores.astype(np.float32), limit)

    def _weigh(self, frequency: int) -> np.float32:
        total = len(self.identifiers)
        return np.float32(math.log(1 + (total - frequency + 0.5) / (frequency + 0.5)))

    def _take_best(self, scores: np.ndarray, limit: int) -> list[tuple[str, float]]:
        found = np.flatnonzero(scores)
        if len(found) > limit:
            least = np.partition(scores[found], -limit)[-limit]
            found = found[scores[found] >= least]
        order = found[np.lexsort((found, -scores[found]))][:limit]
        return [(self.identifiers[number], float(scores[number])) for number in order]


def build_index(documents: Iterable[tuple[str, str]]) -> SearchIndex:
    """Index (identifier, text) pairs; identifiers are distinct."""
    term_numbers: dict[str, int] = {}
    identifiers: list[str] = []
    columns: list[np.ndarray] = []
    for identifier, text in documents:
        counts = collections.Counter(analyze(text))
        column = np.empty((2, len(counts)), np.int32)
        column[0] = [term_numbers.setdefault(term, len(term_numbers)) for term in counts]
        column[1] = list(counts.values())
        identifiers.append(identifier)
        columns.append(column)
    return _invert(identifiers, term_numbers, columns)


def _invert(
    identifiers: Sequence[str], term_numbers: dict[str, int], columns: list[np.ndarray]
) -> SearchIndex:
    order = sorted(range(len(identifiers)), key=identifiers.__getitem__)
    sizes = np.array([columns[place].shape[1] for place in order], np.int64)
    lengths = np.array([columns[place][1].sum() for place in order], np.int64)
    flat = np.concatenate([columns[place] for place in order] or [np.empty((2, 0), np.int32)], 1)
    columns.clear()
    documents = np.repeat(np.arange(len(order), dtype=np.int32), sizes)
    by_term = np.argsort(flat[0], kind="stable")
    starts = np.zeros(len(term_numbers) + 1, np.int64)
    np.cumsum(np.bincount(flat[0], minlength=len(term_numbers)), out=starts[1:])
    inverse = _invert_norms(lengths)
    documents = documents[by_term]
    saturation = np.float32(1) + flat[1][by_term].astype(np.float32) * inverse[documents]
    return SearchIndex(
        identifiers=tuple(identifiers[place] for place in order),
        term_numbers=term_numbers,
        starts=starts,
        documents=documents,
        saturation=saturation,
    )


def _invert_norms(lengths: np.ndarray) -> np.ndarray:
    """1 / K of each document, in float32 from the first operation on."""
    if not lengths.any():  # nothing to be found in any document
        return np.ones(len(lengths), np.float32)
    mean = np.float32(lengths.sum() / len(lengths))
    k1, b, one = np.float32(K1), np.float32(B), np.float32(1)
    rounded = np.array([round_length(int(length)) for length in lengths], np.float32)
    return one / (k1 * ((one - b) + b * rounded / mean))


def save_index(index: SearchIndex, path: Path) -> None:
    """Write an index to one `.npz` file."""
    np.savez(
        path,
        identifiers=np.array(index.identifiers),
        terms=np.frombuffer("\n".join(index.term_numbers).encode(), np.uint8),
        starts=index.starts,
        documents=index.documents,
        saturation=index.saturation,
    )


def load_index(path: Path) -> SearchIndex:
    """Read what `save_index` wrote."""
    with np.load(path, allow_pickle=False) as file:
        terms = file["terms"].tobytes().decode()
        return SearchIndex(
            identifiers=tuple(file["identifiers"].tolist()),
            term_numbers={t: n for n, t in enumerate(terms.split("\n") if terms else [])},
            starts=file["starts"],
            documents=file["documents"],
            saturation=file["saturation"],
        )
