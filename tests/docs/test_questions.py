"""What new users ask is answered within two clicks from the front page."""

from pathlib import Path

import pytest
import yaml

QUESTIONS = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))


def test_there_are_twenty_questions():
    """And more."""
    assert len(QUESTIONS) >= 20


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_within_two_clicks(pages, question):
    """A link to the page, then its heading in the list of contents; or two links, the second to the place itself."""
    page, _, anchor = QUESTIONS[question].partition("#")
    page = f"docs/{page}"
    assert not anchor or anchor in pages.anchors(page)
    first = {path for path, _ in pages.links("README.md")}
    second = {link for one in first if one in pages.texts for link in pages.links(one)}
    assert page in first or (page, anchor) in second
