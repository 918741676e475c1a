"""Licence expressions as people write them, and the table of licences."""

import pytest

from toolchain.terms import BadExpression, canonical, known_or_none
from toolchain.terms.expression import choices
from toolchain.terms.table import named_in, rows


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", ""),
        ("  apache-2.0 ", "Apache-2.0"),
        ("llama3.2", "LicenseRef-Llama-3.2"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
        ("mit and apache-2.0", "MIT AND Apache-2.0"),
        ("(MIT OR llama3.2) AND CC-BY-4.0", "(MIT OR LicenseRef-Llama-3.2) AND CC-BY-4.0"),
        ("GPL-3.0", "GPL-3.0-only"),
        (
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "GPL-2.0-only WITH Classpath-exception-2.0",
        ),
        ("EUPL-1.2", "EUPL-1.2"),
        ("LicenseRef-Acme.2026", "LicenseRef-Acme.2026"),
    ],
)
def test_a_licence_is_written_as_spdx_spells_it(written: str, read: str) -> None:
    assert canonical(written) == read


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("Aapche-2.0", "SPDX lists no licence `Aapche-2.0`: did you mean `Apache-2.0`?"),
        ("llama9", "SPDX lists no licence `llama9`: terms that SPDX does not list are written"),
        ("MIT OR", "`MIT OR` is no SPDX expression"),
        ("((((", "is no SPDX expression"),
        ("LicenseRef-", "SPDX lists no licence `LicenseRef-`"),
        ("LicenseRef-ä", "SPDX lists no licence `LicenseRef-ä`"),
        ("MIT " * 200, "longer than 500 characters"),
        (" AND ".join(["(MIT OR ISC)"] * 12), "choices in"),
    ],
)
def test_what_is_no_licence_is_refused_with_the_closest_one(written: str, problem: str) -> None:
    with pytest.raises(BadExpression) as caught:
        canonical(written)
    assert problem in str(caught.value)


def test_what_a_file_says_of_itself_may_be_nothing_known() -> None:
    assert [known_or_none(text) for text in ("other", "free for all", "MIT")] == ["", "", "MIT"]


def test_an_expression_leaves_these_choices() -> None:
    assert choices("MIT AND (ISC OR CC0-1.0)") == [{"MIT", "ISC"}, {"MIT", "CC0-1.0"}]


@pytest.mark.parametrize("row", rows().values(), ids=rows())
def test_every_row_is_an_id_with_its_source_and_refers_to_known_rows(row: object) -> None:
    from toolchain.terms.table import Licence

    assert isinstance(row, Licence)
    assert canonical(row.id) == row.id
    assert row.source
    assert {*row.same_terms, *row.not_with} <= rows().keys()
    assert not row.passes_on or row.kind == "model"
    assert all(canonical(tag) == row.id for tag in row.tags)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("\n   Apache License\n  Version 2.0, January 2004\n", "Apache-2.0"),
        ("MIT License\n\nCopyright (c) 2026 A", "MIT"),
        ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version", "LicenseRef-Llama-3.2"),
        ("Attribution-NonCommercial 4.0 International\n====", "CC-BY-NC-4.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
        ("Qwen RESEARCH LICENSE AGREEMENT\nRelease Date", "LicenseRef-Qwen-Research"),
        ("All rights reserved.", ""),
    ],
)
def test_a_licence_is_known_by_the_beginning_of_its_text(text: str, licence: str) -> None:
    assert named_in(text) == licence


def test_each_row_says_which_text_it_is_from_and_whether_that_was_read_again() -> None:
    unread = [row.id for row in rows().values() if row.checked.startswith("not: ")]
    assert unread == ["LicenseRef-Qwen-Research"]
    dated = [row.checked[:4] for row in rows().values() if row.id not in unread]
    assert set(dated) == {"2026"}
    assert all(row.source for row in rows().values())
