"""Limits of the rules, each with where it comes from."""

from dataclasses import dataclass, fields

RAE = "Rae et al. 2021, arXiv:2112.11446"  # Gopher: quality in appendix A.1.1, repetition table A1
PENEDO = "Penedo et al. 2024, arXiv:2406.17557"  # FineWeb: section 3.6

TOP_GRAM_LIMITS = ((2, 0.20), (3, 0.18), (4, 0.16))  # Rae et al. 2021, table A1
DUPLICATE_GRAM_LIMITS = (  # Rae et al. 2021, table A1
    (5, 0.15),
    (6, 0.14),
    (7, 0.13),
    (8, 0.12),
    (9, 0.11),
    (10, 0.10),
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the rules; a share is of 1.

    Attributes:
        min_words: Rae et al. take 50, for web pages, which drops 1,048 of the 18,106 documents of
            our reference corpus, most of them whole pages of a help; 20 drops 3.
        max_words: Rae et al., A.1.1.
        min_mean_word_characters: Rae et al., A.1.1.
        max_mean_word_characters: Rae et al., A.1.1; for all languages but German.
        max_mean_word_characters_german: FineWeb-2's for German (configs/deu_Latn.yml), which
            writes compounds as one word; the median of our German text is 6.8, of English 5.3.
        max_symbol_share: Number signs, or ellipses, to words (Rae et al., A.1.1).
        max_bullet_line_share: Rae et al., A.1.1.
        max_ellipsis_line_share: Rae et al., A.1.1.
        min_alphabetic_word_share: Rae et al. take 0.8 and FineWeb-2 0.774 for German; 0.8 drops
            1.5 of the 78 MB of our corpus, manuals full of numbers and signs, and 0.7 drops 0.2,
            links of navigation.
        min_stop_words: Different ones (Rae et al., A.1.1).
        max_duplicate_line_share: Rae et al., table A1.
        max_duplicate_line_character_share: Rae et al., table A1.
        max_duplicate_paragraph_share: Rae et al., table A1.
        max_duplicate_paragraph_character_share: Rae et al., table A1.
        gram_scale: Multiplies the limits of table A1 for runs of words; 2 allows twice as much.
        min_punctuated_line_share: Penedo et al., 3.6.
        max_short_line_share: Penedo et al., 3.6.
        short_line_characters: A line is short with fewer (Penedo et al., 3.6).
        max_fineweb_duplicate_line_character_share: Penedo et al., 3.6; their code takes 0.01.
        max_newlines_per_word: datatrove's fineweb_quality_filter.py 0.10.1.
        max_tag_share: Characters of HTML tags; ours.
        max_replacement_share: U+FFFD, where bytes were no text; ours.
        max_boilerplate_share: Characters that `boilerplate` removed; ours.
    """

    min_words: int = 20
    max_words: int = 100_000
    min_mean_word_characters: float = 3
    max_mean_word_characters: float = 10
    max_mean_word_characters_german: float = 15
    max_symbol_share: float = 0.1
    max_bullet_line_share: float = 0.9
    max_ellipsis_line_share: float = 0.3
    min_alphabetic_word_share: float = 0.7
    min_stop_words: int = 2
    max_duplicate_line_share: float = 0.3
    max_duplicate_line_character_share: float = 0.2
    max_duplicate_paragraph_share: float = 0.3
    max_duplicate_paragraph_character_share: float = 0.2
    gram_scale: float = 1.0
    min_punctuated_line_share: float = 0.12
    max_short_line_share: float = 0.67
    short_line_characters: int = 30
    max_fineweb_duplicate_line_character_share: float = 0.1
    max_newlines_per_word: float = 0.3
    max_tag_share: float = 0.2
    max_replacement_share: float = 0.001
    max_boilerplate_share: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ValueError(f"limits.{field.name}={value}: give 0 or more")
            if field.name.endswith("_share") and value > 1:
                raise ValueError(f"limits.{field.name}={value}: a share is in [0, 1]")
        if self.min_words > self.max_words:
            raise ValueError(
                f"limits.min_words={self.min_words}: more than limits.max_words={self.max_words}"
            )
