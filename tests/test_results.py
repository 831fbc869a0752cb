"""What fine-tuning found comes back from its files as it was, and tables and pages say it right."""

import ast
import json
import math
import re
import statistics
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import albert_jax.results
from albert_jax.errors import UserError
from albert_jax.results import (
    AVERAGED_TASKS,
    Reference,
    SeedResult,
    TaskResult,
    html,
    load_result,
    markdown,
    save_result,
    text_table,
    write_report,
)

TABLE_9 = "paper, Table 9"
README = "google-research/albert, README"


def trained(score: float, seed: int = 1, metrics: dict | None = None, **fields) -> SeedResult:
    curve = [{"step": step, "loss": 1.0 / step, "score": score - 10 + step / 10} for step in (50, 100)]
    known = dict(
        best_step=100, steps=100, metrics=metrics or {"dev": {"accuracy": score}}, seconds=60.0,
        at_chance=False, stopped="finished", curve=curve,
    )  # fmt: skip
    return SeedResult(seed=seed, score=score, **(known | fields))


def task(*scores: float, **fields) -> TaskResult:
    known = dict(
        task="rte", title="RTE", metric="accuracy", baseline=52.7,
        seeds=[trained(score, number) for number, score in enumerate(scores, 1)],
        references=[Reference(89.2, "xxlarge_v1", TABLE_9)],
    )  # fmt: skip
    return TaskResult(**(known | fields))


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def row(results: list[TaskResult], start: str) -> dict[str, str]:
    """The cells of a row of the Markdown table by their columns' names."""
    header, *body = (
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in markdown(results).splitlines()
        if line.startswith("| ") and "---" not in line
    )
    (found,) = (line for line in body if line[0] == start)
    return dict(zip(header, found, strict=True))


class Tags(HTMLParser):
    """Every tag with its attributes, texts between them, and whether each opened tag is closed in its turn."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("line", "circle"), f"{tag} cannot close itself in HTML"
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.found if tag == name]


# ---- numbers


def test_median_best_and_spread_of_an_odd_count():
    result = task(70.0, 76.0, 72.0)
    assert result.median == 72.0
    assert result.best.seed == 2
    assert result.spread == (70.0, 76.0, pytest.approx(statistics.stdev([70, 76, 72])))
    assert result.seconds == 180.0


def test_median_of_an_even_count_lies_between():
    assert task(70.0, 76.0, 72.0, 73.0).median == 72.5


def test_first_of_equal_seeds_is_best():
    assert task(70.0, 71.0, 71.0).best.seed == 2


def test_one_seed_has_no_spread():
    result = task(70.0)
    assert result.spread == (70.0, 70.0, 0.0)
    assert row([result], "RTE")["spread"] == ""


def test_every_metric_of_every_split_has_its_own_median():
    seeds = [
        trained(80.0, 1, {"dev_matched": {"accuracy": 80.0}, "dev_mismatched": {"accuracy": 83.0}}),
        trained(82.0, 2, {"dev_matched": {"accuracy": 82.0}, "dev_mismatched": {"accuracy": 81.0}}),
        trained(84.0, 3, {"dev_matched": {"accuracy": 84.0}, "dev_mismatched": {"accuracy": 85.0}}),
    ]
    assert task(seeds=seeds).median_metrics == {
        "dev_matched": {"accuracy": 82.0},
        "dev_mismatched": {"accuracy": 83.0},
    }


def test_seeds_without_a_number_are_left_out_and_told_of():
    result = task(math.nan, 70.0, 74.0)
    assert (result.median, result.best.seed, result.spread.lowest) == (72.0, 3, 70.0)
    assert "no number 1 of 3 seeds" in row([result], "RTE")["remark"]


def test_without_any_number_there_is_none():
    result = task(math.nan, math.nan)
    assert math.isnan(result.median) and math.isnan(result.spread.deviation) and result.best.seed == 1
    shown = row([result], "RTE")
    assert (shown["median"], shown["difference"], shown["spread"]) == ("nan", "", "")


def test_without_seeds_there_is_no_best():
    result = task(error="no data")
    assert result.best is None and math.isnan(result.median) and result.seconds == 0.0


# ---- files


def test_a_result_comes_back_as_it_was(tmp_path):
    result = task(70.0, 72.0, details={"config": {"learning_rate": 1e-5, "dims": [1, 2]}, "device": "H100"})
    save_result(result, tmp_path / "new" / "result.json")
    assert load_result(tmp_path / "new" / "result.json") == result
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]


def test_what_json_lacks_becomes_null_and_nan(tmp_path):
    result = task(math.nan, baseline=None, error="lost", details={"highest": math.inf, "range": (1, math.nan)})
    result.seeds[0].curve[0]["loss"] = math.inf
    save_result(result, tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    loaded = load_result(tmp_path / "result.json")
    assert math.isnan(loaded.seeds[0].score) and math.isnan(loaded.seeds[0].curve[0]["loss"])
    assert loaded.baseline is None and loaded.error == "lost"
    assert loaded.details == {"highest": None, "range": [1, None]}


def test_numbers_of_numpy_are_written_as_numbers(tmp_path):
    seed = trained(np.float32(70.5), at_chance=np.bool_(True), best_step=np.int64(100))
    save_result(task(seeds=[seed]), tmp_path / "result.json")
    loaded = load_result(tmp_path / "result.json").seeds[0]
    assert (loaded.score, loaded.at_chance, loaded.best_step) == (70.5, True, 100)


def test_a_failed_save_leaves_the_old_result(tmp_path):
    path = tmp_path / "result.json"
    save_result(task(70.0), path)
    with pytest.raises(TypeError, match="Path"):
        save_result(task(71.0, details={"folder": Path("data")}), path)
    assert load_result(path).median == 70.0
    assert [found.name for found in tmp_path.iterdir()] == ["result.json"]


def test_half_a_surrogate_pair_in_a_name_ends_no_report(tmp_path):
    write_report([task(70.0, title="a\udc80b")], tmp_path)
    assert "a\\udc80b" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/result\.json: cannot be written"):
        save_result(task(70.0), tmp_path / "file" / "result.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("metric"), "metric is missing"),
        (lambda c: c.update(colour="red"), "colour is unknown"),
        (lambda c: c.update(title=3), "title is 3, expected a text"),
        (lambda c: c.update(title=None), "title is None, expected a text"),
        (lambda c: c.update(seeds={}), "seeds is {}, expected a list"),
        (lambda c: c.update(baseline="high"), "baseline is 'high', expected a number"),
        (lambda c: c["seeds"][1].pop("score"), "seeds[1].score is missing"),
        (lambda c: c["seeds"][0].update(score=True), "seeds[0].score is True, expected a number"),
        (lambda c: c["seeds"][0].update(steps=1.5), "seeds[0].steps is 1.5, expected an integer"),
        (lambda c: c["seeds"][0].update(at_chance=0), "seeds[0].at_chance is 0, expected true or false"),
        (lambda c: c["seeds"][0]["metrics"].update(dev=7), "seeds[0].metrics.dev is 7, expected an object"),
        (lambda c: c["seeds"][0]["curve"][1].update(loss="x"), "seeds[0].curve[1].loss is 'x', expected a number"),
        (lambda c: c["references"].append(1), "references[1] is 1, expected an object"),
    ],
)
def test_a_damaged_file_is_named_with_the_field(tmp_path, change, message):
    content = asdict(task(70.0, 72.0))
    change(content)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_result(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"task": "rte", "tit', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "the whole is [], expected an object"),
    ],
)
def test_a_file_that_is_not_ours_is_named(tmp_path, content, message):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{re.escape(message)}"):
        load_result(path)


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(UserError, match=r"result\.json: cannot be read: No such file"):
        load_result(tmp_path / "result.json")


def test_a_report_is_three_files(tmp_path):
    results = [task(70.0, 72.0), task(math.nan, title="Second")]
    write_report(results, tmp_path / "report")
    folder = tmp_path / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert (folder / "report.md").read_text() == markdown(results)
    assert (folder / "report.html").read_text(encoding="utf-8") == html(results)
    written = json.loads((folder / "report.json").read_text())
    assert [entry["title"] for entry in written] == ["RTE", "Second"]
    assert written[1]["seeds"][0]["score"] is None


# ---- the table


def test_a_row_says_what_was_found():
    result = task(70.04, 72.3, 76.0)
    assert cells(text_table([result]).splitlines()[2]) == [
        "RTE", "accuracy", "72.3", "76.0", "3.0", "89.2", "-16.9", "xxlarge_v1", "3", "3m 00s", "baseline 52.7",
    ]  # fmt: skip


@pytest.mark.parametrize(("score", "shown"), [(90.0, "+0.8"), (88.5, "-0.7"), (89.17, "0.0"), (89.2, "0.0")])
def test_differences_have_signs(score, shown):
    assert row([task(score)], "RTE")["difference"] == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(7.2, "7s"), (59.7, "1m 00s"), (727, "12m 07s"), (3599.6, "1h 00m"), (11_100, "3h 05m"), (math.nan, "")],
)
def test_times_are_short(seconds, shown):
    assert row([task(seeds=[trained(70.0, seconds=seconds)])], "RTE")["time"] == shown


def test_seeds_at_chance_are_counted():
    seeds = [trained(52.7, 1, at_chance=True), trained(70.0, 2), trained(71.0, 3)]
    assert row([task(seeds=seeds)], "RTE")["remark"] == "baseline 52.7; at chance 1 of 3 seeds"
    assert row([task(seeds=seeds[:1], baseline=None)], "RTE")["remark"] == "at chance 1 of 1 seed"


def test_columns_are_aligned():
    correlated = trained(5.0, metrics={"dev": {"matthews_correlation": 5.0}})
    results = [
        task(70.0, 72.0, 100.0, references=[]),
        task(seeds=[correlated], title="A longer title", metric="matthews_correlation", baseline=None),
        task(error="gone", title="QQP"),
    ]
    header, rule, first, second, third = text_table(results).splitlines()
    assert set(rule) == {"-"} and len(rule) == len(header)
    for line, column, cell in (
        (first, "median", "72.0"), (first, "best", "100.0"), (first, "seeds", "3"), (first, "time", "3m 00s"),
        (second, "median", "5.0"), (second, "difference", "-84.2"), (second, "seeds", "1"), (third, "paper", "89.2"),
    ):  # fmt: skip
        end = re.search(rf"\b{column}\b", header).end()
        assert line[:end].endswith(f"  {cell}") and line[end : end + 1] in ("", " "), column
    for line, column, cell in (
        (first, "metric", "accuracy"), (second, "metric", "matthews correlation"), (second, "model", "xxlarge_v1"),
        (first, "remark", "baseline 52.7"), (third, "remark", "baseline 52.7; error: gone"),
    ):  # fmt: skip
        assert line[header.index(column) :].startswith(cell), column
    assert all(line == line.rstrip() for line in (header, first, second, third))


def test_other_splits_follow_their_task():
    seed = trained(84.0, metrics={"dev_matched": {"accuracy": 84.0}, "dev_mismatched": {"accuracy": 85.0}})
    _, _, first, second = text_table([task(seeds=[seed], title="MNLI", task="mnli")]).splitlines()
    assert cells(first)[:4] == ["MNLI matched", "accuracy", "84.0", "84.0"]
    assert second.startswith("  mismatched")
    assert cells(second) == ["mismatched", "accuracy", "85.0", "85.0"]


def test_other_metrics_follow_their_task_and_show_the_seed_that_is_best():
    seeds = [
        trained(90.0, 1, {"dev": {"exact": 83.5, "f1": 90.0}}),
        trained(91.0, 2, {"dev": {"exact": 82.5, "f1": 91.0}}),
        trained(89.0, 3, {"dev": {"exact": 81.0, "f1": 89.0}}),
    ]
    _, _, first, second = text_table([task(seeds=seeds, title="SQuAD 1.1", metric="f1")]).splitlines()
    assert cells(first)[:5] == ["SQuAD 1.1", "f1", "90.0", "91.0", "1.0"]
    assert cells(second) == ["exact", "82.5", "82.5", "1.3"]
    assert second.index("exact") == first.index("f1 ") + 2


def test_a_task_that_failed_has_a_row_with_its_error():
    reason = "/data/glue/RTE/train.tsv: no such file,\nand none like train*.tsv; give the folder"
    _, _, line = text_table([task(error=reason, baseline=None)]).splitlines()
    assert cells(line)[-1] == "error: /data/glue/RTE/train.tsv: no such fil..."
    assert "nan" not in line
    assert row([task(error=reason, baseline=None)], "RTE")["remark"].endswith("train\\*.tsv; give the folder")
    assert reason in Tags(html([task(error=reason)])).texts


def test_without_references_nothing_is_compared():
    shown = row([task(70.0, references=[])], "RTE")
    assert (shown["paper"], shown["difference"], shown["model"]) == ("", "", "")
    assert "[^" not in markdown([task(70.0, references=[])])


def test_no_results_make_an_empty_table():
    assert len(text_table([]).splitlines()) == 2
    Tags(html([]))


# ---- the mean of GLUE


def test_mean_is_of_tasks_with_a_result():
    results = [
        task(70.0, 72.0),
        task(60.0, task="cola", title="CoLA", references=[Reference(71.4, "xxlarge_v1", TABLE_9)]),
        task(90.0, task="race", title="RACE"),
        task(task="qqp", title="QQP", error="gone"),
        task(56.3, task="wnli", title="WNLI", references=[]),
    ]
    shown = row(results, "GLUE")
    assert shown["metric"] == "mean of 2 tasks"
    assert (shown["median"], shown["best"], shown["paper"], shown["difference"]) == ("65.5", "66.0", "80.3", "-14.8")
    assert (shown["model"], shown["time"]) == ("xxlarge\\_v1", "3m 00s")
    *_, rule, last = text_table(results).splitlines()
    assert set(rule) == {"-"} and last.startswith("GLUE")


def test_mean_is_compared_only_where_every_task_has_the_model():
    base = task(90.0, task="sst2", title="SST-2", references=[Reference(92.9, "base_v2", README)])
    shown = row([task(70.0), base], "GLUE")
    assert (shown["median"], shown["paper"], shown["model"]) == ("80.0", "", "")
    both = replace(base, references=[*base.references, Reference(96.8, "xxlarge_v1", README)])
    shown = row([task(70.0), both], "GLUE")
    assert (shown["paper"], shown["difference"], shown["model"]) == ("93.0", "-13.0", "xxlarge\\_v1")


@pytest.mark.parametrize("results", [[task(70.0)], [task(70.0), task(71.0)], [task(70.0), task(math.nan, task="cola")]])
def test_there_is_no_mean_of_fewer_than_two_different_tasks(results):
    assert "mean of" not in text_table(results)


def test_averaged_tasks_are_those_of_table_9():
    from albert_jax.tasks.glue import GLUE_TASKS

    assert set(AVERAGED_TASKS) == {name for name, known in GLUE_TASKS.items() if known.published}


# ---- Markdown


def test_sources_are_footnotes_once_each():
    results = [
        task(70.0),
        task(90.0, task="sst2", title="SST-2", references=[Reference(92.9, "base_v2", README)]),
        task(60.0, task="cola", title="CoLA", references=[Reference(71.4, "xxlarge_v1", TABLE_9)]),
    ]
    assert [row(results, title)["paper"] for title in ("RTE", "SST-2", "CoLA")] == ["89.2[^1]", "92.9[^2]", "71.4[^1]"]
    text = markdown(results)
    assert text.count(f"[^1]: {TABLE_9}") == 1 and text.count(f"[^2]: {README}") == 1


def test_markdown_survives_any_name():
    text = markdown([task(70.0, title="a|b <b> *c*\nd")])
    (line,) = (line for line in text.splitlines() if "a\\|b" in line)
    assert line.startswith("| a\\|b &lt;b&gt; \\*c\\* d |")
    lengths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(lengths) == 1


# ---- the page


def test_page_is_well_formed_and_has_a_curve_for_each_seed():
    page = Tags(html([task(70.0, 71.0, 72.0), task(80.0, title="Second"), task(title="Third", error="gone")]))
    assert len(page.of("svg")) == 4  # score and loss of the two tasks that ran
    curves = [curve for curve in page.of("polyline")]
    assert len(curves) == 2 * (3 + 1)
    assert len({curve["style"] for curve in curves}) == 3
    assert len(page.of("circle")) == len(curves)
    assert {"seed 1", "seed 2", "seed 3"} <= set(page.texts)


def test_page_needs_nothing_beside_it():
    page = Tags(html([task(70.0)]))
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe"}
    addresses = [attributes.get(name) for _, attributes in page.found for name in ("src", "href")]
    assert all(address is None or address.startswith("#") for address in addresses)
    assert "@import" not in html([task(70.0)]) and "url(" not in html([task(70.0)])


def test_page_escapes_what_it_shows():
    result = task(
        70.0, task="t", title='<b>"x" & y', metric="<i>", error="<script>alert(1)</script>",
        references=[Reference(80.0, "<u>", "<em>'s")], details={"<s>": "</pre>"},
    )  # fmt: skip
    page = Tags(html([result]))
    assert not {tag for tag, _ in page.found} & {"b", "i", "script", "u", "em", "s"}
    assert '<b>"x" & y' in page.texts and "<script>alert(1)</script>" in page.texts
    assert page.of("svg")[0]["aria-label"].startswith('<b>"x" & y: <i>, percent')


def places(curve: dict) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in curve["points"].split()]


def test_curves_lie_where_the_axes_say():
    curve = [{"step": step, "loss": 1.0, "score": score} for step, score in ((250, 60.0), (500, 80.0), (1000, 70.0))]
    seed = trained(80.0, best_step=500, steps=1000, curve=curve)
    page = Tags(html([task(seeds=[seed], baseline=60.0, references=[Reference(70.0, "base", README)])]))
    (x1, y1), (x2, y2), (x3, y3) = places(page.of("polyline")[0])
    assert x3 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2)
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.1) and y2 < y3 < y1
    best = page.of("circle")[0]
    assert (float(best["cx"]), float(best["cy"])) == (x2, y2)
    levels = [float(line["y1"]) for line in page.of("line") if line["class"] == "level"]
    assert levels == [pytest.approx(y3), pytest.approx(y1)]
    axis = re.findall(
        r'text-anchor="(?:end|middle)">([\d.,]+)<', html([task(seeds=[seed], baseline=None, references=[])])
    )
    assert axis[:5] == ["60", "65", "70", "75", "80"] and "1,000" in axis


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ((70.0, 70.0), ["69.4", "69.6", "69.8", "70.0", "70.2", "70.4", "70.6"]),
        ((0.1, 0.3), ["0.10", "0.15", "0.20", "0.25", "0.30"]),
        ((-3.0, 12.0), ["-5", "0", "5", "10", "15"]),
        ((0.0, 97.0), ["0", "20", "40", "60", "80", "100"]),
    ],
)
def test_ticks_are_round_numbers_around_the_curve(scores, labels):
    curve = [{"step": 10 * n, "loss": math.nan, "score": score} for n, score in enumerate(scores, 1)]
    page = html([task(seeds=[trained(70.0, curve=curve)], baseline=None, references=[])])
    assert re.findall(r'text-anchor="end">([-\d.,]+)<', page) == labels


def test_a_gap_in_a_curve_is_not_bridged():
    values = [3.0, 2.0, math.nan, math.nan, 1.0]
    curve = [{"step": 10 * n, "loss": value, "score": 50.0} for n, value in enumerate(values, 1)]
    page = Tags(html([task(seeds=[trained(50.0, curve=curve)])]))
    score, *loss = map(places, page.of("polyline"))
    assert [len(score), *map(len, loss)] == [5, 2, 2]
    assert loss[1][0] == loss[1][1]  # a single point, drawn as a dot


def test_curves_without_a_number_have_no_chart():
    curve = [{"step": 10, "loss": math.nan, "score": 50.0}]
    page = html([task(seeds=[trained(50.0, curve=curve)])])
    assert len(Tags(page).of("svg")) == 1
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))


def test_labels_of_close_levels_do_not_overlap():
    page = html([task(70.0, baseline=89.0)])
    heights = [float(y) for y in re.findall(r'y="([\d.]+)">(?:paper|baseline)', page)]
    assert len(heights) == 2 and heights[1] - heights[0] >= 12


def test_results_meet_neither_jax_nor_the_models():
    tree = ast.parse(Path(albert_jax.results.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {name for name in imported if name.startswith("albert_jax")} == {"albert_jax.errors"}
    assert not {"jax", "flax", "optax"} & {name.split(".")[0] for name in imported}
