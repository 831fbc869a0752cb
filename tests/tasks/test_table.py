"""A user's own files become examples of every kind, and what is wrong or unclear in them is named."""

import json

import pytest

from albert_jax.errors import UserError
from albert_jax.tasks.examples import ChoiceExample, TaggingExample, TextExample
from albert_jax.tasks.squad import GoldAnswer, SquadExample
from albert_jax.tasks.table import Columns, read_table


def write(folder, name: str, content: str | list):
    path = folder / name
    path.write_bytes(
        content.encode() if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content).encode()
    )
    return path


def test_labels_are_found_in_the_training_file_and_hold_for_the_others(tmp_path):
    train = read_table(write(tmp_path, "train.csv", "text,label\nfine,good\nbad,awful\nso so, good \n"))
    assert (train.kind, train.labels) == ("classification", ("awful", "good"))
    assert train.examples[2] == TextExample("line-4", "so so", None, 1)
    dev = read_table(write(tmp_path, "dev.csv", "text,label\nx,good\n"), like=train)
    assert dev.labels == train.labels and dev.examples[0].label == 1
    with pytest.raises(
        UserError, match=r"dev\.csv, line 3, column 'label': unknown label 'fine'; the training file has"
    ):
        read_table(write(tmp_path, "dev.csv", "text,label\nx,good\ny,fine\n"), like=train)
    test = read_table(write(tmp_path, "test.csv", "text\nx\n"), like=train, labelled=False)
    assert test.examples == [TextExample("line-2", "x", None, None)]


def test_the_formats_give_the_same_pairs(tmp_path):
    csv = 'id,text,pair,label\na,"one, ""two""",x,no\nb,"lines\nlines",y,yes\n'
    rows = [
        dict(id="a", text='one, "two"', pair="x", label="no"),
        dict(id="b", text="lines\nlines", pair="y", label="yes"),
    ]
    table = read_table(write(tmp_path, "x.csv", csv))
    assert table.examples == [
        TextExample("a", 'one, "two"', "x", 0),
        TextExample("b", "lines\nlines", "y", 1),
    ]
    assert read_table(write(tmp_path, "x.jsonl", rows)) == table
    assert read_table(write(tmp_path, "x.json", rows)) == table
    assert read_table(write(tmp_path, "x.json", "\ufeff\n " + json.dumps(rows, indent=2))) == table
    tsv = read_table(
        write(tmp_path, "x.tsv", '\ufeffid\ttext\tpair\tlabel\r\na\tone, "two"\t"x\tno\r\nb\t\ty\tyes\r\n')
    )
    assert tsv.examples == [TextExample("a", 'one, "two"', '"x', 0), TextExample("b", "", "y", 1)]


def test_items_of_a_json_list_are_named_by_their_place(tmp_path):
    path = write(tmp_path, "x.json", json.dumps([dict(text="a", label=0), dict(text="b", label=1)]))
    assert [e.id for e in read_table(path).examples] == ["item-1", "item-2"]


def test_line_numbers_count_the_lines_of_quoted_cells(tmp_path):
    path = write(tmp_path, "x.csv", 'text,label\n"a\nb\nc",yes\nshort\n')
    with pytest.raises(
        UserError, match=r"x\.csv, line 5: 1 cells, expected 2 as in the header \(text, label\); a cell"
    ):
        read_table(path)


def test_long_cells_are_read(tmp_path):
    path = write(tmp_path, "x.csv", f"text,label\n{'a ' * 100_000},yes\nb,no\n")
    assert len(read_table(path).examples[0].text) == 200_000


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["0", "1", "1"], "classification"), (["0.5", "1", "2"], "regression"), (["1", "b", "2"], "classification")],
)
def test_kinds_are_inferred_where_clear(tmp_path, values, kind):
    table = read_table(write(tmp_path, "x.tsv", "text\tlabel\n" + "".join(f"t\t{value}\n" for value in values)))
    assert table.kind == kind
    if kind == "regression":
        assert [e.label for e in table.examples] == [0.5, 1.0, 2.0] and table.labels == ()


def test_whole_numbers_could_be_either_and_must_be_stated(tmp_path):
    path = write(tmp_path, "x.tsv", "text\tlabel\na\t10\nb\t9\nc\t2\n")
    with pytest.raises(
        UserError, match=r"column 'label': 3 different whole numbers, which could be classes or amounts"
    ):
        read_table(path)
    assert read_table(path, kind="classification").labels == ("2", "9", "10")
    assert [e.label for e in read_table(path, kind="regression").examples] == [10.0, 9.0, 2.0]
    with pytest.raises(UserError, match=r"line 3, column 'label': 'x', expected a number"):
        read_table(write(tmp_path, "x.tsv", "text\tlabel\na\t1\nb\tx\n"), kind="regression")


def test_labels_of_json_may_be_numbers_or_truth_values(tmp_path):
    rows = [dict(text="a", label=True), dict(text="b", label=False)]
    assert read_table(write(tmp_path, "x.jsonl", rows)).labels == ("false", "true")
    rows = [dict(text="a", label=1), dict(text="b", label=0)]
    assert read_table(write(tmp_path, "x.jsonl", rows)).labels == ("0", "1")


def test_several_labels(tmp_path):
    table = read_table(write(tmp_path, "x.csv", "text,labels\na,red|blue\nb,\nc, red \n"))
    assert (table.kind, table.labels) == ("multi_label", ("blue", "red"))
    assert [e.label for e in table.examples] == [(0, 1), (), (1,)]
    rows = [dict(text="a", labels=["red", "blue"]), dict(text="b", labels=[]), dict(text="c", labels=["red"])]
    assert [e.label for e in read_table(write(tmp_path, "x.jsonl", rows)).examples] == [(0, 1), (), (1,)]
    with pytest.raises(UserError, match=r"line 1, column 'labels': 'red', expected a list of texts"):
        read_table(write(tmp_path, "x.jsonl", [dict(text="a", labels="red")]))


def test_words_with_tags(tmp_path):
    rows = [dict(words=["New York", "is"], tags=["B-LOC", "O"])]
    table = read_table(write(tmp_path, "x.jsonl", rows))
    assert (table.kind, table.labels) == ("tagging", ("B-LOC", "O"))
    assert table.examples == [TaggingExample("line-1", ("New York", "is"), ("B-LOC", "O"))]
    same = read_table(write(tmp_path, "x.tsv", "words\ttags\nhe is\tO O\n"), like=table)
    assert same.examples == [TaggingExample("line-2", ("he", "is"), ("O", "O"))]
    with pytest.raises(UserError, match=r"line 2, column 'tags': 1 tags for 2 words"):
        read_table(write(tmp_path, "x.tsv", "words\ttags\nhe is\tO\n"))
    with pytest.raises(UserError, match=r"line 2, column 'tags': unknown label 'X'"):
        read_table(write(tmp_path, "x.tsv", "words\ttags\nhe\tX\n"), like=table)


def test_choices_as_columns_or_a_list(tmp_path):
    expected = [ChoiceExample("line-2", "The text.", "Why?", ("a", "b", "c"), 2)]
    path = write(tmp_path, "x.csv", "text,question,choice_1,choice_0,choice_10,label\nThe text.,Why?,b,a,c,C\n")
    assert read_table(path).examples == expected
    rows = [dict(id="line-2", text="The text.", question="Why?", choices=["a", "b", "c"], label=2)]
    table = read_table(write(tmp_path, "x.jsonl", rows))
    assert (table.kind, table.examples) == ("multiple_choice", expected)
    unlabelled = [dict(text="t", choices=["a", "b"])]
    assert read_table(write(tmp_path, "y.jsonl", unlabelled), labelled=False).examples[0].label is None
    with pytest.raises(UserError, match=r"column 'label': '3', expected the right choice's number from 0 to 2, or its"):
        read_table(write(tmp_path, "x.jsonl", [rows[0] | {"label": 3}]))
    with pytest.raises(UserError, match=r"column 'choices': 1 choices, expected at least 2"):
        read_table(write(tmp_path, "x.jsonl", [rows[0] | {"choices": ["a"], "label": 0}]))


def test_questions_with_answers_in_a_context(tmp_path):
    header = "question,context,answer,answer_start\n"
    table = read_table(write(tmp_path, "x.csv", f"{header}Who?,Anna and Anna,Anna,9\nWho?,Bob,Bob,\nWhen?,Bob,,\n"))
    assert table.kind == "question_answering"
    assert table.examples == [
        SquadExample("line-2", "", "Who?", "Anna and Anna", (GoldAnswer("Anna", 9),), False),
        SquadExample("line-3", "", "Who?", "Bob", (GoldAnswer("Bob", 0),), False),
        SquadExample("line-4", "", "When?", "Bob", (), True),
    ]
    rows = [dict(question="Who?", context="Anna and Bob", answers=dict(text=["Anna", "Bob"], answer_start=[0, 9]))]
    (found,) = read_table(write(tmp_path, "x.jsonl", rows)).examples
    assert found.answers == (("Anna", 0), ("Bob", 9))
    asked = read_table(write(tmp_path, "y.csv", "question,context\nWho?,Bob\n"), labelled=False)
    assert asked.examples == [SquadExample("line-2", "", "Who?", "Bob", (), False)]
    for row, message in (
        ("Who?,Bob,Anna,", r"line 2, column 'answer': 'Anna' does not stand in the context"),
        ("Who?,Anna and Bob,Bob,0", r"line 2, column 'answer_start': at 0 stands 'Ann', expected 'Bob'"),
        ("Who?,Bob,Bob,x", r"line 2, column 'answer_start': 'x', expected a whole number"),
    ):
        with pytest.raises(UserError, match=message):
            read_table(write(tmp_path, "x.csv", f"{header}{row}\n"))
    with pytest.raises(UserError, match=r"column 'answers': .*, expected .* of one length"):
        read_table(write(tmp_path, "x.jsonl", [rows[0] | {"answers": ["Anna"]}]))


def test_columns_may_have_other_names(tmp_path):
    path = write(tmp_path, "x.csv", "review,stars\na,1.5\nb,5\n")
    with pytest.raises(UserError, match=r"the columns \(review, stars\) do not tell what the examples are for"):
        read_table(path)
    with pytest.raises(UserError, match=r"line 1: no column text, label for regression, found review, stars"):
        read_table(path, kind="regression")
    table = read_table(path, columns=Columns(text="review", label="stars"))
    assert (table.kind, table.examples[1]) == ("regression", TextExample("line-3", "b", None, 5.0))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", r"x\.txt: the name ends in '\.txt', expected one of \.csv, \.tsv, \.jsonl, \.json"),
        ("x.csv", "", r"x\.csv, line 1: expected a header"),
        ("x.csv", "text,label\n", r"x\.csv: no rows below the header"),
        ("x.jsonl", "", r"x\.jsonl: no rows"),
        ("x.csv", "text,text\na,b\n", r"line 1: column text occurs more than once"),
        ("x.csv", "text,label\na,b\n\nc,d\n", r"line 3: empty"),
        ("x.csv", "text,label\na,b\nc,\n", r"line 3, column 'label': '', expected a label"),
        ("x.csv", "text,label\na,b\nc,b\n", r"column 'label': 'b' on every line; two labels are needed"),
        ("x.csv", 'text,label\n"a,b\n', r"line 2: not csv"),
        ("x.csv", "id,text,label\n1,a,b\n1,c,d\n", r"line 3, column 'id': '1' is the id of line 2 too"),
        ("x.jsonl", "[1]\n", r"line 1: list, expected an object"),
        ("x.json", "[]", r"x\.json: no rows"),
        ("x.json", '[{"text": "a", "label": "x"},\n 1]', r"x\.json, item 2: int, expected an object"),
        ("x.json", "[\n{]", r"x\.json: not JSON"),
        (
            "x.json",
            '{\n"data": []}',
            r"x\.json, line 1: not JSON .*; a \.json holds an object on each line, or one list",
        ),
        (
            "x.json",
            '[{"text": "a", "label": "x"},\n\n{"label": "y"}]',
            r"item 2, column 'text': nothing there; the item",
        ),
        (
            "x.json",
            '[{"id": 1, "text": "a", "label": "x"}, {"id": 1, "label": "y"}]',
            r"item 2, column 'id': '1' is the id of item 1",
        ),
        ("x.json", '[{"question": "a", "context": "x"}]', r"x\.json, item 1: no column answer for question_answering"),
        ("x.jsonl", '{"text": "a"\n', r"line 1: not JSON"),
        ("x.jsonl", '{"text": "a", "label": "x"}\n{"label": "y"}\n', r"line 2, column 'text': nothing there"),
        (
            "x.jsonl",
            '{"text": 1, "label": "x"}\n{"text": "", "label": "y"}\n',
            r"line 1, column 'text': int 1, expected",
        ),
    ],
)
def test_a_fault_names_file_line_and_column(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path, name, content))


def test_contradictory_settings_are_refused(tmp_path):
    table = read_table(write(tmp_path, "x.csv", "text,label\na,x\nb,y\n"))
    with pytest.raises(UserError, match="give either these or that"):
        read_table(tmp_path / "x.csv", kind="regression", like=table)
    with pytest.raises(UserError, match="kind is 'ranking', expected one of classification"):
        read_table(tmp_path / "x.csv", kind="ranking")
