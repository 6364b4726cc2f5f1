"""The index of a deduplication: one SQLite file and one file of shingles, not memory.

A document needs some hundred bytes, about 40 for each band and 8 for each shingle on disk (5.6 kB
a document of 4.3 kB in 18 bands, measured on 78 MB of German and English). Which document
of a group stays is a matter of rank: documents are visited from the best, and one is removed when
it is a duplicate of one that stays. So each removed document has its like among those that
stay, and no chain of likenesses removes what is like nothing that stays.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.fingerprints import Fingerprints
from data_tools.shingles import Hashes, jaccard

CANDIDATES = 1000  # better documents that one is compared with at the most; more are counted
PAGE = 10_000  # rows read at once from a table that changes between
TABLES = """
CREATE TABLE documents (position INTEGER PRIMARY KEY, source TEXT, n_bytes INTEGER, key BLOB,
    text_hash BLOB, id TEXT, first INTEGER, n_shingles INTEGER);
CREATE TABLE bands (key INTEGER, position INTEGER);
CREATE TABLE preferences (source TEXT PRIMARY KEY, preference INTEGER);
CREATE TABLE ranked (rank INTEGER PRIMARY KEY, position INTEGER, source TEXT, n_bytes INTEGER,
    key BLOB, text_hash BLOB, id TEXT, first INTEGER, n_shingles INTEGER, kept INTEGER,
    kind TEXT, similarity REAL);
CREATE TABLE buckets (key INTEGER, rank INTEGER, PRIMARY KEY (key, rank)) WITHOUT ROWID;
"""
RANK = """
INSERT INTO ranked SELECT NULL, position, source, n_bytes, key, text_hash, id, first, n_shingles,
    NULL, NULL, NULL FROM documents JOIN preferences USING (source)
    ORDER BY preference, n_bytes DESC, text_hash, id, position;
CREATE UNIQUE INDEX by_position ON ranked (position);
CREATE INDEX by_key ON ranked (key, rank);
UPDATE ranked SET kept = (SELECT MIN(best.rank) FROM ranked best WHERE best.key = ranked.key);
UPDATE ranked SET kind = 'exact', similarity = 1 WHERE kept < rank;
"""
FILL_BUCKETS = """
INSERT INTO buckets SELECT key, rank FROM (
    SELECT bands.key, rank, COUNT(*) OVER (PARTITION BY bands.key) n_documents
    FROM bands JOIN ranked USING (position) WHERE kept = rank
) WHERE n_documents > 1 ORDER BY 1, 2;
CREATE INDEX by_rank ON buckets (rank);
"""
SUSPECTS = """
SELECT rank, first, n_shingles FROM (SELECT DISTINCT rank FROM buckets WHERE rank > ?
    ORDER BY rank LIMIT ?) JOIN ranked USING (rank) ORDER BY rank
"""
FOLLOW_KEPT = """
UPDATE ranked SET similarity = best.similarity, kept = best.kept FROM ranked best
    WHERE ranked.kind = 'exact' AND best.rank = ranked.kept AND best.kept < best.rank;
"""
FIND_CANDIDATES = """
SELECT DISTINCT other.rank, first, n_shingles FROM buckets mine
    JOIN buckets other ON other.key = mine.key AND other.rank < mine.rank
    JOIN ranked ON ranked.rank = other.rank
    WHERE mine.rank = ? ORDER BY other.rank LIMIT ?
"""
REMOVED = """
SELECT gone.position, stays.position, gone.id, stays.id, gone.source, stays.source,
    gone.kind, gone.similarity
    FROM ranked gone JOIN ranked stays ON stays.rank = gone.kept WHERE gone.kept < gone.rank
"""
COUNT = """
SELECT gone.source, COUNT(*), SUM(gone.n_bytes),
    SUM(gone.kept = gone.rank), SUM((gone.kept = gone.rank) * gone.n_bytes),
    SUM(gone.kind IS 'exact' AND stays.source = gone.source),
    SUM(gone.kind IS 'exact' AND stays.source != gone.source),
    SUM(gone.kind IS 'near' AND stays.source = gone.source),
    SUM(gone.kind IS 'near' AND stays.source != gone.source)
    FROM ranked gone JOIN ranked stays ON stays.rank = gone.kept
    GROUP BY gone.source ORDER BY gone.source
"""


@dataclass(frozen=True)
class Pair:
    """A document that is removed, and the one that stays for it; positions in the input."""

    position: int
    kept_position: int
    id: str
    kept_id: str
    source: str
    kept_source: str
    kind: str
    similarity: float


@dataclass(frozen=True)
class Counts:
    """What became of a source: `within` it a duplicate stayed, or `across`, in another."""

    source: str
    n_documents: int
    n_bytes: int
    n_kept_documents: int
    n_kept_bytes: int
    n_exact_within: int
    n_exact_across: int
    n_near_within: int
    n_near_across: int


class DuplicateIndex:
    """The index of one deduplication; call add, then rank, then remove_near, then read."""

    def __init__(self, folder: Path, *, memory_gib: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["SQLITE_TMPDIR"] = str(folder)  # its sorts: /tmp may be small, or memory
        self.database = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        kib = int(memory_gib * 2**20)
        for pragma in (
            "journal_mode=OFF",  # a run that is killed starts afresh
            "synchronous=OFF",
            "locking_mode=EXCLUSIVE",
            "temp_store=FILE",
            f"cache_size=-{kib // 2}",  # half for the cache, the rest for sorts
            f"soft_heap_limit={kib * 1024}",
        ):
            self.database.execute(f"PRAGMA {pragma}").fetchall()
        self.database.executescript(TABLES)
        self.shingle_path = folder / "shingles.u64"
        self.shingle_file = self.shingle_path.open("wb")
        self.n_documents = 0
        self.n_shingles = 0
        self.n_not_compared = 0

    def close(self) -> None:
        """Close the files."""
        self.database.close()
        self.shingle_file.close()

    def add(self, named: Sequence[tuple[str, str]], prints: Fingerprints) -> None:
        """Add documents in the order of the input.

        Args:
            named: Source and id of each.
        """
        rows, bands, n_keyed = [], [], 0
        for (source, id_), own in zip(named, prints.texts, strict=True):
            digests = own.key, own.text_hash
            place = self.n_shingles, len(own.shingles)
            rows.append((self.n_documents, source, own.n_bytes, *digests, id_, *place))
            if len(own.shingles):
                bands += [(key, self.n_documents) for key in prints.keys[n_keyed].tolist()]
                n_keyed += 1
            self.n_documents += 1
            self.n_shingles += len(own.shingles)
            self.shingle_file.write(own.shingles.tobytes())
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.database.executemany("INSERT INTO bands VALUES (?, ?)", bands)
        self.database.execute("COMMIT")

    def sources(self) -> list[str]:
        """List the sources in the order of their first documents."""
        query = "SELECT source FROM documents GROUP BY source ORDER BY MIN(position)"
        return [source for (source,) in self.database.execute(query)]

    def rank(self, sources: Iterable[str]) -> None:
        """Rank the documents, sources as given, and remove exact duplicates."""
        self.shingle_file.flush()
        rows = [(source, preference) for preference, source in enumerate(sources)]
        self.database.executemany("INSERT INTO preferences VALUES (?, ?)", rows)
        self.database.executescript(f"BEGIN; {RANK} COMMIT;")

    def remove_near(self, threshold: float) -> Iterator[int]:
        """Remove near duplicates from the best rank on; yield each rank that was compared."""
        self.database.executescript(f"BEGIN; {FILL_BUCKETS} COMMIT;")
        shingles = self.read_shingles()
        self.database.execute("BEGIN")
        for rank, first, n_shingles in self.suspects():
            own = shingles[first : first + n_shingles]
            kept, similarity = self.find_like(rank, own, shingles, threshold)
            if kept is not None:
                self.database.execute(
                    "UPDATE ranked SET kept = ?, kind = 'near', similarity = ? WHERE rank = ?",
                    (kept, similarity, rank),
                )
                self.database.execute("DELETE FROM buckets WHERE rank = ?", (rank,))
            yield rank
        self.database.execute(FOLLOW_KEPT)
        self.database.execute("COMMIT")

    def suspects(self) -> Iterator[tuple[int, int, int]]:
        """Yield rank, first shingle and number of shingles of what shares a bucket, best first."""
        page, last = [(0, 0, 0)], 0
        while page:
            page = self.database.execute(SUSPECTS, (last, PAGE)).fetchall()
            for row in page:
                yield row
                last = row[0]

    def read_shingles(self) -> Hashes:
        """Map the file of shingles."""
        if not self.n_shingles:
            return np.empty(0, np.uint64)
        return np.memmap(self.shingle_path, np.uint64, "r")

    def find_like(
        self, rank: int, own: Hashes, shingles: Hashes, threshold: float
    ) -> tuple[int | None, float]:
        """Find the best document that stays and is like this one, by true similarity."""
        rows = self.database.execute(FIND_CANDIDATES, (rank, CANDIDATES + 1)).fetchall()
        self.n_not_compared += len(rows) > CANDIDATES
        for other, first, n_shingles in rows[:CANDIDATES]:
            shorter, longer = sorted((len(own), n_shingles))
            if shorter / longer < threshold:  # no set is more alike than its size allows
                continue
            similarity = jaccard(own, shingles[first : first + n_shingles])
            if similarity >= threshold:
                return other, similarity
        return None, 0.0

    def text_hashes(self) -> Iterator[tuple[bytes, bool]]:
        """Yield the hash of each text and whether it stays, in the order of the input."""
        yield from self.database.execute(
            "SELECT text_hash, kept = rank FROM ranked ORDER BY position"
        )

    def pairs(self) -> Iterator[Pair]:
        """Yield the removed documents in the order of the input."""
        for row in self.database.execute(REMOVED + "ORDER BY gone.position"):
            yield Pair(*row)

    def sample_pairs(self, n_pairs: int) -> list[Pair]:
        """Choose near pairs by the hash of the removed text."""
        query = REMOVED + "AND gone.kind = 'near' ORDER BY gone.text_hash, gone.rank LIMIT ?"
        return [Pair(*row) for row in self.database.execute(query, (n_pairs,))]

    def counts(self) -> list[Counts]:
        """Count per source what stays and what does not."""
        return [Counts(*row) for row in self.database.execute(COUNT)]
