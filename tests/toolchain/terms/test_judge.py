"""Chains of licences, judged as their texts say it: the expected verdicts were written from the
licences, not from the code.
"""

from typing import NamedTuple

import pytest

from toolchain.errors import TrustError
from toolchain.ledger import Role, Source, Use
from toolchain.terms import Claim, canonical, judge

USES: dict[Role, Use] = {
    "base": "weights",
    "adapter": "weights",
    "student": "weights",
    "teacher": "outputs",
    "data": "trained",
    "documents": "beside",
    "embedder": "beside",
}


def source(role: Role, licence: str, name: str = "") -> Source:
    return Source(role=role, use=USES[role], name=name or role, licence=canonical(licence))


class Chain(NamedTuple):
    """What a bundle is made of, what it claims, and the two that clash."""

    why: str
    sources: tuple[tuple[Role, str], ...]
    claim: str
    parties: tuple[str, str] | None
    """Words of both parties in the sentence; None where all is well."""
    name: str = "help-desk"
    result: str = ""
    """Where nothing is claimed: what follows."""


CHAINS = (
    Chain(
        "permissive base and attributed data: both notices stay",
        (("base", "apache-2.0"), ("data", "CC-BY-4.0")),
        "",
        None,
        result="Apache-2.0 AND CC-BY-4.0",
    ),
    Chain(
        "CC BY-NC 2(a)(1): for NonCommercial purposes only; Apache-2.0 permits any",
        (("base", "Apache-2.0"), ("data", "CC-BY-NC-4.0")),
        "Apache-2.0",
        ("CC-BY-NC-4.0", "`package.licence` (Apache-2.0)"),
    ),
    Chain(
        "the same with a claim that forbids commercial use as well",
        (("base", "Apache-2.0"), ("data", "CC-BY-NC-4.0")),
        "CC-BY-NC-4.0",
        None,
    ),
    Chain(
        "CC BY-ND 2(a)(1)(B): adapted material may be produced but not shared",
        (("base", "MIT"), ("data", "CC-BY-ND-4.0")),
        "",
        ("CC-BY-ND-4.0", "`help-desk`"),
    ),
    Chain(
        "CC BY-ND 2(a)(1)(A): whole or in part, unchanged: quoted documents",
        (("base", "MIT"), ("documents", "CC-BY-ND-4.0")),
        "MIT",
        None,
    ),
    Chain(
        "CC BY-SA 3(b)(1): the adapter's licence is BY-SA or a compatible one",
        (("base", "Apache-2.0"), ("data", "CC-BY-SA-4.0")),
        "Apache-2.0",
        ("CC-BY-SA-4.0", "`package.licence` (Apache-2.0)"),
    ),
    Chain(
        "CC BY-SA with its own terms over a permissive base",
        (("base", "Apache-2.0"), ("data", "CC-BY-SA-4.0")),
        "CC-BY-SA-4.0",
        None,
    ),
    Chain(
        "CC BY-SA 3(b)(3) allows no further restrictions, Llama 3.2 1(b)(iv) has a use policy",
        (("base", "llama3.2"), ("data", "CC-BY-SA-4.0")),
        "",
        ("CC-BY-SA-4.0", "LicenseRef-Llama-3.2"),
        name="llama-help-desk",
    ),
    Chain(
        "Llama 3.2 1(b)(i): a distributed model that was trained begins with Llama",
        (("base", "llama3.2"), ("data", "LicenseRef-ours")),
        "llama3.2",
        ("LicenseRef-Llama-3.2", "`help-desk`"),
    ),
    Chain(
        "Llama 3.2 under its own name and terms",
        (("base", "llama3.2"), ("data", "LicenseRef-ours")),
        "llama3.2",
        None,
        name="Llama-3.2-1B-help",
    ),
    Chain(
        "Llama 2 1(b)(v): outputs improve no other large language model",
        (("teacher", "llama2"), ("student", "Apache-2.0"), ("data", "LicenseRef-ours")),
        "",
        ("LicenseRef-Llama-2", "student `student` (Apache-2.0)"),
    ),
    Chain(
        "Gemma 1.1(e), 3.1: a model that learned from its outputs is a derivative",
        (("teacher", "gemma"), ("student", "Apache-2.0"), ("data", "LicenseRef-ours")),
        "Apache-2.0",
        ("LicenseRef-Gemma", "`package.licence` (Apache-2.0)"),
    ),
    Chain(
        "Qwen research 2(b): non-commercial use alone",
        (("base", "qwen-research"), ("data", "MIT")),
        "MIT",
        ("LicenseRef-Qwen-Research", "`package.licence` (MIT)"),
    ),
    Chain(
        "two share-alike licences, each for its own terms alone",
        (("data", "CC-BY-SA-4.0"), ("documents", "MIT"), ("adapter", "CC-BY-NC-SA-4.0")),
        "",
        ("CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"),
    ),
    Chain(
        "BY-SA 3.0 4(b): a later version with the same elements does for both",
        (("base", "MIT"), ("data", "CC-BY-SA-3.0"), ("adapter", "CC-BY-SA-4.0")),
        "CC-BY-SA-4.0",
        None,
    ),
    Chain(
        "Apache-2.0 and GPL-2.0-only cannot be in one work (apache.org, GPL compatibility)",
        (("base", "Apache-2.0"), ("data", "GPL-2.0-only")),
        "GPL-2.0-only",
        ("Apache-2.0", "GPL-2.0-only"),
    ),
    Chain(
        "Apache-2.0 goes into GPL-3.0",
        (("base", "Apache-2.0"), ("data", "GPL-3.0-or-later")),
        "GPL-3.0-only",
        None,
    ),
    Chain(
        "of a choice one that does is enough",
        (("base", "Apache-2.0"), ("data", "CC-BY-NC-4.0 OR MIT")),
        "Apache-2.0",
        None,
    ),
    Chain(
        "OpenRAIL-M 4: use restrictions are an enforceable part of any licence",
        (("base", "openrail"), ("data", "CC0-1.0")),
        "MIT",
        ("LicenseRef-OpenRAIL", "`package.licence` (MIT)"),
    ),
    Chain(
        "an embedder for non-commercial use travels in the bundle",
        (("base", "Apache-2.0"), ("data", "MIT"), ("embedder", "CC-BY-NC-4.0")),
        "Apache-2.0",
        ("embedder `embedder` (CC-BY-NC-4.0)", "`package.licence` (Apache-2.0)"),
    ),
    Chain(
        "share-alike documents that are quoted beside the model do not reach it",
        (("base", "Apache-2.0"), ("documents", "CC-BY-SA-4.0")),
        "Apache-2.0",
        None,
    ),
)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.why)
def test_a_chain_of_licences_is_judged_as_their_texts_say(chain: Chain) -> None:
    sources = [source(role, licence) for role, licence in chain.sources]
    terms = judge(sources, Claim(name=chain.name, licence=canonical(chain.claim)))
    if chain.parties is None:
        assert terms.conflicts == ()
        assert terms.result == (canonical(chain.claim) or chain.result)
        return
    assert terms.conflicts
    assert all(party in sentence for party in chain.parties for sentence in terms.conflicts)
    with pytest.raises(TrustError) as caught:
        terms.refuse("package", strict=False)
    assert caught.value.exit_code == 8


def test_unknown_terms_are_a_result_and_never_a_permission() -> None:
    sources = [source("base", "Apache-2.0"), source("data", "", "tickets.jsonl")]
    terms = judge(sources, Claim(name="x"))
    assert (terms.result, terms.unknown) == ("", ("data `tickets.jsonl`",))
    terms.refuse("package", strict=False)
    with pytest.raises(TrustError, match=r"package: terms: unknown for data `tickets\.jsonl`"):
        terms.refuse("package", strict=True)


def test_terms_of_ones_own_that_the_table_does_not_know_are_unknown_by_their_name() -> None:
    terms = judge([source("data", "LicenseRef-Acme")], Claim(name="x", licence="MIT"))
    assert terms.unknown == ("data `data` (LicenseRef-Acme, which is not in the table)",)
    assert terms.conflicts == ()


def test_every_choice_of_a_claim_must_be_allowed() -> None:
    sources = [source("data", "CC-BY-NC-4.0")]
    assert judge(sources, Claim(name="x", licence="CC-BY-NC-4.0 OR MIT")).conflicts
    assert not judge(sources, Claim(name="x", licence="CC-BY-NC-4.0 AND MIT")).conflicts


def test_a_finished_model_keeps_its_name() -> None:
    claim = Claim(name="my-model", licence="LicenseRef-Llama-3.2", is_trained=False)
    assert judge([source("base", "llama3.2")], claim).conflicts == ()


def test_data_that_a_model_wrote_has_the_terms_of_its_outputs() -> None:
    sources = [source("base", "Apache-2.0"), source("data", "llama3")]
    sentences = " ".join(judge(sources, Claim(name="help")).conflicts)
    assert "lets its outputs improve llama models alone" in sentences
    assert "begins with `Llama 3`" in sentences


def test_text_of_ones_own_adds_no_licence() -> None:
    assert judge([source("data", "LicenseRef-ours")], Claim(name="x")).result == "LicenseRef-ours"
    both = [source("data", "LicenseRef-ours"), source("base", "MIT")]
    assert judge(both, Claim(name="x")).result == "MIT"


def test_many_files_under_one_choice_of_licences_are_judged_by_the_choice_that_does() -> None:
    """Of 2^40 combinations the first 512 were tried: the base's second choice was never reached."""
    data = [source("data", "MIT OR Apache-2.0", f"file {number}") for number in range(40)]
    found = judge(
        [source("base", "CC-BY-NC-4.0 OR MIT"), *data], Claim(name="x", licence="Apache-2.0")
    )
    assert found.conflicts == ()
