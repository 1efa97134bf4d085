"""The tool reads times from the output of runs, and compares runs of the same round."""

from pathlib import Path
from typing import Any

import pytest

from tests.tools.load import load_tool

tool = load_tool("time_to_accuracy_runs")

OUR_OUTPUT = """\
0.512\tresnext: compiling norm_act, once for this machine
6.000\tresnext20_2x16d (blocks=1-2-3) on tiny train: 400 images to train on, 100 held out; 12 steps on cpu into DIR/run
40.100\tepoch 1  step 4/12  loss 2.1000  187 images/s  data wait 5 %
66.250\tepoch   1  train loss 2.3317 error 90.36 %  held-out loss 2.2974 error 89.00 %  176 images/s, data wait 6 %
126.500\tepoch   2  train loss 2.1791 error 78.12 %  held-out loss 2.2538 error  9.50 %  200 images/s, data wait 3 %
130.750\ttop-1 error 9.50 % (95 % interval 79.02 to 92.24) after the last epoch, which is the best one
"""
METRICS = """\
epoch,step,lr,train_loss,train_error,val_loss,top1_error,top5_error,bad_images
1,6,0.1,2.3,90.36,2.29,89.0,50.0,0
2,12,0.0,2.1,78.12,2.25,9.5,1.0,0
"""
SPEED = """\
epoch,images_per_second,data_wait_share,seconds,peak_memory_mb
1,8.0,0.1,50.0,900
2,7.0,0.2,55.0,900
"""
PEER_OUTPUT = """\
1.000\tsome line of timm
5.500\ttraining begins
66.000\tepoch 1: error 12.34 %, training 55.25 s, evaluation 4.75 s, 384 images
127.000\tepoch 2: error 7.99 %, training 54.75 s, evaluation 5.25 s, 384 images
"""


def make_run(arm: str, number: int, *evaluations: tuple[float, float]) -> Any:
    rows = tuple(
        tool.Evaluation(seconds, epoch, error, float(epoch)) for epoch, (seconds, error) in enumerate(evaluations, 1)
    )
    return tool.Run(arm, number, f"{arm} {number}", tool.Timing(rows, 100.0, 5.0, 80.0, None, 8000))


def test_our_times_come_from_the_output_and_the_logs_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name, text in (("output.txt", OUR_OUTPUT), ("run/metrics.csv", METRICS), ("run/speed.csv", SPEED)):
        (tmp_path / name).write_text(text)
    timing = tool.parse_ours(tmp_path, 131.0)
    assert timing.evaluations == (tool.Evaluation(66.25, 1, 89.0, 10.25), tool.Evaluation(126.5, 2, 9.5, 15.5))
    assert (timing.startup, timing.training) == (6.0, 105.0)
    assert timing.evaluating == 15.5
    assert timing.data_wait == pytest.approx(0.1 * 50 + 0.2 * 55)
    assert timing.images == 8 * 50 + 7 * 55
    assert timing.images_per_second == pytest.approx(785 / 105)


def test_the_times_of_a_peer_come_from_its_lines(tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text(PEER_OUTPUT)
    timing = tool.parse_peer(tmp_path, 128.0)
    assert timing.evaluations == (tool.Evaluation(66.0, 1, 12.34, 4.75), tool.Evaluation(127.0, 2, 7.99, 10.0))
    assert (timing.startup, timing.training, timing.evaluating, timing.data_wait) == (5.5, 110.0, 10.0, None)
    assert timing.images == 768


def test_time_to_an_error_is_that_of_the_first_evaluation_at_or_below_it() -> None:
    timing = make_run("timm", 0, (10, 30), (20, 10.0), (30, 10.5), (40, 8.01)).timing
    assert timing.find_time_to(10.0) == 20
    assert timing.find_time_to(9.0) == 40
    assert timing.find_time_to(9.0, with_evaluations=False) == 36
    assert timing.find_time_to(8.0) is None


def test_runs_are_compared_with_ours_of_the_same_round() -> None:
    runs = [
        make_run("resnext", 0, (10, 9)),
        make_run("timm", 0, (15, 11), (25, 9)),
        make_run("resnext", 1, (20, 9)),
        make_run("timm", 1, (30, 9)),
        make_run("timm", 2, (30, 9)),
    ]
    assert [tool.compare(runs, run, 10.0) for run in runs] == [1.0, 2.5, 1.0, 1.5, None]
    assert tool.compare(runs, runs[1], 8.0) is None
    ours, timm = tool.summarize(runs)
    assert ours == "resnext: 100 images/s; 90 % in 0.2 min; 92 % not reached"
    assert timm == "timm: 100 images/s; 90 % in 0.5 min, 2.00 times ours (1.50 to 2.50); 92 % not reached"


def test_a_line_a_run_is_written_with_its_command(tmp_path: Path) -> None:
    runs = [make_run("resnext", 0, (10, 9)), make_run("timm", 0, (20, 9))]
    load_tool("measure_time_to_accuracy").write_runs(runs, tmp_path / "x.csv")
    header, ours, timm = (line.split(",") for line in (tmp_path / "x.csv").read_text().splitlines())
    assert dict(zip(header, timm, strict=True))["times_ours_to_90"] == "2.0"
    assert dict(zip(header, timm, strict=True))["seconds_to_92"] == ""
    assert (ours[-1], timm[-1]) == ("resnext 0", "timm 0")
